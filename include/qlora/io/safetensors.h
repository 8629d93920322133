#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "qlora/core/mapped_file.h"
#include "qlora/io/dtype.h"

namespace qlora::io {

/// One tensor of a file: what the header says and where its bytes lie (inside the mapping; never copied).
struct TensorView {
    std::string name;
    DType dtype = DType::kF32;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> bytes;

    std::int64_t elements() const;
};

/// A memory-mapped safetensors file, checked completely when opened: header length and syntax, no duplicate
/// names, offsets contiguous without gap, overlap or trailing bytes, sizes that match dtype and shape,
/// checked arithmetic. Format: huggingface/safetensors README. Throws CheckpointError that names the file and
/// the tensor.
class SafetensorsFile {
  public:
    explicit SafetensorsFile(const std::filesystem::path& path);
    ~SafetensorsFile();
    SafetensorsFile(SafetensorsFile&&) noexcept;
    SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

    const std::filesystem::path& path() const;
    /// In file order.
    const std::vector<TensorView>& tensors() const;
    /// nullptr when absent.
    const TensorView* find(const std::string& name) const;
    /// Throws CheckpointError when absent.
    const TensorView& at(const std::string& name) const;
    const std::map<std::string, std::string>& metadata() const;
    /// Gives the pages of a tensor back to the kernel once it has been used (they stay readable).
    void release(const TensorView& tensor) const;
    /// Asks the kernel to begin reading the first `bytes` of a tensor.
    void prefetch(const TensorView& tensor, std::size_t bytes) const;
    /// Of the file as it was opened.
    const FileIdentity& identity() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

struct TensorSpec {
    std::string name;
    DType dtype = DType::kF32;
    std::vector<std::int64_t> shape;
};

/// Streams a safetensors file: all specs first, then each tensor's bytes in that same order. Nothing appears
/// under the final name until `finish` has flushed, synced and renamed it; a writer that is destroyed before
/// leaves nothing.
class SafetensorsWriter {
  public:
    SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs,
                      std::map<std::string, std::string> metadata);
    ~SafetensorsWriter();
    SafetensorsWriter(const SafetensorsWriter&) = delete;
    SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

    /// May be called several times for one tensor; bytes must add up to what the spec says.
    void append(std::span<const std::byte> bytes);
    void finish();

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// In the order of the safetensors package (dtype, widest first, then name): a file written so has its bytes.
std::vector<TensorSpec> sorted_for_safetensors(std::vector<TensorSpec> specs);

}  // namespace qlora::io
