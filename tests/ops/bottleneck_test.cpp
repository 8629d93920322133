#include "qlora/ops/bottleneck.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tanh.h>

#include "ops/reference.h"

namespace qlora::ops {
namespace {

using namespace test;

at::Tensor obvious_activation(const at::Tensor& z, BottleneckActivation kind) {
    switch (kind) {
        case BottleneckActivation::kRelu:
            return at::relu(z);
        case BottleneckActivation::kTanh:
            return at::tanh(z);
        case BottleneckActivation::kSilu:
            return at::silu(z);
        case BottleneckActivation::kGelu:
            return at::gelu(z);
        case BottleneckActivation::kGeluTanh:
            return at::gelu(z, "tanh");
    }
    return {};
}

/// start, x, down, its bias, up, its bias.
std::vector<at::Tensor> bottleneck_inputs(std::int64_t rows, std::int64_t in, std::int64_t width) {
    return {gaussian({rows, in}, 1), gaussian({rows, in}, 2),        gaussian({width, in}, 3) * 0.3,
            gaussian({width}, 4),    gaussian({in, width}, 5) * 0.3, gaussian({in}, 6)};
}

at::Tensor run_bottleneck(const std::vector<at::Tensor>& in, const BottleneckRule& rule) {
    return bottleneck(in[0], in[1], {in[2], in[3], in[4], in[5]}, rule);
}

TEST(Bottleneck, equals_autograd_in_fp64) {
    // fp32 sums of at most 32 terms, twice forward and twice back.
    constexpr double kBound = 2e-6;
    for (const BottleneckActivation kind :
         {BottleneckActivation::kRelu, BottleneckActivation::kTanh, BottleneckActivation::kSilu,
          BottleneckActivation::kGelu, BottleneckActivation::kGeluTanh}) {
        for (const double scaling : {1.0, 4.0}) {
            const BottleneckRule rule{.activation = kind, .scaling = scaling};
            expect_equal_with_gradients(
                bottleneck_inputs(9, 24, 5), [&](const auto& in) { return run_bottleneck(in, rule); },
                [&](const auto& in) {
                    const at::Tensor inner = obvious_activation(in[1].matmul(in[2].t()) + in[3], kind);
                    return in[0] + (inner.matmul(in[4].t()) + in[5]) * scaling;
                },
                kBound);
        }
    }
}

TEST(Bottleneck, may_read_what_it_is_added_to) {
    std::vector<at::Tensor> inputs = bottleneck_inputs(7, 16, 1);
    inputs.erase(inputs.begin());
    expect_equal_with_gradients(
        inputs,
        [&](const auto& in) {
            return bottleneck(in[0], in[0], {in[1], in[2], in[3], in[4]}, {});
        },
        [&](const auto& in) {
            return in[0] + at::relu(in[0].matmul(in[1].t()) + in[2]).matmul(in[3].t()) + in[4];
        },
        2e-6);
}

TEST(Bottleneck, drops_what_it_adds_and_nothing_else) {
    const std::vector<at::Tensor> in = bottleneck_inputs(40, 32, 4);
    const BottleneckRule plain{.scaling = 3.0},
        dropping{.scaling = 3.0, .dropout = {.p = 0.25, .seed = 5, .step = 2, .site = 7}};
    const at::Tensor added = run_bottleneck(in, plain) - in[0], some = run_bottleneck(in, dropping) - in[0];
    const at::Tensor kept = some.ne(0);
    EXPECT_NEAR(kept.to(at::kDouble).mean().item<double>(), 0.75, 0.05);
    EXPECT_LE(difference(some, added * kept / 0.75), 1e-5);
    EXPECT_TRUE(run_bottleneck(in, dropping).equal(run_bottleneck(in, dropping)));
    // The gradient passes where the values did.
    const at::Tensor up_bias = in[5].clone().requires_grad_();
    bottleneck(in[0], in[1], {in[2], in[3], in[4], up_bias}, dropping).sum().backward();
    EXPECT_LE(difference(up_bias.grad(), kept.sum(0) * 3.0 / 0.75), 1e-6);
}

TEST(Bottleneck, in_bf16_is_fp32_rounded_once) {
    const at::AutoGradMode off(false);
    std::vector<at::Tensor> in = bottleneck_inputs(33, 48, 6);
    const at::Tensor start = in[0].to(at::kBFloat16), x = in[1].to(at::kBFloat16);
    in[0] = start.to(at::kFloat);
    in[1] = x.to(at::kFloat);
    const BottleneckRule rule{.activation = BottleneckActivation::kSilu};
    const at::Tensor found = bottleneck(start, x, {in[2], in[3], in[4], in[5]}, rule);
    EXPECT_EQ(found.scalar_type(), at::kBFloat16);
    EXPECT_TRUE(found.equal(run_bottleneck(in, rule).to(at::kBFloat16)));
}

TEST(Bottleneck, a_start_without_gradient_costs_none) {
    std::vector<at::Tensor> in = bottleneck_inputs(5, 16, 3);
    for (std::size_t i = 2; i < in.size(); ++i) in[i].requires_grad_();
    run_bottleneck(in, {}).sum().backward();
    for (std::size_t i = 2; i < in.size(); ++i) EXPECT_TRUE(in[i].grad().defined()) << i;
    EXPECT_FALSE(in[1].grad().defined());
}

}  // namespace
}  // namespace qlora::ops
