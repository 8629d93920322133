#include "qlora/ops/norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/zeros.h>
#include <cmath>

#include "ops/reference.h"

namespace qlora::ops {
namespace {

using namespace test;

// One mean of n squares and a few products in fp32: a handful of half-ulps (6e-8).
constexpr double kNormBound = 2e-6;

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
    return normed(x, {.weight = weight, .bias = {}, .eps = eps});
}

at::Tensor exact_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
    return weight * x / at::sqrt(x.pow(2).mean(-1, true) + eps);
}

TEST(RmsNorm, equals_autograd_in_fp64) {
    for (const std::int64_t size : {1, 2, 7, 64, 577}) {
        const at::Tensor x = gaussian({5, size}, 1), weight = gaussian({size}, 2);
        expect_equal_with_gradients(
            {x, weight}, [](const auto& in) { return rms_norm(in[0], in[1], 1e-5); },
            [](const auto& in) { return exact_norm(in[0], in[1], 1e-5); },
            // With one element the norm is its sign, and terms of 1 / x cancel to nothing.
            size == 1 ? 5 * kNormBound : kNormBound);
    }
}

TEST(RmsNorm, norms_the_last_of_three_dimensions) {  // q_norm and k_norm: [T, heads, head_dim]
    const at::Tensor x = gaussian({6, 3, 24}, 1), weight = gaussian({24}, 2);
    expect_equal_with_gradients(
        {x, weight}, [](const auto& in) { return rms_norm(in[0], in[1], 1e-6); },
        [](const auto& in) { return exact_norm(in[0], in[1], 1e-6); }, kNormBound);
}

TEST(RmsNorm, the_epsilon_rules_tiny_inputs) {
    const at::Tensor x = gaussian({4, 32}, 1) * 1e-4, weight = gaussian({32}, 2);
    expect_equal_with_gradients(
        {x, weight}, [](const auto& in) { return rms_norm(in[0], in[1], 1e-5); },
        [](const auto& in) { return exact_norm(in[0], in[1], 1e-5); }, kNormBound);
    EXPECT_TRUE(rms_norm(at::zeros({2, 32}), weight, 1e-5).equal(at::zeros({2, 32})));
}

TEST(RmsNorm, bf16_rounds_the_normalised_value_and_then_the_product) {
    const std::int64_t rows = 40, size = 96;
    const at::Tensor x = gaussian({rows, size}, 1).to(at::kBFloat16),
                     weight = gaussian({size}, 2).to(at::kBFloat16);
    const at::Tensor wide = x.to(at::kFloat), scale = weight.to(at::kFloat);
    at::Tensor expected = at::empty({rows, size});
    for (std::int64_t row = 0; row < rows; ++row) {
        const float* in = wide.const_data_ptr<float>() + row * size;
        double squares = 0.0;
        for (std::int64_t i = 0; i < size; ++i) squares += double{in[i]} * in[i];
        const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(size) + 1e-5);
        for (std::int64_t i = 0; i < size; ++i) {
            const float normed = round_to_bf16(static_cast<float>(in[i] * inverse));
            expected.mutable_data_ptr<float>()[row * size + i] =
                round_to_bf16(normed * scale.const_data_ptr<float>()[i]);
        }
    }
    const at::Tensor y = rms_norm(x, scale, 1e-5);
    EXPECT_EQ(y.scalar_type(), at::kBFloat16);
    // The statistics differ in the last fp32 bits: that moves a value over a rounding border about once in
    // 10^4.
    EXPECT_LE(share_of_neighbours(y, expected), 0.005);
}

TEST(RmsNorm, bf16_gradients_stay_within_the_rounding_of_their_result) {
    const at::Tensor x = gaussian({40, 96}, 1).to(at::kBFloat16).requires_grad_();
    const at::Tensor weight = gaussian({96}, 2).requires_grad_();  // trained norms are fp32
    const at::Tensor g = gaussian({40, 96}, 3).to(at::kBFloat16);
    torch::autograd::backward({rms_norm(x, weight, 1e-5)}, {g});
    const at::Tensor exact_x = x.detach().to(at::kDouble).requires_grad_();
    const at::Tensor exact_weight = weight.detach().to(at::kDouble).requires_grad_();
    torch::autograd::backward({exact_norm(exact_x, exact_weight, 1e-5)}, {g.to(at::kDouble)});
    EXPECT_EQ(weight.grad().scalar_type(), at::kFloat);
    // x: one rounding at the end. weight: 40 normalised values, each rounded, summed in fp32.
    EXPECT_LE(difference(x.grad(), exact_x.grad()), kBf16Rounding);
    EXPECT_LE(difference(weight.grad(), exact_weight.grad()), 2 * kBf16Rounding);
}

