// Factors on outputs and inputs of linears (DoRA, IA3), and the adapter's bias.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include "ops/reference.h"
#include "qlora/kernels/philox.h"
#include "qlora/ops/decoder_nodes.h"
#include "qlora/ops/mlp_node.h"

namespace qlora::ops {
namespace {

using namespace test;

// Sums of at most 96 fp32 products, a low-rank term and a factor of order 1.
constexpr double kScaleBound = 4e-6;
constexpr std::int64_t kScaleTokens = 13, kScaleIn = 40, kScaleRank = 3;
constexpr double kScaleScaling = 0.75;
const std::vector<std::int64_t> kOuts = {24, 9, 16};

enum class Form { kApart, kStacked, kFolded };

/// What one part of a group has besides its frozen weight.
struct PartOf {
    bool low_rank = true, adapter_bias = false, bias = false;
    bool dora = false, ia3 = false;
};

struct ScaledCase {
    const char* name;
    std::vector<PartOf> parts;
    double dropout = 0.0;
    double multiplier = 1.0;
    bool residual = true;
};

std::ostream& operator<<(std::ostream& out, const ScaledCase& value) {
    return out << value.name;
}

at::Tensor factors_of_dropout(at::IntArrayRef sizes, const DropoutSite& site) {
    at::Tensor out = at::zeros(sizes, at::kDouble);
    for (std::int64_t i = 0; i < out.numel(); ++i) {
        const bool keep = kernels::dropout_keep(site.seed, site.step, site.site,
                                                static_cast<std::uint64_t>(i), static_cast<float>(site.p));
        out.mutable_data_ptr<double>()[i] = keep ? 1.0 / (1.0 - site.p) : 0.0;
    }
    return out;
}

/// A group of linears, as ours and as the formula. Inputs: x, residual, then of each part what it has: bias,
/// A, B, the adapter's bias, the value of its scale.
class ScaledGroup {
  public:
    explicit ScaledGroup(const ScaledCase& value) : case_(value) {
        inputs.push_back(gaussian({kScaleTokens, kScaleIn}, 1));
        inputs.push_back(gaussian({kScaleTokens, columns()}, 2));
        for (std::size_t i = 0; i < value.parts.size(); ++i) {
            const PartOf& part = value.parts[i];
            const std::int64_t out = kOuts[i];
            const std::uint64_t seed = 10 * (i + 1);
            weights_.emplace_back(gaussian({out, kScaleIn}, seed) * 0.2);
            norms_.push_back(gaussian({out}, seed + 1).abs() + 0.5);
            if (part.bias) inputs.push_back(gaussian({out}, seed + 2));
            if (part.low_rank) {
                inputs.push_back(gaussian({kScaleRank, kScaleIn}, seed + 3) * 0.2);
                inputs.push_back(gaussian({out, kScaleRank}, seed + 4) * 0.2);
            }
            if (part.adapter_bias) inputs.push_back(gaussian({out}, seed + 5));
            if (part.dora || part.ia3) inputs.push_back(gaussian({out}, seed + 6) + 1.0);
        }
    }

    std::int64_t columns() const {
        std::int64_t sum = 0;
        for (std::size_t i = 0; i < case_.parts.size(); ++i) sum += kOuts[i];
        return sum;
    }
    DropoutSite site(std::size_t i) const {
        return {.p = case_.dropout, .seed = 5, .step = 3, .site = static_cast<std::uint32_t>(i)};
    }

    Projections projections(const std::vector<at::Tensor>& in, Form form) const {
        Projections out;
        std::size_t next = 2;
        std::vector<at::Tensor> rows;
        for (std::size_t i = 0; i < case_.parts.size(); ++i) {
            const PartOf& part = case_.parts[i];
            Projection linear{.weight = &weights_[i], .trained_weight = {}, .bias = {}};
            at::Tensor matrix = weights_[i].dense();
            if (part.bias) linear.bias = in[next++];
            if (part.low_rank) {
                linear.update.low_rank =
                    LowRank{.a = in[next], .b = in[next + 1], .scaling = kScaleScaling, .dropout = site(i)};
                matrix = matrix + at::mm(in[next + 1].detach(), in[next].detach()) * kScaleScaling;
                next += 2;
            }
            if (part.adapter_bias) linear.update.low_rank->bias = in[next++];
            if (part.dora) linear.update.output_scale = OutputScale{.value = in[next++], .norm = norms_[i]};
            if (part.ia3) linear.update.output_scale = OutputScale{.value = in[next++]};
            rows.push_back(form == Form::kFolded ? matrix : weights_[i].dense());
            out.parts.push_back(std::move(linear));
        }
        if (form != Form::kApart) {
            out.weights = Stacked{.matrix = [made = at::cat(rows, 0)] { return made; },
                                  .folded = form == Form::kFolded};
        }
        return out;
    }

