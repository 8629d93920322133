#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "qlora/adapters/lora_config.h"
#include "qlora/nn/linear_adapter.h"
#include "qlora/nn/row_norms.h"

namespace qlora::adapters {

/// Initial values of A and B as peft's reset_lora_parameters defines their distribution, drawn from (seed,
/// site).
void initialize_lora(at::Tensor& a, at::Tensor& b, std::int64_t rank, InitLoraWeights kind,
                     std::uint64_t seed, std::uint32_t site);

/// What a LoraLayer has besides A and B.
struct LoraExtras {
    bool bias = false;  ///< lora_bias
    /// use_dora: the layer's frozen weight, which must outlive the adapter and be there when it is
    /// initialized. Not together with a bias.
    const nn::Weight* dora_base = nullptr;
};

/// Low-rank adapter of one linear (Hu et al. 2021): y += scaling * ((dropout(x) A^T) B^T + bias). A [r, in],
/// B [out, r], fp32. With DoRA (Liu et al. 2024) the rows of W + scaling * B A are divided by their norms,
/// which are constants for the gradient, and multiplied by a trained magnitude [out].
class LoraLayer final : public nn::LinearAdapter {
  public:
    // Names of its tensors, as in PEFT's files.
    static constexpr const char* kA = "lora_A.weight";
    static constexpr const char* kB = "lora_B.weight";
    static constexpr const char* kBias = "lora_B.bias";
    static constexpr const char* kMagnitude = "lora_magnitude_vector";

    /// `site` numbers the adapters of a model: it names the dropout mask and the initial values' random
    /// stream.
    LoraLayer(std::int64_t in_features, std::int64_t out_features, std::int64_t r, double scaling,
              double dropout, std::uint32_t site, const LoraExtras& extras = {});

    /// Initial values as peft's reset_lora_parameters defines their distribution, drawn from (seed, site);
    /// the magnitude is that of the rows then.
    void initialize(InitLoraWeights kind, std::uint64_t seed);

    ops::LinearUpdate update(const nn::ForwardContext& context) const override;
    bool folds() const override { return dropout_ == 0.0; }
    void add_delta(at::Tensor& rows, std::int64_t first) const override;
    std::vector<at::Tensor> matrices() const override { return {a_, b_}; }
    /// scaling * B A, or the rows of it that belong to the rows `b`.
    static at::Tensor delta(const at::Tensor& b, const at::Tensor& a, double scaling);
    /// A, B, the bias, the magnitude; the latter two if they are there.
    std::vector<std::pair<std::string, at::Tensor>> parameters() const override;

    const at::Tensor& a() const { return a_; }
    const at::Tensor& b() const { return b_; }
    const at::Tensor& bias() const { return bias_; }            ///< [out] or undefined
    const at::Tensor& magnitude() const { return magnitude_; }  ///< [out] or undefined
    double scaling() const { return scaling_; }

  private:
    at::Tensor a_;
    at::Tensor b_;
    at::Tensor bias_;
    at::Tensor magnitude_;
    std::optional<nn::RowNorms> norms_;  ///< with DoRA
    double scaling_;
    double dropout_;
    std::uint32_t site_;
};

}  // namespace qlora::adapters
