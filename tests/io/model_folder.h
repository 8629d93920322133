#pragma once

#include <map>
#include <string>
#include <vector>

#include "io/samples.h"
#include "support/temp_dir.h"

namespace qlora::io::test {

/// A model in three shards, or the same in one file.
struct ModelFolder {
    qlora::test::TempDir dir;

    static std::string shard(int number) {
        return "model-0000" + std::to_string(number) + "-of-00003.safetensors";
    }
    static constexpr const char* kIndex = "model.safetensors.index.json";

    /// Tensors of one shard; each tensor of the model has its own bytes, wherever it lies.
    static std::vector<TensorSpec> tensors(int number) {
        const std::string n = std::to_string(number);
        return {{"layers." + n + ".q.weight", DType::kF32, {4, 3}},
                {"layers." + n + ".norm.weight", DType::kBF16, {4}}};
    }

    void write_shard(int number) { write_sample(dir / shard(number), tensors(number), 10 * number); }

    void write_shards() {
        for (int number = 1; number <= 3; ++number) write_shard(number);
        write_index(weight_map());
    }

    void write_single() {
        std::vector<TensorSpec> all;
        std::vector<std::vector<std::byte>> bytes;
        for (int number = 3; number >= 1; --number) {  // in another order than the shards
            for (const TensorSpec& spec : tensors(number)) {
                const auto place = static_cast<unsigned>(spec.dtype == DType::kBF16);
                all.push_back(spec);
                bytes.push_back(sample_bytes(byte_size(spec), 10 * number + place));
            }
        }
        SafetensorsWriter writer(dir / "model.safetensors", all, {{"format", "pt"}});
        for (const auto& tensor : bytes) writer.append(tensor);
        writer.finish();
    }

    static std::map<std::string, std::string> weight_map() {
        std::map<std::string, std::string> map;
        for (int number = 1; number <= 3; ++number) {
            for (const TensorSpec& spec : tensors(number)) map[spec.name] = shard(number);
        }
        return map;
    }

    void write_index(const std::map<std::string, std::string>& map) {
        std::string json;
        for (const auto& [tensor, file] : map) {
            json += (json.empty() ? "" : ",\n    ") + ("\"" + tensor + "\": \"" + file + "\"");
        }
        write_index_text("{\n  \"metadata\": {\"total_size\": 168},\n  \"weight_map\": {\n    " + json +
                         "\n  }\n}\n");
    }

    void write_index_text(const std::string& text) { qlora::test::write_file(dir / kIndex, text); }
};

}  // namespace qlora::io::test
