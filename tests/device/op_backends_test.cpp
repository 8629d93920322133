// Operations whose backends differ: a device's against the CPU's on the same tensors.
#include "device/emulated.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/reference.h"
#include "qlora/ops/activation.h"
#include "qlora/ops/cross_entropy.h"
#include "qlora/ops/device.h"

namespace qlora::ops {
namespace {

using namespace test;
using kernels::Activation;

/// What run() gives on the kernels of a device.
template <class Run>
auto on_emulated(const Run& run) {
    const CpuKernelsGuard guard(kernels::emulated::kernel_table());
    return run();
}

TEST(DeviceActivations, GiveTheBitsOfTheCpuInFp32) {
    for (Activation kind : {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu}) {
        for (const bool gated : {true, false}) {
            const ActivationRule rule{kind, gated};
            const at::Tensor entered = gaussian({7, 48}, 1) * 4, g = gaussian({7, rule.size(48)}, 2);
            const at::Tensor y = activate(entered, rule);
            const ActivationGradient gradient = activate_backward(g, entered, rule);
            const at::Tensor roomy = at::empty({7, 64}).narrow(1, 0, rule.size(48));
            EXPECT_TRUE(on_emulated([&] { return activate(entered, rule, roomy); }).equal(y));
            EXPECT_TRUE(roomy.equal(y));
            const ActivationGradient found = on_emulated([&] { return activate_backward(g, entered, rule); });
            EXPECT_TRUE(found.entered.equal(gradient.entered));
            EXPECT_TRUE(found.y.equal(y));
        }
    }
}

struct LossAndGradients {
    at::Tensor loss, hidden, head, logits, logprobs;
};

LossAndGradients run(at::ScalarType dtype, const LogitRule& rule) {
    const at::Tensor hidden = gaussian({30, 24}, 1).to(dtype).requires_grad_();
    const at::Tensor head = gaussian({131, 24}, 2).to(dtype).to(at::kFloat).requires_grad_();
    const at::Tensor targets = random_ids(30, 131, 3);
    const at::Tensor loss = trainable_linear_cross_entropy(hidden, head, targets, rule);
    loss.backward();
    const TrainedHead frozen(head);
    return {loss.detach(), hidden.grad(), head.grad(), head_logits(hidden, frozen, rule),
            score_tokens(hidden, frozen, targets, rule).logprobs};
}

TEST(DeviceLogitRule, IsThatOfTheCpu) {
    const at::Tensor bias = gaussian({131}, 7);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        for (const LogitRule& rule : {LogitRule{}, LogitRule{.scale = 0.0625}, LogitRule{.softcap = 3.0},
                                      LogitRule{.scale = 0.7, .softcap = 5.0, .bias = bias.to(dtype)}}) {
            const LossAndGradients cpu = run(dtype, rule);
            const LossAndGradients device = on_emulated([&] { return run(dtype, rule); });
            // fp32: products of 24 terms and softmaxes in another order. bf16: that moves a logit, and with
            // it a gradient, to the neighbouring value here and there.
            const double bound = dtype == at::kFloat ? 3e-6 : 2 * kBf16Rounding;
            EXPECT_LE(difference(device.loss, cpu.loss), bound);
            EXPECT_LE(difference(device.hidden, cpu.hidden), bound);
            EXPECT_LE(difference(device.head, cpu.head), bound);
            EXPECT_LE(difference(device.logits, cpu.logits), bound);
            EXPECT_LE(difference(device.logprobs, cpu.logprobs), bound);
        }
    }
}

}  // namespace
}  // namespace qlora::ops
