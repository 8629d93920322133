#include "qlora/ops/activation.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tensor.h>
#include <cmath>

#include "ops/reference.h"

namespace qlora::ops {
namespace {

using namespace test;

at::Tensor halves(const at::Tensor& gate, const at::Tensor& up) {
    return at::cat({gate, up}, -1);
}

/// silu(gate) * up with the pair of functions as one node.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
    static const Pair::Backward kBackward = [](const at::Tensor& g, const at::Tensor& gate_up) {
        ActivationGradient result = activate_backward(g, gate_up, {});
        EXPECT_TRUE(result.y.equal(activate(gate_up, {})));
        return result.entered;
    };
    return Pair::apply(
        halves(gate, up), [](const at::Tensor& x) { return activate(x, {}); }, &kBackward);
}

TEST(SwiGlu, equals_autograd_in_fp64) {
    const at::Tensor gate = gaussian({9, 184}, 1) * 4, up = gaussian({9, 184}, 2);
    expect_equal_with_gradients(
        {gate, up}, [](const auto& in) { return swiglu(in[0], in[1]); },
        [](const auto& in) { return in[0] * at::sigmoid(in[0]) * in[1]; },
        1e-6);  // exp in fp32 is good to a few ulps, then five products
}

TEST(SwiGlu, is_finite_at_both_ends) {
    const at::Tensor gate = at::tensor({-1e4F, -88.0F, 0.0F, 88.0F, 1e4F}).unsqueeze(0).requires_grad_();
    const at::Tensor up = at::ones({1, 5}).requires_grad_();
    const at::Tensor y = swiglu(gate, up);
    y.sum().backward();
    for (const at::Tensor& value : {y, gate.grad(), up.grad()})
        EXPECT_TRUE(value.isfinite().all().item<bool>());
    EXPECT_EQ(y[0][4].item<float>(), 1e4F);
    EXPECT_EQ(y[0][2].item<float>(), 0.0F);
}

TEST(SwiGlu, bf16_rounds_the_activation_before_the_product) {
    const at::Tensor gate = gaussian({30, 50}, 1).to(at::kBFloat16),
                     up = gaussian({30, 50}, 2).to(at::kBFloat16);
    at::Tensor expected = at::empty({30, 50});
    const at::Tensor g = gate.to(at::kFloat), u = up.to(at::kFloat);
    for (std::int64_t i = 0; i < expected.numel(); ++i) {
        const double value = g.const_data_ptr<float>()[i];
        const float activation = round_to_bf16(static_cast<float>(value / (1.0 + std::exp(-value))));
        expected.mutable_data_ptr<float>()[i] = round_to_bf16(activation * u.const_data_ptr<float>()[i]);
    }
    // Bits differ only where the fp32 exponential's last bits meet a rounding border.
    EXPECT_LE(share_of_neighbours(swiglu(gate, up), expected), 0.005);
}

}  // namespace
}  // namespace qlora::ops