    /// In fp64.
    at::Tensor formula(const std::vector<at::Tensor>& in) const {
        std::vector<at::Tensor> columns;
        std::size_t next = 2;
        const at::Tensor& x = in[0];
        for (std::size_t i = 0; i < case_.parts.size(); ++i) {
            const PartOf& part = case_.parts[i];
            const at::Tensor w = weights_[i].dense().to(at::kDouble).t();
            const at::Tensor dropped = x * factors_of_dropout(x.sizes(), site(i));
            at::Tensor low, bias, factor;
            if (part.bias) bias = in[next++];
            if (part.low_rank) {
                low = at::mm(at::mm(dropped, in[next].t()), in[next + 1].t());
                next += 2;
            }
            if (part.adapter_bias) low = low + in[next++];
            if (part.dora) factor = in[next++] / norms_[i].to(at::kDouble);
            if (part.ia3) factor = in[next++];
            at::Tensor y = at::mm(part.dora ? dropped : x, w);
            if (low.defined()) y = y + kScaleScaling * low;
            if (part.ia3 && bias.defined()) y = y + bias;
            if (factor.defined()) y = y * factor;
            if (part.dora) y = y + at::mm(x - dropped, w);
            if (!part.ia3 && bias.defined()) y = y + bias;
            columns.push_back(y);
        }
        const at::Tensor y = case_.multiplier * at::cat(columns, 1);
        // Without a residual its gradient is still asked for.
        return case_.residual ? in[1] + y : y + 0 * in[1];
    }

    at::Tensor ours(const std::vector<at::Tensor>& in, Form form) const {
        const at::Tensor y = project_residual(in[0], case_.residual ? in[1] : at::Tensor(),
                                              projections(in, form), case_.multiplier);
        return case_.residual ? y : y + 0 * in[1];
    }

    std::vector<at::Tensor> inputs;

