#include "qlora/models/folder_writer.h"

#include <map>

#include "qlora/core/atomic_file.h"
#include "qlora/core/disk_space.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/core/lfs_pointer.h"
#include "qlora/core/mapped_file.h"
#include "qlora/io/model_folder.h"

namespace qlora::models {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexFile = io::kModelIndexFile;
/// Room for headers, index and what a file system takes itself.
constexpr std::uint64_t kSpareBytes = 16 << 20;

}  // namespace

std::int64_t element_count(const io::TensorSpec& spec) {
    std::int64_t values = 1;
    for (const std::int64_t size : spec.shape) values *= size;
    return values;
}

std::int64_t byte_count(const std::vector<ShardSpecs>& shards) {
    std::int64_t bytes = 0;
    for (const ShardSpecs& shard : shards) {
        for (const io::TensorSpec& spec : shard.tensors)
            bytes += element_count(spec) * static_cast<std::int64_t>(io::size_of(spec.dtype));
    }
    return bytes;
}

fs::path new_output_folder(const fs::path& output) {
    fs::path out = fs::absolute(output).lexically_normal();
    if (!out.has_filename()) out = out.parent_path();
    std::error_code error;
    if (!fs::exists(out, error)) return out;
    if (!fs::is_directory(out, error))
        throw ConfigError("--output: " + out.string() + " is a file; give a new folder");
    if (!fs::is_empty(out, error) || error) {
        throw ConfigError("--output: " + out.string() +
                          " is not empty; choose another folder or remove it first");
    }
    return out;
}

void require_space(const fs::path& output, std::int64_t bytes, const CompanionFiles& files) {
    std::uint64_t needed = kSpareBytes + static_cast<std::uint64_t>(bytes);
    std::error_code error;
    for (const auto& [name, text] : files.written) needed += text.size();
    for (const fs::path& file : files.copied) {
        const std::uintmax_t size = fs::file_size(file, error);
        if (!error) needed += size;
    }
    require_free_space(output, needed);
}

void write_companions(const CompanionFiles& files, const fs::path& folder) {
    for (const fs::path& file : files.copied) {
        if (!files.written.contains(file.filename().string())) copy_file_synced(file, folder);
    }
    for (const auto& [name, text] : files.written) {
        const fs::path file = folder / name;
        if (fs::create_directories(file.parent_path())) sync_folder(folder);
        write_file_atomically(file, text);
    }
}

void copy_file_synced(const fs::path& file, const fs::path& folder) {
    const MappedFile source(file);
    const std::string pointer =
        fault_of_lfs_pointer({reinterpret_cast<const char*>(source.bytes().data()), source.bytes().size()});
    if (!pointer.empty()) throw CheckpointError(file.string() + ": " + pointer);
    AtomicFile copy(folder / file.filename(), source.bytes().size());
    copy.write(source.bytes());
    copy.commit();
}

void write_shard_index(const fs::path& model, const std::vector<ShardSpecs>& shards,
                       std::optional<std::int64_t> parameters, const fs::path& folder) {
    if (!fs::exists(model / kIndexFile)) return;
    Json index = read_json_file(model / kIndexFile);
    Json weight_map = Json::object();
    std::map<std::string, std::string> sorted;
    for (const ShardSpecs& shard : shards) {
        for (const io::TensorSpec& spec : shard.tensors) sorted[spec.name] = shard.file;
    }
    for (const auto& [name, file] : sorted) weight_map[name] = file;
    Json& metadata = index["metadata"];
    if (!metadata.is_object()) metadata = Json::object();
    if (parameters && metadata.contains("total_parameters")) metadata["total_parameters"] = *parameters;
    metadata["total_size"] = byte_count(shards);
    index["weight_map"] = weight_map;
    write_file_atomically(folder / kIndexFile, index.dump(2) + "\n");
}

}  // namespace qlora::models
