#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "qlora/io/safetensors.h"

namespace qlora::io {

/// A model folder: `model.safetensors`, or `model.safetensors.index.json` with its shards. Tensors by name.
/// An index wins; one that does not name a `model.safetensors` beside it is refused, because either could be
/// meant. The index may name plain file names only, and it must agree exactly with the shards. Symbolic links
/// are the user's own and are followed. A folder without either is refused as `fault_of_model_folder` says.
/// Throws CheckpointError with all faults.
class Checkpoint {
  public:
    explicit Checkpoint(const std::filesystem::path& folder);

    const std::filesystem::path& folder() const { return folder_; }
    /// All tensor names, sorted.
    const std::vector<std::string>& names() const { return names_; }
    bool contains(const std::string& name) const;
    const TensorView& at(const std::string& name) const;
    void release(const std::string& name) const;

    /// Shard files in order of their names, for tools that keep the layout.
    const std::vector<SafetensorsFile>& shards() const { return shards_; }

    /// Hex XXH3-128 over the tensors sorted by name (name, dtype, shape, bytes): independent of the sharding.
    /// Hashed are the number of tensors, then of each: length and bytes of its name, length and bytes of its
    /// dtype's name, rank, dimensions, length and bytes of its data. All numbers are 8 bytes, little-endian.
    /// `visit` sees each tensor while its pages are at hand. Without it the tensors are read once only.
    std::string fingerprint(const std::function<void(const TensorView&)>& visit = {}) const;

    /// Checkpoints from this size on are worth the file that spares a second start the reading.
    static constexpr std::uint64_t kWorthKeeping = std::uint64_t{512} << 20;
    /// The same, taken from `file` when that was written for exactly these shards (by size, inode and times);
    /// else computed and written there. A file that is damaged or of other shards is replaced; one that
    /// cannot be written is done without. Checkpoints of less than `least` bytes are only computed.
    std::string fingerprint_kept_in(const std::filesystem::path& file,
                                    std::uint64_t least = kWorthKeeping) const;

    /// What the metadata of all shards say alike under a key.
    std::optional<std::string> metadata(const std::string& key) const;

  private:
    std::filesystem::path folder_;
    std::vector<SafetensorsFile> shards_;
    std::map<std::string, std::pair<std::size_t, const TensorView*>> by_name_;
    std::vector<std::string> names_;
    mutable std::string fingerprint_;  ///< empty until it is known
};

}  // namespace qlora::io
