// Models whose linears have DoRA, IA3 or a bias in their adapters: memory options change no bit.
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "adapters/ia3_layer.h"
#include "ops/reference.h"
#include "qlora/adapters/lora.h"
#include "qlora/data/batch_plan.h"
#include "qlora/models/base_loader.h"
#include "qlora/train/train_step.h"
#include "support/tiny_model.h"

namespace qlora {
namespace {

using nn::Recomputation;
using test::TempDir;
using test::TinyModel;

enum class Kind { kDora, kIa3, kBias };

struct ScaledCase {
    const char* name;
    Kind kind;
    double dropout = 0.0;
    at::ScalarType compute = at::kFloat;
    bool quantized = true;
    TinyModel tiny = {.bias = true};
};

std::ostream& operator<<(std::ostream& out, const ScaledCase& value) {
    return out << value.name;
}

std::unique_ptr<nn::LinearAdapter> ia3_of(const nn::Linear& linear, std::uint32_t site) {
    const auto ends_with = [&](const char* name) { return linear.path().ends_with(name); };
    if (!ends_with("k_proj") && !ends_with("v_proj") && !ends_with("down_proj")) return nullptr;
    auto out = std::make_unique<adapters::Ia3Layer>(linear.in_features(), linear.out_features(),
                                                    ends_with("down_proj"));
    out->draw(3, site);
    return out;
}

std::unique_ptr<nn::LinearAdapter> lora_of(const nn::Linear& linear, const ScaledCase& value,
                                           std::uint32_t site) {
    adapters::LoraExtras extras;
    if (value.kind == Kind::kDora) extras.dora_base = &linear.weight();
    extras.bias = value.kind == Kind::kBias;
    auto out = std::make_unique<adapters::LoraLayer>(linear.in_features(), linear.out_features(), 3, 1.5,
                                                     value.dropout, site, extras);
    out->initialize(adapters::InitLoraWeights::kRandom, 3);
    const at::AutoGradMode off(false);
    for (const auto& [name, tensor] : out->parameters()) {
        // A magnitude that is not the norm, a bias that is not 0.
        at::Tensor changed = tensor;
        if (tensor.dim() == 1) changed.add_(ops::test::gaussian(tensor.sizes(), site) * 0.1);
    }
    return out;
}

struct ScaledOutcome {
    double loss = 0.0;
    std::vector<at::Tensor> gradients;
};

ScaledOutcome outcome_of(const ScaledCase& value, Recomputation level, bool keeps_dense) {
    const TempDir dir;
    value.tiny.write(dir.path());
    quant::QuantConfig quantization;
    quantization.load_in_4bit = value.quantized;
    const auto model = models::load_base(io::Checkpoint(dir.path()), models::load_decoder_spec(dir.path()),
                                         {.quantization = quantization, .compute_dtype = value.compute});
    std::vector<at::Tensor> parameters;
    std::uint32_t site = 0;
    for (nn::Linear* linear : model->linears()) {
        ++site;
        std::unique_ptr<nn::LinearAdapter> adapter =
            value.kind == Kind::kIa3 ? ia3_of(*linear, site) : lora_of(*linear, value, site);
        if (!adapter) continue;
        for (const auto& [name, tensor] : adapter->parameters()) parameters.push_back(tensor);
        linear->set_adapter(std::move(adapter));
    }
    model->keep_dense(keeps_dense);
    std::vector<data::Example> rows(3);
    for (std::size_t row = 0; row < rows.size(); ++row) {
        for (std::size_t i = 0; i < 9 + 7 * row; ++i) {
            rows[row].ids.push_back(static_cast<tokenizer::TokenId>((5 + 13 * row + 17 * i) % 97));
            rows[row].supervised.push_back(i > 4 ? 1 : 0);
        }
    }
    const data::StepPlan plan{.micro_batches = {{0, 1}, {2}}};
    const nn::ForwardContext context{.training = true, .recomputation = level, .seed = 4, .micro_step = 6};
    ScaledOutcome out{.loss = train::accumulate_gradients(*model, rows, plan, context, 1.0, {}).loss,
                      .gradients = {}};
    for (const at::Tensor& parameter : parameters) out.gradients.push_back(parameter.grad());
    return out;
}

void expect_same(const ScaledOutcome& found, const ScaledOutcome& expected) {
    EXPECT_EQ(found.loss, expected.loss);
    ASSERT_EQ(found.gradients.size(), expected.gradients.size());
    for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
        ASSERT_TRUE(found.gradients[i].defined() && expected.gradients[i].defined()) << "parameter " << i;
        EXPECT_TRUE(expected.gradients[i].any().item<bool>()) << "parameter " << i;
        EXPECT_TRUE(found.gradients[i].equal(expected.gradients[i])) << "parameter " << i;
    }
}

class ScaledLinears : public testing::TestWithParam<ScaledCase> {};
INSTANTIATE_TEST_SUITE_P(
    Methods, ScaledLinears,
    testing::Values(ScaledCase{"dora", Kind::kDora}, ScaledCase{"dora_dropout", Kind::kDora, 0.2},
                    ScaledCase{"dora_bf16", Kind::kDora, 0.0, at::kBFloat16},
                    ScaledCase{"dora_dropout_bf16", Kind::kDora, 0.2, at::kBFloat16, false},
                    ScaledCase{"dora_qwen3", Kind::kDora, 0.0, at::kFloat, false, {.model_type = "qwen3"}},
                    ScaledCase{"ia3", Kind::kIa3},
                    ScaledCase{"ia3_bf16", Kind::kIa3, 0.0, at::kBFloat16, false},
                    ScaledCase{"bias_of_the_adapter", Kind::kBias},
                    ScaledCase{"bias_of_the_adapter_dropout", Kind::kBias, 0.2}),
    [](const auto& chosen) { return chosen.param.name; });

TEST_P(ScaledLinears, recomputation_and_kept_weights_change_no_bit) {
    const ScaledOutcome plain = outcome_of(GetParam(), Recomputation::kNone, false);
    ASSERT_GT(plain.loss, 0.0);
    expect_same(outcome_of(GetParam(), Recomputation::kNone, true), plain);
    for (const Recomputation level : {Recomputation::kMlp, Recomputation::kLayers}) {
        for (const bool keeps : {false, true}) expect_same(outcome_of(GetParam(), level, keeps), plain);
    }
}

}  // namespace
}  // namespace qlora
