#include "merge_files.h"

#include "qlora/core/atomic_file.h"
#include "qlora/core/json.h"
#include "qlora/models/folder_writer.h"

namespace qlora::adapters {
namespace {

constexpr const char* kConfigFile = "config.json";

/// transformers 5 writes `dtype`, version 4 `torch_dtype`; the old key is read by both.
void set_dtype(Json& config, const std::string& dtype) {
    bool known = false;
    for (const char* key : {"dtype", "torch_dtype"}) {
        if (config.contains("text_config") && config["text_config"].contains(key))
            config["text_config"][key] = dtype;
        if (!config.contains(key)) continue;
        config[key] = dtype;
        known = true;
    }
    if (!known) config["torch_dtype"] = dtype;
}

}  // namespace

void write_model_config(const std::filesystem::path& model, MergeDtype dtype, bool untied,
                        const std::filesystem::path& folder) {
    const Json base = read_json_file(model / kConfigFile);
    Json config = base;
    if (dtype != MergeDtype::kAuto) set_dtype(config, FieldType<MergeDtype>::write(dtype).get<std::string>());
    if (untied) config["tie_word_embeddings"] = false;
    config.erase("quantization_config");  // what is merged is dense
    if (config == base) {
        models::copy_file_synced(model / kConfigFile, folder);
    } else {
        write_file_atomically(folder / kConfigFile, config.dump(2) + "\n");
    }
}

}  // namespace qlora::adapters