/// weight * (x * inverse) of one row in fp64, plus the bias if there is one.
at::Tensor exact_layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    const at::Tensor centred = x - x.mean(-1, true);
    const at::Tensor y = weight * centred / at::sqrt(centred.pow(2).mean(-1, true) + 1e-5);
    return bias.defined() ? y + bias : y;
}

TEST(LateNorm, bf16_rounds_the_product_alone) {
    const at::Tensor x = gaussian({40, 96}, 1).to(at::kBFloat16), weight = gaussian({96}, 2);
    const Norm norm{.kind = kernels::NormKind::kRmsLate, .weight = weight, .bias = {}, .eps = 1e-5};
    const NormResult found = norm_forward(x, norm);
    const at::Tensor exact =
        exact_norm(x.to(at::kDouble), weight.to(at::kDouble), 1e-5).to(at::kFloat).to(at::kBFloat16);
    // Only the last fp32 bits differ before the one rounding.
    EXPECT_LE(share_of_neighbours(found.y, exact), 0.005);
    EXPECT_TRUE(norm_recompute(x, norm, found.statistics).equal(found.y));
    const at::Tensor early = rms_norm(x, weight, 1e-5);
    EXPECT_GT(early.ne(found.y).to(at::kDouble).mean().item<double>(), 0.1) << "the kinds differ";
}

TEST(LateNorm, gradients_of_bf16_are_rounded_once) {
    const at::Tensor x = gaussian({40, 96}, 1).to(at::kBFloat16).requires_grad_();
    const at::Tensor weight = gaussian({96}, 2).requires_grad_(), g = gaussian({40, 96}, 3).to(at::kBFloat16);
    torch::autograd::backward(
        {normed(x, {.kind = kernels::NormKind::kRmsLate, .weight = weight, .bias = {}, .eps = 1e-5})}, {g});
    const at::Tensor exact_x = x.detach().to(at::kDouble).requires_grad_();
    const at::Tensor exact_weight = weight.detach().to(at::kDouble).requires_grad_();
    torch::autograd::backward({exact_norm(exact_x, exact_weight, 1e-5)}, {g.to(at::kDouble)});
    EXPECT_LE(difference(x.grad(), exact_x.grad()), kBf16Rounding);
    EXPECT_LE(difference(weight.grad(), exact_weight.grad()), kNormBound) << "its terms are not rounded";
}

TEST(LayerNorm, equals_autograd_in_fp64) {
    for (const std::int64_t size : {2, 7, 64, 577}) {
        for (const bool has_bias : {false, true}) {
            // A mean far from zero, whose square must not swallow the variance.
            std::vector<at::Tensor> inputs = {gaussian({5, size}, 1) + 3, gaussian({size}, 2)};
            if (has_bias) inputs.push_back(gaussian({size}, 3));
            expect_equal_with_gradients(
                inputs,
                [&](const auto& in) {
                    return normed(in[0], {.kind = kernels::NormKind::kLayer,
                                          .weight = in[1],
                                          .bias = has_bias ? in[2] : at::Tensor(),
                                          .eps = 1e-5});
                },
                [&](const auto& in) {
                    return exact_layer_norm(in[0], in[1], has_bias ? in[2] : at::Tensor());
                },
                // With two elements the result is their sign, and the gradient cancels to nothing.
                size == 2 ? 20 * kNormBound : 2 * kNormBound);
        }
    }
}

TEST(LayerNorm, bf16_is_rounded_once) {
    const at::Tensor x = (gaussian({40, 96}, 1) + 3).to(at::kBFloat16).requires_grad_();
    const at::Tensor weight = gaussian({96}, 2).requires_grad_(), bias = gaussian({96}, 3).requires_grad_();
    const Norm norm{.kind = kernels::NormKind::kLayer, .weight = weight, .bias = bias, .eps = 1e-5};
    const at::Tensor y = normed(x, norm), g = gaussian({40, 96}, 4).to(at::kBFloat16);
    torch::autograd::backward({y}, {g});
    std::vector<at::Tensor> exact;
    for (const at::Tensor& input : {x, weight, bias}) {
        exact.push_back(input.detach().to(at::kDouble).requires_grad_());
    }
    const at::Tensor z = exact_layer_norm(exact[0], exact[1], exact[2]);
    torch::autograd::backward({z}, {g.to(at::kDouble)});
    EXPECT_LE(share_of_neighbours(y.detach(), z.detach().to(at::kFloat).to(at::kBFloat16)), 0.005);
    EXPECT_LE(difference(x.grad(), exact[0].grad()), kBf16Rounding);
    EXPECT_LE(difference(weight.grad(), exact[1].grad()), 2 * kNormBound);
    EXPECT_LE(difference(bias.grad(), exact[2].grad()), 2 * kNormBound);
    const NormResult again = norm_forward(x.detach(), norm);
    EXPECT_TRUE(norm_recompute(x.detach(), norm, again.statistics).equal(y));
}

}  // namespace
}  // namespace qlora::ops
