#pragma once

#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/io/safetensors.h"
#include "qlora/kernels/float16.h"
#include "support/temp_dir.h"

namespace qlora::test {

/// One tensor of a model folder, changed at will before it is written.
struct TinyTensor {
    io::DType dtype = io::DType::kF32;
    std::vector<std::int64_t> shape;
    std::vector<float> values;

    /// Little-endian bytes; dtypes other than F32, F16 and BF16 are zeros of their size.
    std::vector<std::byte> bytes() const {
        std::vector<std::byte> out(values.size() * io::size_of(dtype));
        for (std::size_t i = 0; i < values.size(); ++i) {
            const std::uint16_t half = dtype == io::DType::kF16 ? kernels::float_to_f16(values[i])
                                                                : kernels::float_to_bf16(values[i]);
            if (dtype == io::DType::kF32) std::memcpy(out.data() + 4 * i, &values[i], 4);
            if (dtype == io::DType::kF16 || dtype == io::DType::kBF16)
                std::memcpy(out.data() + 2 * i, &half, 2);
        }
        return out;
    }
};

/// A small random model folder with config.json and model.safetensors, without a tokenizer. Same options,
/// same bytes. Weights are scaled by their fan-in; norms and biases are not left at 1 and 0, so that every
/// tensor counts.
struct TinyModel {
    std::string model_type = "llama";
    std::int64_t vocab = 97, hidden = 32, intermediate = 40, layers = 2, heads = 4, kv_heads = 2,
                 head_dim = 8;
    bool tie = false;
    bool bias = false;  ///< llama: attention and MLP; qwen3: attention; qwen2 has q, k, v biases in any case
    std::int64_t sliding_window = 0;  ///< mistral, qwen2, qwen3; 0 = none
    io::DType dtype = io::DType::kF32;
    unsigned seed = 1;

    Json config() const {
        Json out = {{"model_type", model_type},
                    {"vocab_size", vocab},
                    {"hidden_size", hidden},
                    {"intermediate_size", intermediate},
                    {"num_hidden_layers", layers},
                    {"num_attention_heads", heads},
                    {"num_key_value_heads", kv_heads},
                    {"head_dim", head_dim},
                    {"max_position_embeddings", 256},
                    {"rms_norm_eps", 1e-5},
                    {"hidden_act", "silu"},
                    {"tie_word_embeddings", tie},
                    {"eos_token_id", 2},
                    {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 10000.0}}}};
        if (model_type == "llama" || model_type == "qwen3") out["attention_bias"] = bias;
        if (model_type == "llama") out["mlp_bias"] = bias;
        if (model_type != "llama")
            out["sliding_window"] = sliding_window > 0 ? Json(sliding_window) : Json(nullptr);
        if (model_type == "qwen2" || model_type == "qwen3") {
            out["use_sliding_window"] = sliding_window > 0;
            out["max_window_layers"] = 1;  // the first layer stays full attention
        }
        return out;
    }

    std::map<std::string, TinyTensor> tensors() const {
        std::map<std::string, TinyTensor> out;
        std::mt19937 engine(seed);
        const bool query_bias = model_type == "qwen2" || bias;
        add_matrix(out, "model.embed_tokens", vocab, hidden, false, engine);
        for (std::int64_t i = 0; i < layers; ++i) {
            const std::string layer = "model.layers." + std::to_string(i) + ".";
            add_norm(out, layer + "input_layernorm", hidden, engine);
            add_matrix(out, layer + "self_attn.q_proj", heads * head_dim, hidden, query_bias, engine);
            add_matrix(out, layer + "self_attn.k_proj", kv_heads * head_dim, hidden, query_bias, engine);
            add_matrix(out, layer + "self_attn.v_proj", kv_heads * head_dim, hidden, query_bias, engine);
            add_matrix(out, layer + "self_attn.o_proj", hidden, heads * head_dim, bias, engine);
            if (model_type == "qwen3") {
                add_norm(out, layer + "self_attn.q_norm", head_dim, engine);
                add_norm(out, layer + "self_attn.k_norm", head_dim, engine);
            }
            add_norm(out, layer + "post_attention_layernorm", hidden, engine);
            const bool mlp_bias = model_type == "llama" && bias;
            add_matrix(out, layer + "mlp.gate_proj", intermediate, hidden, mlp_bias, engine);
            add_matrix(out, layer + "mlp.up_proj", intermediate, hidden, mlp_bias, engine);
            add_matrix(out, layer + "mlp.down_proj", hidden, intermediate, mlp_bias, engine);
        }
        add_norm(out, "model.norm", hidden, engine);
        if (!tie) add_matrix(out, "lm_head", vocab, hidden, false, engine);
        return out;
    }

    void write(const std::filesystem::path& folder) const { write(folder, config(), tensors()); }

    static void write(const std::filesystem::path& folder, const Json& config,
                      const std::map<std::string, TinyTensor>& tensors) {
        write_file(folder / "config.json", config.dump(2));
        std::vector<io::TensorSpec> specs;
        for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype, tensor.shape});
        io::SafetensorsWriter writer(folder / "model.safetensors", specs, {{"format", "pt"}});
        for (const auto& [name, tensor] : tensors) writer.append(tensor.bytes());
        writer.finish();
    }

  private:
    using Tensors = std::map<std::string, TinyTensor>;

    void add_matrix(Tensors& out, const std::string& path, std::int64_t rows, std::int64_t columns,
                    bool with_bias, std::mt19937& engine) const {
        std::normal_distribution<float> normal(0.0F, 1.0F / std::sqrt(static_cast<float>(columns)));
        out[path + ".weight"] = {dtype, {rows, columns}, draw(rows * columns, normal, engine)};
        std::normal_distribution<float> small(0.0F, 0.1F);
        if (with_bias) out[path + ".bias"] = {dtype, {rows}, draw(rows, small, engine)};
    }
    void add_norm(Tensors& out, const std::string& path, std::int64_t size, std::mt19937& engine) const {
        std::uniform_real_distribution<float> around_one(0.5F, 1.5F);
        out[path + ".weight"] = {dtype, {size}, draw(size, around_one, engine)};
    }
    template <class Distribution>
    static std::vector<float> draw(std::int64_t count, Distribution& distribution, std::mt19937& engine) {
        std::vector<float> out(static_cast<std::size_t>(count));
        for (float& value : out) value = distribution(engine);
        return out;
    }
};

}  // namespace qlora::test
