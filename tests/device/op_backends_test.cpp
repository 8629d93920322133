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
#include "qlora/ops/norm.h"
#include "qlora/ops/rope.h"

namespace qlora::ops {
namespace {

using namespace test;
using kernels::Activation;
using kernels::NormKind;

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

struct NormOutcome {
    NormResult plain;
    at::Tensor again, added, gradient;
};

NormOutcome run(const Norm& norm, at::ScalarType dtype) {
    const at::Tensor x = gaussian({5, 72}, 1).to(dtype), residual = gaussian({5, 72}, 2).to(dtype);
    const at::Tensor dy = gaussian({5, 72}, 3).to(dtype);
    NormOutcome out{.plain = norm_forward(x, norm, {}, residual), .again = {}, .added = {}, .gradient = {}};
    out.again = norm_recompute(out.plain.sum, norm, out.plain.statistics);
    out.added = norm_added(x, norm, residual, 0.22).y;
    out.gradient = norm_backward(dy, out.plain.sum, norm, out.plain.statistics, residual);
    return out;
}

TEST(DeviceNorms, EveryKindIsThatOfTheCpu) {
    for (const NormKind kind : {NormKind::kRms, NormKind::kRmsLate, NormKind::kLayer}) {
        const at::Tensor bias = kind == NormKind::kLayer ? gaussian({72}, 5) : at::Tensor();
        const Norm norm{.kind = kind, .weight = gaussian({72}, 4), .bias = bias, .eps = 1e-5};
        for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
            const NormOutcome cpu = run(norm, dtype);
            const NormOutcome device = on_emulated([&] { return run(norm, dtype); });
            EXPECT_TRUE(device.plain.sum.equal(cpu.plain.sum));
            EXPECT_TRUE(device.again.equal(device.plain.y));
            // fp32: sums of 72 terms in another order. bf16: that moves a result to the neighbouring value.
            const double bound = dtype == at::kFloat ? 2e-6 : 2 * kBf16Rounding;
            EXPECT_LE(difference(device.plain.y, cpu.plain.y), bound);
            EXPECT_LE(difference(device.plain.statistics.inverse, cpu.plain.statistics.inverse), 2e-6);
            EXPECT_EQ(device.plain.statistics.mean.defined(), kind == NormKind::kLayer);
            EXPECT_LE(difference(device.added, cpu.added), bound);
            EXPECT_LE(difference(device.gradient, cpu.gradient), bound);
        }
    }
}

TEST(DeviceHeads, TurnAsOnTheCpu) {
    const TurnedHeads heads{.heads = 2, .head_dim = 16, .groups = 2, .group_stride = 48};
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        for (const at::ScalarType angles : {dtype, at::kFloat}) {
            for (const bool pairs : {false, true}) {
                const RopeTable table{.cos = gaussian({5, 6}, 1).to(angles),
                                      .sin = gaussian({5, 6}, 2).to(angles),
                                      .pairs = pairs};
                for (const RopeDirection direction : {RopeDirection::kForward, RopeDirection::kBackward}) {
                    at::Tensor cpu = gaussian({5, 100}, 3).to(dtype), device = cpu.clone();
                    const at::Tensor before = cpu.clone();
                    rope_(cpu, heads, table, direction);
                    on_emulated([&] {
                        rope_(device, heads, table, direction);
                        return true;
                    });
                    EXPECT_TRUE(device.equal(cpu));
                    EXPECT_FALSE(cpu.equal(before));
                }
            }
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

TEST(DeviceAdaptedHead, IsThatOfTheCpu) {
    const at::Tensor targets = random_ids(30, 131, 3);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const TrainedHead head(gaussian({131, 24}, 2).to(dtype).to(at::kFloat));
        const auto run = [&] {
            const at::Tensor hidden = gaussian({30, 24}, 1).to(dtype).requires_grad_();
            const at::Tensor a = gaussian({4, 24}, 4).to(dtype).to(at::kFloat).requires_grad_(),
                             b = gaussian({131, 4}, 5).to(dtype).to(at::kFloat).requires_grad_(),
                             bias = gaussian({131}, 6).requires_grad_();
            const LogitRule rule{.softcap = 5.0,
                                 .low_rank = LowRank{.a = a,
                                                     .b = b,
                                                     .bias = bias,
                                                     .scaling = 0.5,
                                                     .dropout = {.p = 0.2, .seed = 1, .step = 2, .site = 3}}};
            const at::Tensor loss = linear_cross_entropy(hidden, head, targets, rule);
            loss.backward();
            return std::vector<at::Tensor>{loss.detach(),
                                           hidden.grad(),
                                           a.grad(),
                                           b.grad(),
                                           bias.grad(),
                                           head_logits(hidden, head, rule),
                                           score_tokens(hidden, head, targets, rule).logprobs};
        };
        const std::vector<at::Tensor> cpu = run(), device = on_emulated(run);
        // As above; in bf16 a device rounds x A^T too.
        const double bound = dtype == at::kFloat ? 4e-6 : 8 * kBf16Rounding;
        for (std::size_t i = 0; i < cpu.size(); ++i) EXPECT_LE(difference(device[i], cpu[i]), bound) << i;
    }
}

}  // namespace
}  // namespace qlora::ops
