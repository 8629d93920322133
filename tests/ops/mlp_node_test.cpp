#include "qlora/ops/mlp_node.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones_like.h>

#include "ops/reference.h"
#include "qlora/ops/cpu_arena.h"
#include "qlora/ops/decoder_nodes.h"

namespace qlora::ops {
namespace {

using namespace test;

constexpr std::int64_t kMlpTokens = 13, kMlpHidden = 24, kMlpInner = 40, kMlpRank = 3;
constexpr double kEps = 1e-5;

struct Variant {
    const char* name;
    at::ScalarType dtype = at::kFloat;
    double dropout = 0.0;
    bool stacked = true;  ///< gate and up as one product
    bool adapts_gate_up = true, adapts_down = true;
    bool trains_biases = false, trains_up = false, trains_norm = false;
    bool trains_hidden = true;
    std::optional<kernels::NormKind> norm = kernels::NormKind::kRms;
    enum class Residual : std::uint8_t { kHidden, kOther, kNone };
    Residual residual = Residual::kHidden;
    double multiplier = 1.0;
    ActivationRule rule = {};
};

std::ostream& operator<<(std::ostream& out, const Variant& value) {
    return out << value.name;
}

/// gate, up and down with everything that a variant trains.
struct Mlp {
    explicit Mlp(const Variant& v, std::int64_t hidden_size = kMlpHidden, std::int64_t inner_size = kMlpInner)
        : variant(v),
          gate(gaussian({inner_size, hidden_size}, 1) * 0.2),
          up(gaussian({inner_size, hidden_size}, 2) * 0.2),
          down(gaussian({hidden_size, inner_size}, 3) * 0.2),
          norm(gaussian({hidden_size}, 4).set_requires_grad(v.trains_norm)),
          norm_bias(gaussian({hidden_size}, 8).set_requires_grad(v.trains_norm)) {
        for (std::uint64_t i = 0; i < 3; ++i) {
            const std::int64_t in = i < 2 ? hidden_size : inner_size, out = i < 2 ? inner_size : hidden_size;
            a.push_back((gaussian({kMlpRank, in}, 10 + i) * 0.2).requires_grad_());
            b.push_back((gaussian({out, kMlpRank}, 20 + i) * 0.2).requires_grad_());
            biases.push_back(gaussian({out}, 30 + i).to(v.dtype).requires_grad_());
        }
        trained_up = up.dense().clone().requires_grad_();
    }

    Projection part(const FrozenWeight& weight, std::size_t i, bool adapts) const {
        Projection out{.weight = &weight, .trained_weight = {}, .bias = {}};
        if (variant.trains_biases) out.bias = biases[i];
        if (adapts) {
            const DropoutSite site{
                .p = variant.dropout, .seed = 7, .step = 2, .site = static_cast<std::uint32_t>(i)};
            out.update.low_rank = LowRank{.a = a[i], .b = b[i], .scaling = 0.5, .dropout = site};
        }
        return out;
    }
    std::optional<Norm> used_norm() const {
        if (!variant.norm) return std::nullopt;
        const bool has_bias = *variant.norm == kernels::NormKind::kLayer;
        return Norm{
            .kind = *variant.norm, .weight = norm, .bias = has_bias ? norm_bias : at::Tensor(), .eps = kEps};
    }
    Projections gate_up() const {
        Projections out;
        out.parts = {part(gate, 0, variant.adapts_gate_up), part(up, 1, variant.adapts_gate_up)};
        if (!variant.rule.gated) {
            out.parts.pop_back();
            return out;
        }
        if (variant.trains_up) {
            out.parts[1].trained_weight = trained_up;
            out.parts[1].update = {};
        } else if (variant.stacked) {
            out.weights = Stacked{.matrix = [this] {
                ++times_made;
                return at::cat({gate.dense(), up.dense()}, 0);
            }};
        }
        return out;
    }
    Projections down_projection() const {
        Projections out;
        out.parts = {part(down, 2, variant.adapts_down)};
        return out;
    }

