#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>

namespace qlora {

/// What differs once a file has been replaced or written to. Times are nanoseconds since 1970.
struct FileIdentity {
    std::uint64_t device = 0, inode = 0, size = 0;
    std::int64_t modified = 0;
    std::int64_t changed = 0;  ///< of the inode: unlike `modified` no program can set it back

    bool operator==(const FileIdentity&) const = default;
};
/// Of the file that has this name now; nothing when there is none.
std::optional<FileIdentity> identify(const std::filesystem::path& path);

/// A whole regular file mapped read-only. An empty file is an empty span. The bytes are only as stable as the
/// file: one that another process shortens while it is mapped ends in SIGBUS, so files of a run are replaced,
/// never rewritten.
class MappedFile {
  public:
    /// Throws Error (exit code 2) when the file cannot be opened or is not a regular file, ResourceError when
    /// there is no address space left for it.
    explicit MappedFile(const std::filesystem::path& path);
    ~MappedFile();
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&& other) noexcept;

    const std::filesystem::path& path() const { return path_; }
    std::span<const std::byte> bytes() const { return {data_, size_}; }

    /// Of the file as it was when it was opened.
    const FileIdentity& identity() const { return identity_; }

    /// Asks the kernel to begin reading a range that will soon be touched. A range outside the file is cut to
    /// it.
    void prefetch(std::size_t offset, std::size_t length) const;
    /// Drops the whole pages inside `[offset, offset + length)` from this process; they are read again when
    /// touched. Pages that reach past the range stay. A range outside the file is cut to it.
    void release(std::size_t offset, std::size_t length) const;

  private:
    std::filesystem::path path_;
    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
    FileIdentity identity_;
};

}  // namespace qlora