  private:
    const ScaledCase& case_;
    std::vector<DenseWeight> weights_;
    std::vector<at::Tensor> norms_;
};

class OutputScales : public testing::TestWithParam<ScaledCase> {};
INSTANTIATE_TEST_SUITE_P(
    Parts, OutputScales,
    testing::Values(
        ScaledCase{"dora", {{.dora = true}}}, ScaledCase{"dora_with_bias", {{.bias = true, .dora = true}}},
        ScaledCase{"dora_group", {{.dora = true}, {.low_rank = false}, {.bias = true, .dora = true}}},
        ScaledCase{"dora_and_plain", {{.dora = true}, {.bias = true}, {.dora = true}}},
        ScaledCase{"dora_dropout", {{.bias = true, .dora = true}}, 0.3},
        ScaledCase{"dora_dropout_group",
                   {{.bias = true, .dora = true}, {.low_rank = false, .bias = true}, {.dora = true}},
                   0.3},
        ScaledCase{"dora_multiplier", {{.bias = true, .dora = true}}, 0.0, 0.25},
        ScaledCase{"dora_dropout_multiplier", {{.dora = true}}, 0.3, 2.0, false},
        ScaledCase{"ia3", {{.low_rank = false, .bias = true, .ia3 = true}}},
        ScaledCase{"ia3_group",
                   {{.low_rank = false},
                    {.low_rank = false, .ia3 = true},
                    {.low_rank = false, .bias = true, .ia3 = true}}},
        ScaledCase{"ia3_alone", {{.low_rank = false, .ia3 = true}}, 0.0, 1.0, false},
        ScaledCase{"adapter_bias", {{.adapter_bias = true, .bias = true}}},
        ScaledCase{"adapter_bias_dropout", {{.adapter_bias = true}, {}, {.adapter_bias = true}}, 0.3},
        ScaledCase{"adapter_bias_under_a_factor", {{.adapter_bias = true, .bias = true, .ia3 = true}}}),
    [](const auto& chosen) { return chosen.param.name; });

TEST_P(OutputScales, equal_the_formula_in_fp64) {
    const ScaledGroup group(GetParam());
    for (const Form form : {Form::kApart, Form::kStacked, Form::kFolded}) {
        if (form == Form::kFolded && GetParam().dropout > 0) continue;
        expect_equal_with_gradients(
            group.inputs, [&](const auto& in) { return group.ours(in, form); },
            [&](const auto& in) { return group.formula(in); }, kScaleBound);
    }
}

TEST_P(OutputScales, without_gradients_the_result_is_the_same) {
    const ScaledGroup group(GetParam());
    std::vector<at::Tensor> trained;
    for (const at::Tensor& input : group.inputs) trained.push_back(input.clone().requires_grad_());
    const at::Tensor with = group.ours(trained, Form::kStacked).detach();
    const at::AutoGradMode off(false);
    EXPECT_TRUE(group.ours(group.inputs, Form::kStacked).equal(with));
}

TEST_P(OutputScales, in_bf16_each_rounding_is_one_of_the_result) {
    const ScaledGroup group(GetParam());
    std::vector<at::Tensor> rounded = group.inputs;
    for (std::size_t i = 0; i < 2; ++i) rounded[i] = rounded[i].to(at::kBFloat16);
    std::vector<at::Tensor> ours, exact;
    for (const at::Tensor& input : rounded) {
        ours.push_back(input.clone().requires_grad_());
        exact.push_back(input.to(at::kDouble).requires_grad_());
    }
    const at::Tensor y = group.ours(ours, Form::kStacked), z = group.formula(exact);
    EXPECT_EQ(y.scalar_type(), at::kBFloat16);
    // The base's result, without its bias, y, its multiple and the sum with the residual are rounded, each to
    // half a spacing of its largest value, which a factor of up to 4 makes larger.
    EXPECT_LE(difference(y.detach(), z.detach()), 8 * kBf16Rounding);
    const at::Tensor g = gaussian(y.sizes(), 7).to(at::kBFloat16);
    torch::autograd::backward({y}, {g});
    torch::autograd::backward({z}, {g.to(at::kDouble)});
    for (std::size_t i = 0; i < ours.size(); ++i)
        EXPECT_LE(difference(ours[i].grad(), exact[i].grad(), 0.1), 8 * kBf16Rounding) << "input " << i;
}

/// y = W (l * x) + b, alone or behind an activation.
TEST(InputScale, equals_the_formula_in_fp64) {
    const DenseWeight weight(gaussian({16, kScaleIn}, 5) * 0.2);
    const auto scaled = [&](const at::Tensor& scale, const at::Tensor& bias) {
        Projections out;
        out.parts.push_back({.weight = &weight, .trained_weight = {}, .bias = bias});
        out.parts.front().update.input_scale = scale;
        return out;
    };
    const at::Tensor w = weight.dense().to(at::kDouble).t();
    expect_equal_with_gradients(
        {gaussian({kScaleTokens, kScaleIn}, 1), gaussian({kScaleTokens, 16}, 2), gaussian({kScaleIn}, 3),
         gaussian({16}, 4)},
        [&](const auto& in) { return project_residual(in[0], in[1], scaled(in[2], in[3]), 0.5); },
        [&](const auto& in) { return in[1] + 0.5 * (at::mm(in[0] * in[2], w) + in[3]); }, kScaleBound);
    expect_equal_with_gradients(
        {gaussian({kScaleTokens, 2 * kScaleIn}, 1), gaussian({kScaleTokens, 16}, 2), gaussian({kScaleIn}, 3)},
        [&](const auto& in) { return activate_project_residual(in[0], in[1], scaled(in[2], {}), {}); },
        [&](const auto& in) {
            const at::Tensor gate = in[0].narrow(1, 0, kScaleIn), up = in[0].narrow(1, kScaleIn, kScaleIn);
            return in[1] + at::mm(gate * at::sigmoid(gate) * up * in[2], w);
        },
        kScaleBound);
}

TEST(InputScale, trains_above_a_frozen_input) {
    const DenseWeight weight(gaussian({16, kScaleIn}, 5) * 0.2);
    const at::Tensor scale = gaussian({kScaleIn}, 3).requires_grad_(),
                     x = gaussian({kScaleTokens, kScaleIn}, 1);
    Projections projections;
    projections.parts.push_back({.weight = &weight, .trained_weight = {}, .bias = {}});
    projections.parts.front().update.input_scale = scale;
    project_residual(x, {}, projections).sum().backward();
    const at::Tensor expected =
        (at::mm(at::ones({kScaleTokens, 16}, at::kDouble), weight.dense().to(at::kDouble)) *
         x.to(at::kDouble))
            .sum(0);
    EXPECT_LE(difference(scale.grad(), expected), kScaleBound);
}

}  // namespace
}  // namespace qlora::ops
