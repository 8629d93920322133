#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qlora {

/// Writes a file so that its final name holds either the old content or the whole new one, whatever happens:
/// the bytes go to `.tmp-<pid>-<n>` in the same folder, and `commit` syncs, renames and syncs the folder. One
/// that is destroyed before `commit` removes its temporary file; only a killed process leaves one behind. A
/// full disk or quota is a ResourceError with the bytes needed and free, as is an input/output error of the
/// disk; anything else a CheckpointError.
class AtomicFile {
  public:
    /// `expected_bytes`, where known, is checked against the free space before anything is written.
    explicit AtomicFile(std::filesystem::path path, std::optional<std::uint64_t> expected_bytes = {});
    ~AtomicFile();
    AtomicFile(const AtomicFile&) = delete;
    AtomicFile& operator=(const AtomicFile&) = delete;

    const std::filesystem::path& path() const { return path_; }
    std::uint64_t bytes_written() const { return written_; }

    void write(std::span<const std::byte> bytes);
    void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
    /// Once; after it (or after a failure) the object is only good for destruction.
    void commit();

  private:
    void flush();
    void write_through(std::span<const std::byte> bytes);
    [[noreturn]] void fail(const std::string& action, int error) const;

    std::filesystem::path path_;
    std::filesystem::path temporary_;  ///< empty once renamed
    std::optional<std::uint64_t> expected_bytes_;
    std::vector<std::byte> buffer_;  ///< collects small writes
    std::uint64_t written_ = 0;
    int fd_ = -1;
};

/// The whole of `text` under `path`, or an exception and the old file.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// Makes the names in a folder (new, renamed, removed) survive a power loss. Throws as AtomicFile does.
void sync_folder(const std::filesystem::path& folder);

}  // namespace qlora
