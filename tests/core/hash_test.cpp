#include "qlora/core/hash.h"

#include <gtest/gtest.h>

#include <set>

#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace qlora {
namespace {

std::string hash_of(std::string_view text) {
    Xxh3 hash;
    hash.update(text);
    return hash.hex();
}

std::string hashed_pattern(std::size_t size) {
    std::string text(size, '\0');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 131 % 251);
    return text;
}

// Expected digests: `xxhsum -H2` 0.8.1.
TEST(Xxh3, agrees_with_the_reference_program) {
    EXPECT_EQ(Xxh3().hex(), "99aa06d3014798d86001c324468d497f");
    EXPECT_EQ(hash_of("abc"), "06b05ab6733a618578af5f94892f3950");
    EXPECT_EQ(hash_of(hashed_pattern(100'000)), "e71185eadf3c8e17e870c3db450b9247");
}

TEST(Xxh3, pieces_do_not_matter) {
    const std::string text = hashed_pattern(5000);
    for (const std::size_t piece : {1U, 7U, 64U, 255U, 256U, 1023U, 4999U, 5000U}) {
        Xxh3 hash;
        for (std::size_t i = 0; i < text.size(); i += piece) {
            hash.update("");
            hash.update(std::string_view(text).substr(i, piece));
        }
        EXPECT_EQ(hash.hex(), hash_of(text)) << piece;
    }
}

TEST(Xxh3, hex_does_not_end_the_stream) {
    Xxh3 hash;
    hash.update("ab");
    EXPECT_EQ(hash.hex(), hash.hex());
    hash.update("c");
    EXPECT_EQ(hash.hex(), hash_of("abc"));
}

TEST(Xxh3, every_flipped_bit_shows) {
    std::string text = hashed_pattern(300);
    std::set<std::string> seen{hash_of(text)};
    for (std::size_t bit = 0; bit < text.size() * 8; ++bit) {
        text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << bit % 8));
        EXPECT_TRUE(seen.insert(hash_of(text)).second) << bit;
        text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << bit % 8));
    }
}

TEST(HashFile, equals_the_hash_of_the_content) {
    const test::TempDir folder;
    for (const std::size_t size : {0U, 1U, 1U << 20, (1U << 20) + 1, 3'000'000U}) {
        test::write_file(folder / "a", hashed_pattern(size));
        EXPECT_EQ(hash_file(folder / "a"), hash_of(hashed_pattern(size))) << size;
    }
}

TEST(HashFile, faults_name_the_file) {
    const test::TempDir folder;
    for (const auto& path : {folder / "missing", folder.path()}) {
        try {
            hash_file(path);
            FAIL() << path;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::kInput);
            EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos);
        }
    }
}

}  // namespace
}  // namespace qlora
