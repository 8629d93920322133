#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace qlora {

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

    /// Asks the kernel to read ahead generously.
    void advise_sequential() const;
    /// Drops the whole pages inside `[offset, offset + length)` from this process; they are read again when
    /// touched. Pages that reach past the range stay. A range outside the file is cut to it.
    void release(std::size_t offset, std::size_t length) const;

  private:
    std::filesystem::path path_;
    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace qlora
