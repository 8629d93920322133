#include "qlora/ops/activation.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tensor.h>
#include <cmath>

#include "ops/reference.h"

namespace qlora::ops {
namespace {

using namespace test;
using kernels::Activation;

constexpr ActivationRule kRules[] = {
    {Activation::kSilu, true},  {Activation::kGeluTanh, true},  {Activation::kGelu, true},
    {Activation::kSilu, false}, {Activation::kGeluTanh, false}, {Activation::kGelu, false},
};

/// The pair of functions as one node; lives until backward has run.
class Node {
  public:
    explicit Node(ActivationRule rule)
        : rule_(rule), backward_([rule](const at::Tensor& g, const at::Tensor& x) {
              ActivationGradient result = activate_backward(g, x, rule);
              EXPECT_TRUE(result.y.equal(activate(x, rule)));
              return result.entered;
          }) {}
    at::Tensor operator()(const at::Tensor& entered) const {
        return Pair::apply(
            entered, [rule = rule_](const at::Tensor& x) { return activate(x, rule); }, &backward_);
    }

  private:
    ActivationRule rule_;
    Pair::Backward backward_;
};

at::Tensor libtorch(const at::Tensor& x, Activation kind) {
    if (kind == Activation::kSilu) return at::silu(x);
    return at::gelu(x, kind == Activation::kGeluTanh ? "tanh" : "none");
}

at::Tensor halves(const at::Tensor& gate, const at::Tensor& up) {
    return at::cat({gate, up}, -1);
}

TEST(Activation, equals_autograd_in_fp64) {
    const at::Tensor x = gaussian({9, 184}, 1) * 4, up = gaussian({9, 184}, 2);
    constexpr double kBound = 1e-6;  // exp in fp32 is good to a few ulps, then five products
    for (ActivationRule rule : kRules) {
        const Node node(rule);
        if (rule.gated) {
            expect_equal_with_gradients(
                {x, up}, [&](const auto& in) { return node(halves(in[0], in[1])); },
                [&](const auto& in) { return libtorch(in[0], rule.kind) * in[1]; }, kBound);
        } else {
            expect_equal_with_gradients(
                {x}, [&](const auto& in) { return node(in[0]); },
                [&](const auto& in) { return libtorch(in[0], rule.kind); }, kBound);
        }
    }
}

TEST(Activation, is_finite_at_both_ends) {
    for (ActivationRule rule : kRules) {
        const at::Tensor x = at::tensor({-1e4F, -88.0F, 0.0F, 88.0F, 1e4F}).unsqueeze(0).requires_grad_();
        const at::Tensor up = at::ones({1, 5}).requires_grad_();
        const Node node(rule);
        const at::Tensor y = node(rule.gated ? halves(x, up) : x);
        y.sum().backward();
        EXPECT_TRUE(y.isfinite().all().item<bool>());
        EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
        EXPECT_EQ(y[0][4].item<float>(), 1e4F);
        EXPECT_EQ(y[0][2].item<float>(), 0.0F);
    }
}

TEST(Activation, bf16_rounds_the_activation_before_the_product) {
    for (ActivationRule rule : kRules) {
        const at::Tensor x = gaussian({30, 50}, 1).to(at::kBFloat16),
                         up = gaussian({30, 50}, 2).to(at::kBFloat16);
        const at::Tensor exact = libtorch(x.to(at::kDouble), rule.kind).to(at::kFloat);
        at::Tensor expected = at::empty({30, 50});
        const at::Tensor u = up.to(at::kFloat);
        for (std::int64_t i = 0; i < expected.numel(); ++i) {
            const float activation = round_to_bf16(exact.const_data_ptr<float>()[i]);
            expected.mutable_data_ptr<float>()[i] =
                rule.gated ? round_to_bf16(activation * u.const_data_ptr<float>()[i]) : activation;
        }
        // Bits differ only where the fp32 exponential's last bits meet a rounding border.
        EXPECT_LE(share_of_neighbours(activate(rule.gated ? halves(x, up) : x, rule), expected), 0.005);
    }
}

TEST(Activation, bf16_gradients_are_those_of_libtorchs_own_operations) {
    for (ActivationRule rule : kRules) {
        const at::Tensor x = gaussian({7, 24}, 1).to(at::kBFloat16).requires_grad_();
        const at::Tensor g = gaussian({7, rule.size(24)}, 2).to(at::kBFloat16);
        const std::int64_t size = rule.size(24);
        const at::Tensor y = rule.gated ? libtorch(x.narrow(1, 0, size), rule.kind) * x.narrow(1, size, size)
                                        : libtorch(x, rule.kind);
        y.backward(g);
        EXPECT_TRUE(activate_backward(g, x.detach(), rule).entered.equal(x.grad()));
    }
}

}  // namespace
}  // namespace qlora::ops
