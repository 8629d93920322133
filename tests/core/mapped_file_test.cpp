#include "qlora/core/mapped_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace qlora {
namespace {

using test::TempDir;
using test::write_file;

std::string text_of(const MappedFile& file) {
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

/// How many pages of a mapping are in this process' memory, from its own page table (bit 63: present).
std::size_t present_pages(std::span<const std::byte> bytes) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const int map = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    std::size_t present = 0;
    for (std::size_t offset = 0; offset < bytes.size(); offset += page) {
        const auto address = reinterpret_cast<std::uintptr_t>(bytes.data() + offset);
        std::uint64_t entry = 0;
        if (::pread(map, &entry, sizeof entry, static_cast<off_t>(address / page * sizeof entry)) ==
            sizeof entry) {
            present += entry >> 63;
        }
    }
    ::close(map);
    return present;
}

void touch(std::span<const std::byte> bytes) {
    volatile std::byte last{};
    for (std::size_t i = 0; i < bytes.size(); i += 512) last = bytes[i];
    (void)last;
}

TEST(MappedFile, shows_the_bytes_of_the_file) {
    const TempDir folder;
    write_file(folder / "a", std::string("one\0two", 7));
    const MappedFile file(folder / "a");
    EXPECT_EQ(text_of(file), std::string("one\0two", 7));
    EXPECT_EQ(file.path(), folder / "a");
    file.prefetch(3, 2);
    file.prefetch(0, 1000);
    file.prefetch(7, 1);
    EXPECT_EQ(text_of(file), std::string("one\0two", 7));
}

TEST(MappedFile, empty_file_is_an_empty_span) {
    const TempDir folder;
    write_file(folder / "empty", "");
    const MappedFile file(folder / "empty");
    EXPECT_TRUE(file.bytes().empty());
    file.prefetch(0, 100);
    file.release(0, 100);
}

TEST(MappedFile, identity_tells_a_file_from_its_successor) {
    const TempDir folder;
    write_file(folder / "a", "first");
    const MappedFile file(folder / "a");
    EXPECT_EQ(identify(folder / "a"), file.identity());
    EXPECT_EQ(identify(folder / "none"), std::nullopt);
    // Same size and time stamp, another file.
    const auto time = std::filesystem::last_write_time(folder / "a");
    write_file(folder / "b", "other");
    std::filesystem::rename(folder / "b", folder / "a");
    std::filesystem::last_write_time(folder / "a", time);
    ASSERT_TRUE(identify(folder / "a"));
    EXPECT_EQ(identify(folder / "a")->size, file.identity().size);
    EXPECT_NE(identify(folder / "a"), file.identity());
    MappedFile moved(folder / "a");
    const FileIdentity before = moved.identity();
    EXPECT_EQ(MappedFile(std::move(moved)).identity(), before);
}

TEST(MappedFile, move_hands_the_mapping_on) {
    const TempDir folder;
    write_file(folder / "a", "first");
    write_file(folder / "b", "second");
    MappedFile a(folder / "a");
    MappedFile b(std::move(a));
    EXPECT_EQ(text_of(b), "first");
    MappedFile c(folder / "b");
    c = std::move(b);
    EXPECT_EQ(text_of(c), "first");
    EXPECT_EQ(c.path(), folder / "a");
    MappedFile& self = c;
    c = std::move(self);
    EXPECT_EQ(text_of(c), "first");
}

TEST(MappedFile, content_outlives_the_name) {
    const TempDir folder;
    write_file(folder / "a", "kept");
    const MappedFile file(folder / "a");
    std::filesystem::remove(folder / "a");
    EXPECT_EQ(text_of(file), "kept");
}

TEST(MappedFile, faults_name_the_file) {
    const TempDir folder;
    ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
    std::filesystem::create_symlink("nowhere", folder / "dangling");
    for (const auto& path : {folder / "missing", folder.path(), folder / "fifo", folder / "dangling"}) {
        try {
            const MappedFile file(path);
            FAIL() << path << " was mapped";
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::kInput);
            EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
        }
    }
}

TEST(MappedFile, release_drops_whole_pages_only_and_they_stay_readable) {
    const TempDir folder;
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    std::string content(page * 8 + 100, ' ');
    for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>('a' + i % 23);
    write_file(folder / "a", content);
    const MappedFile file(folder / "a");
    if (::madvise(const_cast<std::byte*>(file.bytes().data()), content.size(), MADV_NOHUGEPAGE) != 0)
        errno = 0;

    touch(file.bytes());
    ASSERT_EQ(present_pages(file.bytes()), 9U);
    file.release(1, page - 1);  // not one whole page inside
    EXPECT_EQ(present_pages(file.bytes()), 9U);
    file.release(page / 2, page * 2);  // page 1 whole, pages 0 and 2 in part
    EXPECT_EQ(present_pages(file.bytes().subspan(0, page)), 1U);
    EXPECT_EQ(present_pages(file.bytes().subspan(page, page)), 0U);
    EXPECT_EQ(present_pages(file.bytes().subspan(2 * page, page)), 1U);
    file.release(7 * page, 10 * page);  // cut to the file; its last, short page counts as whole
    EXPECT_EQ(present_pages(file.bytes().subspan(7 * page)), 0U);
    file.release(content.size() + page, page);
    file.release(0, static_cast<std::size_t>(-1));
    EXPECT_EQ(present_pages(file.bytes()), 0U);
    EXPECT_EQ(text_of(file), content);
}

}  // namespace
}  // namespace qlora
