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

}  // namespace
}  // namespace qlora::ops
