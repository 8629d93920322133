#include "qlora/ops/projection.h"

#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include "qlora/ops/gemm.h"

#include "ops/linears.h"
#include "ops/reference.h"
#include "qlora/kernels/philox.h"

namespace qlora::ops {
namespace {

using namespace test;

// Sums of at most 300 fp32 products of order 1: rounding adds up to some 10 half-ulps (2^-24) of the largest
// value.
constexpr double kProjectionBound = 2e-6;
constexpr std::int64_t kIn = 301, kOut = 67, kRank = 5;

class LinearOfTokens : public testing::TestWithParam<std::int64_t> {};
INSTANTIATE_TEST_SUITE_P(Tokens, LinearOfTokens, testing::Values(1, 2, 33));

TEST_P(LinearOfTokens, frozen_linear_equals_autograd_in_fp64) {
    const at::Tensor x = gaussian({GetParam(), kIn}, 1), bias = gaussian({kOut}, 3);
    const DenseWeight weight(gaussian({kOut, kIn}, 2));
    expect_equal_with_gradients(
        {x, bias}, [&](const auto& in) { return frozen_linear(in[0], weight, in[1]); },
        [&](const auto& in) { return at::mm(in[0], weight.dense().to(at::kDouble).t()) + in[1]; },
        kProjectionBound);
    expect_equal_with_gradients(
        {x}, [&](const auto& in) { return frozen_linear(in[0], weight, at::Tensor()); },
        [&](const auto& in) { return at::mm(in[0], weight.dense().to(at::kDouble).t()); }, kProjectionBound);
}

TEST_P(LinearOfTokens, trainable_linear_equals_autograd_in_fp64) {
    const at::Tensor x = gaussian({GetParam(), kIn}, 1), w = gaussian({kOut, kIn}, 2),
                     bias = gaussian({kOut}, 3);
    expect_equal_with_gradients(
        {x, w, bias}, [](const auto& in) { return trainable_linear(in[0], in[1], in[2]); },
        [](const auto& in) { return at::mm(in[0], in[1].t()) + in[2]; }, kProjectionBound);
    expect_equal_with_gradients(
        {x, w}, [](const auto& in) { return trainable_linear(in[0], in[1], at::Tensor()); },
        [](const auto& in) { return at::mm(in[0], in[1].t()); }, kProjectionBound);
}

/// 1 / (1 - p) where the counter keeps an element, else 0.
at::Tensor dropout_factors(at::IntArrayRef sizes, const DropoutSite& site) {
    at::Tensor out = at::zeros(sizes, at::kDouble);
    double* data = out.mutable_data_ptr<double>();
    for (std::int64_t i = 0; i < out.numel(); ++i) {
        const bool keep = kernels::dropout_keep(site.seed, site.step, site.site,
                                                static_cast<std::uint64_t>(i), static_cast<float>(site.p));
        data[i] = keep ? 1.0 / (1.0 - site.p) : 0.0;
    }
    return out;
}

class LoraDropout : public testing::TestWithParam<double> {};
INSTANTIATE_TEST_SUITE_P(Probability, LoraDropout, testing::Values(0.0, 0.1, 0.5));

TEST_P(LoraDropout, lora_linear_equals_equation_3_of_the_paper_in_fp64) {
    const DropoutSite site{.p = GetParam(), .seed = 42, .step = 17, .site = 3};
    const at::Tensor x = gaussian({19, kIn}, 1), a = gaussian({kRank, kIn}, 2),
                     b = gaussian({kOut, kRank}, 3);
    const at::Tensor bias = gaussian({kOut}, 4);
    const DenseWeight weight(gaussian({kOut, kIn}, 5));
    const at::Tensor factors = dropout_factors({19, kIn}, site);
    constexpr double kScaling = 1.75;
    const auto reference = [&](const std::vector<at::Tensor>& in) {
        const at::Tensor base = at::mm(in[0], weight.dense().to(at::kDouble).t());
        return base + kScaling * at::mm(at::mm(in[0] * factors, in[1].t()), in[2].t());
    };
    // Two chained products of 301 and 5 terms: the bound of one, times the size that the first gives the
    // second.
    expect_equal_with_gradients(
        {x, a, b},
        [&](const auto& in) {
            return lora_linear(in[0], weight, at::Tensor(), in[1], in[2], kScaling, site);
        },
        reference, 2 * kProjectionBound);
    expect_equal_with_gradients(
        {x, a, b, bias},
        [&](const auto& in) { return lora_linear(in[0], weight, in[3], in[1], in[2], kScaling, site); },
        [&](const auto& in) { return reference(in) + in[3]; }, 2 * kProjectionBound);
}

TEST(LoraLinear, adapters_train_below_an_input_without_gradient) {
    const at::Tensor x = gaussian({4, kIn}, 1);
    const at::Tensor a = gaussian({kRank, kIn}, 2).requires_grad_(),
                     b = gaussian({kOut, kRank}, 3).requires_grad_();
    const DenseWeight weight(gaussian({kOut, kIn}, 5));
    lora_linear(x, weight, at::Tensor(), a, b, 1.0, {}).sum().backward();
    EXPECT_TRUE(a.grad().any().item<bool>());
    EXPECT_TRUE(b.grad().any().item<bool>());
    EXPECT_FALSE(x.grad().defined());
}

TEST(LoraLinear, a_zero_b_leaves_the_base_bit_for_bit) {
    const at::Tensor a = gaussian({kRank, kIn}, 2), b = at::zeros({kOut, kRank});
    const DenseWeight weight(gaussian({kOut, kIn}, 5));
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const at::Tensor x = gaussian({7, kIn}, 1).to(dtype), bias = gaussian({kOut}, 4);
        EXPECT_TRUE(lora_linear(x, weight, bias, a, b, 2.0, {}).equal(frozen_linear(x, weight, bias)));
    }
}

TEST(Bf16Linear, one_rounding_separates_the_result_from_the_exact_one) {
    const at::Tensor x = gaussian({23, kIn}, 1).to(at::kBFloat16), bias = gaussian({kOut}, 4);
    const DenseWeight weight(gaussian({kOut, kIn}, 5).to(at::kBFloat16).to(at::kFloat));
    const at::Tensor exact =
        at::mm(x.to(at::kDouble), weight.dense().to(at::kDouble).t()) + bias.to(at::kDouble);
    const at::Tensor y = frozen_linear(x, weight, bias);
    EXPECT_EQ(y.scalar_type(), at::kBFloat16);
    // Half a spacing of the element itself, and the fp32 noise of sums whose terms are larger than it.
    const at::Tensor allowed = exact.abs() * kBf16Rounding * 1.0001 + exact.abs().max() * kProjectionBound;
    EXPECT_TRUE((y.to(at::kDouble) - exact).abs().le(allowed).all().item<bool>());
}

TEST(Bf16Linear, the_adapter_is_added_in_fp32_to_the_rounded_base_and_rounded_once) {
    const at::Tensor x = gaussian({23, kIn}, 1).to(at::kBFloat16);
    const at::Tensor a = gaussian({kRank, kIn}, 2), b = gaussian({kOut, kRank}, 3) * 0.1;
    const DenseWeight weight(gaussian({kOut, kIn}, 5).to(at::kBFloat16).to(at::kFloat));
    const at::Tensor wide = x.to(at::kDouble);
    const at::Tensor base = at::mm(wide, weight.dense().to(at::kDouble).t()).to(at::kFloat).to(at::kBFloat16);
    const at::Tensor update = at::mm(at::mm(wide, a.to(at::kDouble).t()), b.to(at::kDouble).t()) * 0.5;
    const at::Tensor expected = (base.to(at::kDouble) + update).to(at::kFloat).to(at::kBFloat16);
    const at::Tensor y = lora_linear(x, weight, at::Tensor(), a, b, 0.5, {});
    // Bits differ only where fp32 noise (1e-6) meets a rounding border (spacing 4e-3): expected far below a
    // hundredth.
    EXPECT_LE(share_of_neighbours(y, expected), 0.01);
}

TEST(Bf16Linear, gradients_are_those_of_fp32_rounded_once) {
    const at::Tensor x16 = gaussian({23, kIn}, 1).to(at::kBFloat16);
    const at::Tensor a = gaussian({kRank, kIn}, 2), b = gaussian({kOut, kRank}, 3);
    const DenseWeight weight(gaussian({kOut, kIn}, 5).to(at::kBFloat16).to(at::kFloat));
    const at::Tensor g = gaussian({23, kOut}, 6).to(at::kBFloat16);
    std::vector<at::Tensor> gradients[2];
    const LibTorchSums sums(true);  // in fp32 too, so that only rounding differs
    for (int wide = 0; wide < 2; ++wide) {
        const at::Tensor x = x16.to(wide ? at::kFloat : at::kBFloat16).clone().requires_grad_();
        const at::Tensor p = a.clone().requires_grad_(), q = b.clone().requires_grad_();
        const at::Tensor y = lora_linear(x, weight, at::Tensor(), p, q, 0.5, {});
        torch::autograd::backward({y}, {g.to(y.scalar_type())});
        gradients[wide] = {x.grad(), p.grad(), q.grad()};
    }
    EXPECT_EQ(gradients[0][0].scalar_type(), at::kBFloat16);
    EXPECT_TRUE(gradients[0][0].equal(gradients[1][0].to(at::kBFloat16)));
    EXPECT_TRUE(gradients[0][1].equal(gradients[1][1]));
    EXPECT_TRUE(gradients[0][2].equal(gradients[1][2]));
}

TEST(Dropout, keeps_what_the_counter_keeps_and_scales_it) {
    for (const std::int64_t columns : {1, 2, 3, 4, 5, 8191}) {
        const DropoutSite site{.p = 0.3, .seed = 9, .step = 2, .site = 1};
        const at::Tensor x = gaussian({3, columns}, 8);
        const at::Tensor expected = x.to(at::kDouble) * dropout_factors(x.sizes(), site);
        // One fp32 product with the rounded factor.
        EXPECT_LE(difference(apply_dropout(x, site), expected), 2e-7) << columns;
    }
}

TEST(Dropout, rate_and_independence_of_steps_and_sites) {
    const at::Tensor ones = at::ones({1000, 100});
    const auto kept = [&](std::uint32_t step, std::uint32_t site) {
        return apply_dropout(ones, {.p = 0.2, .seed = 1, .step = step, .site = site}).gt(0);
    };
    const at::Tensor first = kept(0, 0);
    // 100,000 draws: five standard deviations of the rate are 0.0063.
    EXPECT_NEAR(first.to(at::kDouble).mean().item<double>(), 0.8, 0.0063);
    for (const at::Tensor& other : {kept(1, 0), kept(0, 1)}) {
        // Independent masks agree where both keep or both drop: 0.64 + 0.04.
        EXPECT_NEAR(first.eq(other).to(at::kDouble).mean().item<double>(), 0.68, 0.0074);
    }
}

TEST(Dropout, the_thread_count_changes_no_bit) {
    const int before = at::get_num_threads();
    const at::Tensor x = gaussian({257, 301}, 8);
    const DropoutSite site{.p = 0.1, .seed = 9, .step = 2, .site = 1};
    at::set_num_threads(1);
    const at::Tensor one = apply_dropout(x, site);
    at::set_num_threads(2);
    const at::Tensor two = apply_dropout(x, site);
    at::set_num_threads(before);
    EXPECT_TRUE(one.equal(two));
}

}  // namespace
}  // namespace qlora::ops
