#include "merge_files.h"

#include "qlora/core/atomic_file.h"
#include "qlora/core/json.h"
#include "qlora/core/mapped_file.h"

namespace qlora::adapters {
namespace {

constexpr const char* kConfigFile = "config.json";
constexpr const char* kIndexFile = "model.safetensors.index.json";

/// transformers 5 writes `dtype`, version 4 `torch_dtype`; the old key is read by both.
void set_dtype(Json& config, const std::string& dtype) {
    bool known = false;
    for (const char* key : {"dtype", "torch_dtype"}) {
        if (!config.contains(key)) continue;
        config[key] = dtype;
        known = true;
    }
    if (!known) config["torch_dtype"] = dtype;
}

}  // namespace

void copy_file_synced(const std::filesystem::path& file, const std::filesystem::path& folder) {
    const MappedFile source(file);
    AtomicFile copy(folder / file.filename(), source.bytes().size());
    copy.write(source.bytes());
    copy.commit();
}

void write_model_config(const std::filesystem::path& model, MergeDtype dtype, bool untied,
                        const std::filesystem::path& folder) {
    const Json base = read_json_file(model / kConfigFile);
    Json config = base;
    if (dtype != MergeDtype::kAuto) set_dtype(config, FieldType<MergeDtype>::write(dtype).get<std::string>());
    if (untied) config["tie_word_embeddings"] = false;
    if (config == base) {
        copy_file_synced(model / kConfigFile, folder);
    } else {
        write_file_atomically(folder / kConfigFile, config.dump(2) + "\n");
    }
}

void write_shard_index(const std::filesystem::path& model, const MergePlan& plan,
                       const std::filesystem::path& folder) {
    if (!std::filesystem::exists(model / kIndexFile)) return;
    Json index = read_json_file(model / kIndexFile);
    Json weight_map = Json::object();
    std::map<std::string, std::string> sorted;
    std::int64_t values = 0;
    for (const PlannedShard& shard : plan.shards) {
        for (const PlannedTensor& tensor : shard.tensors) {
            sorted[tensor.spec.name] = shard.file;
            values += element_count(tensor.spec);
        }
    }
    for (const auto& [name, file] : sorted) weight_map[name] = file;
    Json& metadata = index["metadata"];
    if (!metadata.is_object()) metadata = Json::object();
    if (metadata.contains("total_parameters")) metadata["total_parameters"] = values;
    metadata["total_size"] = plan.bytes;
    index["weight_map"] = weight_map;
    write_file_atomically(folder / kIndexFile, index.dump(2) + "\n");
}

}  // namespace qlora::adapters