    Variant variant;
    DenseWeight gate, up, down;
    at::Tensor norm, norm_bias, trained_up;
    std::vector<at::Tensor> a, b, biases;
    mutable int times_made = 0;
};

enum class Way { kTwoNodes, kOneNode, kGraphOnly };

/// The result first, then the gradients of hidden, the norm and every parameter; undefined where none.
std::vector<at::Tensor> run(const Variant& variant, Way way) {
    const Mlp mlp(variant);
    const at::Tensor hidden =
        gaussian({kMlpTokens, kMlpHidden}, 5).to(variant.dtype).set_requires_grad(variant.trains_hidden);
    at::Tensor other = gaussian({kMlpTokens, kMlpHidden}, 9).to(variant.dtype).requires_grad_();
    at::Tensor y, residual = hidden;
    if (way == Way::kTwoNodes) {
        at::Tensor inner;
        if (variant.norm) {
            const NormedProjection entered = norm_project(hidden, *mlp.used_norm(), mlp.gate_up());
            inner = entered.y;
            residual = entered.residual;
        } else {
            inner = project_residual(hidden, {}, mlp.gate_up());
        }
        if (variant.residual != Variant::Residual::kHidden) residual = at::Tensor();
        if (variant.residual == Variant::Residual::kOther) residual = other;
        y = activate_project_residual(inner, residual, mlp.down_projection(), variant.rule,
                                      variant.multiplier);
    } else {
        if (variant.residual != Variant::Residual::kHidden) residual = at::Tensor();
        if (variant.residual == Variant::Residual::kOther) residual = other;
        y = mlp_residual(hidden, residual, mlp.used_norm(), mlp.gate_up(), mlp.down_projection(),
                         {.rule = variant.rule,
                          .multiplier = variant.multiplier,
                          .output = way == Way::kOneNode ? NodeOutput::kUsed : NodeOutput::kGraphOnly});
    }
    const at::Tensor g = gaussian(y.sizes(), 6).to(variant.dtype), given = g.clone();
    torch::autograd::backward({y}, {g});
    EXPECT_TRUE(g.equal(given)) << "an incoming gradient was written to";
    std::vector<at::Tensor> out = {way == Way::kGraphOnly ? at::Tensor() : y.detach(), hidden.grad(),
                                   other.grad(), mlp.norm.grad(), mlp.norm_bias.grad()};
    for (const Projections& projections : {mlp.gate_up(), mlp.down_projection()}) {
        for (const at::Tensor& parameter : projections.parameters()) out.push_back(parameter.grad());
    }
    return out;
}

class MlpNode : public ::testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(
    Variants, MlpNode,
    ::testing::Values(
        Variant{"adapters"}, Variant{"bf16", at::kBFloat16}, Variant{"dropout", at::kFloat, 0.3},
        Variant{"bf16_dropout_biases", at::kBFloat16, 0.3, true, true, true, true},
        Variant{"apart", at::kFloat, 0.0, false},
        Variant{"biases_and_norm", at::kFloat, 0.0, true, true, true, true, false, true},
        Variant{"a_trained_weight", at::kFloat, 0.3, false, true, true, false, true},
        Variant{"only_gate_and_up", at::kFloat, 0.0, true, true, false},
        Variant{"only_down", at::kFloat, 0.0, true, false, true},
        Variant{"only_hidden", at::kFloat, 0.0, true, false, false},
        Variant{"frozen_below", at::kFloat, 0.3, true, true, true, false, false, false, false},
        Variant{"frozen_below_only_down", at::kFloat, 0.0, true, false, true, false, false, false, false},
        Variant{"frozen_below_trained_norm", at::kBFloat16, 0.0, true, false, true, false, false, true,
                false},
        Variant{.name = "late_norm", .dtype = at::kBFloat16, .norm = kernels::NormKind::kRmsLate},
        Variant{.name = "layer_norm", .trains_norm = true, .norm = kernels::NormKind::kLayer},
        Variant{.name = "layer_norm_above_frozen",
                .trains_norm = true,
                .trains_hidden = false,
                .norm = kernels::NormKind::kLayer,
                .residual = Variant::Residual::kOther},
        Variant{.name = "another_residual_bf16",
                .dtype = at::kBFloat16,
                .residual = Variant::Residual::kOther,
                .rule = {kernels::Activation::kGeluTanh, false}},
        Variant{.name = "post_norm", .norm = std::nullopt, .residual = Variant::Residual::kNone},
        Variant{.name = "no_norm_at_all", .norm = std::nullopt},
        Variant{.name = "sandwich", .residual = Variant::Residual::kNone},
        Variant{.name = "multiplier", .trains_norm = true, .multiplier = 0.22},
        Variant{.name = "multiplier_bf16", .dtype = at::kBFloat16, .multiplier = 0.22}),
    [](const auto& chosen) { return chosen.param.name; });

TEST_P(MlpNode, gives_the_bits_of_two_nodes) {
    const std::vector<at::Tensor> expected = run(GetParam(), Way::kTwoNodes);
    for (const Way way : {Way::kOneNode, Way::kGraphOnly}) {
        const std::vector<at::Tensor> found = run(GetParam(), way);
        ASSERT_EQ(found.size(), expected.size());
        if (way == Way::kOneNode) {
            EXPECT_TRUE(found[0].equal(expected[0]));
        }
        int gradients = 0;
        for (std::size_t i = 1; i < expected.size(); ++i) {
            ASSERT_EQ(found[i].defined(), expected[i].defined()) << "gradient " << i;
            if (!expected[i].defined()) continue;
            ++gradients;
            EXPECT_TRUE(found[i].equal(expected[i])) << "gradient " << i;
            EXPECT_TRUE(expected[i].any().item<bool>()) << "a gradient of zeros proves little";
        }
        EXPECT_GT(gradients, 0);
    }
}

TEST(MlpResidual, weights_are_made_once_in_each_pass) {
    const Mlp mlp({"adapters"});
    const at::Tensor hidden = gaussian({kMlpTokens, kMlpHidden}, 5).requires_grad_();
    const at::Tensor y = mlp_residual(hidden, hidden, mlp.used_norm(), mlp.gate_up(), mlp.down_projection());
    EXPECT_EQ(mlp.times_made, 1);
    y.sum().backward();
    EXPECT_EQ(mlp.times_made, 2);
}

TEST(MlpResidual, keeps_nothing_but_its_input) {
    ASSERT_TRUE(install_cpu_arena());
    constexpr std::int64_t kRows = 512, kWide = 64;  // 128 KiB a tensor: the arena counts it
    const Mlp mlp({"adapters"}, kWide, 4 * kWide);
    const at::Tensor hidden = gaussian({kRows, kWide}, 5).requires_grad_();
    const std::int64_t before = arena_use().live;
    const at::Tensor y = mlp_residual(hidden, hidden, mlp.used_norm(), mlp.gate_up(), mlp.down_projection());
    EXPECT_EQ(arena_use().live - before, static_cast<std::int64_t>(y.nbytes()));
    const at::Tensor graph = mlp_residual(hidden, hidden, mlp.used_norm(), mlp.gate_up(),
                                          mlp.down_projection(), {.output = NodeOutput::kGraphOnly});
    EXPECT_EQ(arena_use().live - before, static_cast<std::int64_t>(y.nbytes())) << "not even its result";
    EXPECT_EQ(graph.sizes(), y.sizes());
    graph.backward(at::ones_like(y));
    EXPECT_TRUE(hidden.grad().any().item<bool>());
}

TEST(MlpResidual, without_gradients_it_is_the_same_result) {
    const Mlp mlp({"adapters"});
    const at::Tensor hidden = gaussian({kMlpTokens, kMlpHidden}, 5);
    const at::Tensor with =
        mlp_residual(hidden, hidden, mlp.used_norm(), mlp.gate_up(), mlp.down_projection());
    const at::AutoGradMode off(false);
    EXPECT_TRUE(mlp_residual(hidden, hidden, mlp.used_norm(), mlp.gate_up(), mlp.down_projection())
                    .equal(with.detach()));
}

}  // namespace
}  // namespace qlora::ops
