#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qlora/nn/forward_context.h"
#include "qlora/nn/parameter.h"

namespace qlora::adapters {

/// What PEFT's prompt_encoder is made of: rows of an embedding, which a bidirectional LSTM, then linears with
/// an activation between them turn into what stands before each sequence. Shapes alone.
struct PromptEncoderShape {
    struct Lstm {
        std::int64_t hidden = 0;  ///< of each direction
        std::int64_t layers = 1;
        double dropout = 0.0;  ///< between its layers
    };
    enum class Activation { kRelu, kTanh };
    struct Linears {
        std::string module;                ///< "mlp_head", "transform"
        std::vector<std::int64_t> widths;  ///< in, .., out
        Activation activation = Activation::kRelu;
    };

    std::int64_t tokens = 0;
    std::int64_t width = 0;  ///< of a row of the embedding
    std::optional<Lstm> lstm = {};
    std::optional<Linears> linears = {};

    /// Of one token's result.
    std::int64_t columns() const { return linears ? linears->widths.back() : width; }
    /// Whether what is trained is what is saved.
    bool is_embedding() const { return !linears; }

    struct Tensor {
        std::string key;  ///< as in PEFT's model: "prompt_encoder.default.mlp_head.0.weight"
        std::vector<std::int64_t> sizes;
        double bound = 0.0;  ///< starts uniform in +-bound; 0: normal, of deviation 1
        bool decays = true;  ///< no bias
    };
    /// In PEFT's order.
    std::vector<Tensor> tensors() const;
    /// Of the file, under the key `prompt_embeddings`.
    std::vector<std::int64_t> saved_sizes() const { return {tokens, columns()}; }
};

/// PROMPT_TUNING: rows of the model's own width.
PromptEncoderShape prompt_embedding(std::int64_t tokens, std::int64_t hidden_size);
/// P_TUNING by encoder_reparameterization_type (Liu et al. 2021).
PromptEncoderShape p_tuning_mlp(std::int64_t tokens, std::int64_t hidden_size, std::int64_t encoder_hidden);
PromptEncoderShape p_tuning_lstm(std::int64_t tokens, std::int64_t hidden_size, std::int64_t encoder_hidden,
                                 std::int64_t encoder_layers, double dropout);
/// PREFIX_TUNING without and with prefix_projection: keys and values of all layers.
PromptEncoderShape prefix_embedding(std::int64_t tokens, std::int64_t layers, std::int64_t kv_size);
PromptEncoderShape prefix_projection(std::int64_t tokens, std::int64_t layers, std::int64_t kv_size,
                                     std::int64_t encoder_hidden);

/// One such network, in fp32.
class PromptEncoder {
  public:
    static constexpr const char* kSavedKey = "prompt_embeddings";

    /// Starts as torch starts its modules, with numbers that depend on the seed alone.
    PromptEncoder(PromptEncoderShape shape, std::uint64_t seed);

    const PromptEncoderShape& shape() const { return shape_; }
    /// [tokens, columns] with its graph; dropout where `context` trains.
    at::Tensor forward(const nn::ForwardContext& context) const;

    /// Other starts: the embedding's rows [tokens, width]; PEFT's "zero", which makes all results zeros.
    void set_embedding(const at::Tensor& rows);
    void set_results_to_zero();

    std::vector<nn::Parameter> parameters() const;
    /// What PEFT saves: `forward` without dropout, under kSavedKey.
    nn::Parameter saved() const;
    void to(at::Device device);

  private:
    const at::Tensor& tensor(const std::string& name) const;
    at::Tensor lstm(at::Tensor x, const nn::ForwardContext& context) const;

    PromptEncoderShape shape_;
    std::vector<nn::Parameter> parameters_;
};

}  // namespace qlora::adapters
