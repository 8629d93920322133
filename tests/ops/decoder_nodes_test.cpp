#include "qlora/ops/decoder_nodes.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sqrt.h>

#include "ops/reference.h"

namespace qlora::ops {
namespace {

using namespace test;

// A norm or an activation between two products of at most 90 terms.
constexpr double kNodeBound = 5e-6;
constexpr std::int64_t kNodeTokens = 11, kNodeSize = 45, kNodeRank = 3;

at::Tensor exact_node_norm(const at::Tensor& x, const at::Tensor& weight) {
    return weight * x / at::sqrt(x.pow(2).mean(-1, true) + 1e-5);
}

Norm node_norm(const at::Tensor& weight) {
    return {.weight = weight, .bias = {}, .eps = 1e-5};
}

/// One linear with an adapter (in[0] A, in[1] B), scaling 0.5.
Projections adapted(const FrozenWeight& weight, const at::Tensor& a, const at::Tensor& b) {
    Projections out;
    out.parts.push_back({.weight = &weight,
                         .trained_weight = {},
                         .bias = {},
                         .update = {.low_rank = LowRank{.a = a, .b = b, .scaling = 0.5, .dropout = {}}}});
    return out;
}

at::Tensor exact_linear(const at::Tensor& x, const DenseWeight& weight, const at::Tensor& a,
                        const at::Tensor& b) {
    return at::mm(x, weight.dense().to(at::kDouble).t()) + 0.5 * at::mm(at::mm(x, a.t()), b.t());
}

TEST(NormProject, sums_both_gradients_of_the_residual_stream) {
    const DenseWeight weight(gaussian({kNodeSize, kNodeSize}, 5) * 0.2);
    expect_equal_with_gradients(
        {gaussian({kNodeTokens, kNodeSize}, 1), gaussian({kNodeSize}, 2),
         gaussian({kNodeRank, kNodeSize}, 3) * 0.2, gaussian({kNodeSize, kNodeRank}, 4) * 0.2},
        [&](const auto& in) {
            const auto [y, residual] = norm_project(in[0], node_norm(in[1]), adapted(weight, in[2], in[3]));
            return y + residual * 3;
        },
        [&](const auto& in) {
            return exact_linear(exact_node_norm(in[0], in[1]), weight, in[2], in[3]) + in[0] * 3;
        },
        kNodeBound);
}

TEST(NormProject, what_is_pending_is_added_before_the_norm) {
    const DenseWeight weight(gaussian({kNodeSize, kNodeSize}, 5) * 0.2);
    expect_equal_with_gradients(
        {gaussian({kNodeTokens, kNodeSize}, 1), gaussian({kNodeSize}, 2),
         gaussian({kNodeRank, kNodeSize}, 3) * 0.2, gaussian({kNodeSize, kNodeRank}, 4) * 0.2,
         gaussian({kNodeTokens, kNodeSize}, 6)},
        [&](const auto& in) {
            const auto [y, residual] =
                norm_project(in[0], node_norm(in[1]), adapted(weight, in[2], in[3]), in[4]);
            return y + residual * 3;
        },
        [&](const auto& in) {
            const at::Tensor sum = in[0] + in[4];
            return exact_linear(exact_node_norm(sum, in[1]), weight, in[2], in[3]) + sum * 3;
        },
        kNodeBound);
}

TEST(NormProject, adapters_train_above_a_frozen_input) {
    const DenseWeight weight(gaussian({kNodeSize, kNodeSize}, 5));
    const at::Tensor a = gaussian({kNodeRank, kNodeSize}, 3).requires_grad_(),
                     b = gaussian({kNodeSize, kNodeRank}, 4).requires_grad_();
    const at::Tensor hidden = gaussian({kNodeTokens, kNodeSize}, 1);
    const auto [y, residual] =
        norm_project(hidden, node_norm(gaussian({kNodeSize}, 2)), adapted(weight, a, b));
    (y + residual).sum().backward();
    EXPECT_TRUE(a.grad().any().item<bool>());
    EXPECT_TRUE(b.grad().any().item<bool>());
    EXPECT_FALSE(hidden.grad().defined());
}

TEST(ProjectResidual, adds_to_the_residual_and_passes_its_gradient_on) {
    const DenseWeight weight(gaussian({kNodeSize, kNodeSize}, 5) * 0.2);
    expect_equal_with_gradients(
        {gaussian({kNodeTokens, kNodeSize}, 1), gaussian({kNodeTokens, kNodeSize}, 2),
         gaussian({kNodeRank, kNodeSize}, 3) * 0.2, gaussian({kNodeSize, kNodeRank}, 4) * 0.2},
        [&](const auto& in) { return project_residual(in[0], in[1], adapted(weight, in[2], in[3])); },
        [&](const auto& in) { return in[1] + exact_linear(in[0], weight, in[2], in[3]); }, kNodeBound);
}

TEST(ProjectResidual, a_multiplier_scales_everything_but_the_residual) {
    const DenseWeight weight(gaussian({kNodeSize, kNodeSize}, 5) * 0.2);
    expect_equal_with_gradients(
        {gaussian({kNodeTokens, kNodeSize}, 1), gaussian({kNodeTokens, kNodeSize}, 2),
         gaussian({kNodeRank, kNodeSize}, 3) * 0.2, gaussian({kNodeSize, kNodeRank}, 4) * 0.2,
         gaussian({kNodeSize}, 6)},
        [&](const auto& in) {
            Projections projections = adapted(weight, in[2], in[3]);
            projections.parts[0].bias = in[4];
            return project_residual(in[0], in[1], projections, 0.25) +
                   project_residual(in[0], {}, projections, 2.0);
        },
        [&](const auto& in) { return in[1] + 2.25 * (exact_linear(in[0], weight, in[2], in[3]) + in[4]); },
        kNodeBound);
}

TEST(NormResidual, equals_autograd_in_fp64) {
    for (const kernels::NormKind kind : {kernels::NormKind::kRms, kernels::NormKind::kLayer}) {
        for (const double multiplier : {1.0, 0.25}) {
            const bool centred = kind == kernels::NormKind::kLayer;
            std::vector<at::Tensor> inputs = {gaussian({kNodeTokens, kNodeSize}, 1), gaussian({kNodeSize}, 2),
                                              gaussian({kNodeTokens, kNodeSize}, 3)};
            if (centred) inputs.push_back(gaussian({kNodeSize}, 4));
            expect_equal_with_gradients(
                inputs,
                [&](const auto& in) {
                    const Norm norm{
                        .kind = kind, .weight = in[1], .bias = centred ? in[3] : at::Tensor(), .eps = 1e-5};
                    return norm_residual(in[0], norm, in[2], multiplier);
                },
                [&](const auto& in) {
                    const at::Tensor x = centred ? in[0] - in[0].mean(-1, true) : in[0];
                    const at::Tensor normed = exact_node_norm(x, in[1]);
                    return in[2] + multiplier * (centred ? normed + in[3] : normed);
                },
                kNodeBound);
        }
    }
}

TEST(NormResidual, bf16_rounds_norm_product_and_sum) {
    const at::Tensor x = gaussian({kNodeTokens, kNodeSize}, 1).to(at::kBFloat16),
                     residual = gaussian({kNodeTokens, kNodeSize}, 2).to(at::kBFloat16);
    for (const kernels::NormKind kind :
         {kernels::NormKind::kRms, kernels::NormKind::kRmsLate, kernels::NormKind::kLayer}) {
        const Norm norm{.kind = kind, .weight = gaussian({kNodeSize}, 3), .bias = {}, .eps = 1e-5};
        const at::Tensor y = normed(x, norm);
        EXPECT_TRUE(norm_residual(x, norm, residual).equal(residual + y));
        EXPECT_TRUE(norm_residual(x, norm, residual, 0.22).equal(residual + y * 0.22));
    }
}

TEST(ProjectResidual, bf16_rounds_the_projection_before_the_sum) {
    const DenseWeight weight((gaussian({kNodeSize, kNodeSize}, 5) * 0.2).to(at::kBFloat16).to(at::kFloat));
    const at::Tensor x = gaussian({kNodeTokens, kNodeSize}, 1).to(at::kBFloat16),
                     residual = gaussian({kNodeTokens, kNodeSize}, 2).to(at::kBFloat16);
    Projections plain;
    plain.parts.push_back({.weight = &weight, .trained_weight = {}, .bias = {}});
    const at::Tensor expected = residual + project(plain, x);
    EXPECT_TRUE(project_residual(x, residual, plain).equal(expected));
}

TEST(ActivateProjectResidual, equals_autograd_in_fp64) {
    const DenseWeight weight(gaussian({kNodeSize, 2 * kNodeSize}, 5) * 0.2);
    expect_equal_with_gradients(
        {gaussian({kNodeTokens, 4 * kNodeSize}, 1), gaussian({kNodeTokens, kNodeSize}, 2),
         gaussian({kNodeRank, 2 * kNodeSize}, 3) * 0.2, gaussian({kNodeSize, kNodeRank}, 4) * 0.2},
        [&](const auto& in) {
            return activate_project_residual(in[0], in[1], adapted(weight, in[2], in[3]), {}, 3.0);
        },
        [&](const auto& in) {
            const at::Tensor gate = in[0].narrow(1, 0, 2 * kNodeSize),
                             up = in[0].narrow(1, 2 * kNodeSize, 2 * kNodeSize);
            return in[1] + 3 * exact_linear(gate * at::sigmoid(gate) * up, weight, in[2], in[3]);
        },
        kNodeBound);
}

TEST(ActivateProjectResidual, adapters_train_above_frozen_gates) {
    const DenseWeight weight(gaussian({kNodeSize, 2 * kNodeSize}, 5));
    const at::Tensor a = gaussian({kNodeRank, 2 * kNodeSize}, 3).requires_grad_(),
                     b = gaussian({kNodeSize, kNodeRank}, 4).requires_grad_();
    activate_project_residual(gaussian({kNodeTokens, 4 * kNodeSize}, 1),
                              gaussian({kNodeTokens, kNodeSize}, 2), adapted(weight, a, b), {})
        .sum()
        .backward();
    EXPECT_TRUE(a.grad().any().item<bool>());
    EXPECT_TRUE(b.grad().any().item<bool>());
}

}  // namespace
}  // namespace qlora::ops
