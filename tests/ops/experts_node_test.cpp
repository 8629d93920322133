#include "qlora/ops/experts_node.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/topk.h>

#include "ops/reference.h"

namespace qlora::ops {
namespace {

using namespace test;

constexpr std::int64_t kExpertTokens = 11, kExpertHidden = 12, kExpertInner = 20, kExpertCount = 5,
                       kExpertRank = 2;
constexpr double kExpertEps = 1e-5, kExpertScaling = 0.5;

/// What one projection of a matrix is, with or without an adapter.
Projections single_part(const FrozenWeight& weight, const std::optional<LowRank>& adapter = {}) {
    Projections out;
    out.parts = {{.weight = &weight, .trained_weight = {}, .bias = {}, .update = {.low_rank = adapter}}};
    return out;
}

struct SmallExperts {
    SmallExperts() {
        for (std::int64_t e = 0; e < kExpertCount; ++e) {
            const auto seed = static_cast<std::uint64_t>(10 * e);
            gate.emplace_back(gaussian({kExpertInner, kExpertHidden}, seed + 1) * 0.3);
            up.emplace_back(gaussian({kExpertInner, kExpertHidden}, seed + 2) * 0.3);
            down.emplace_back(gaussian({kExpertHidden, kExpertInner}, seed + 3) * 0.3);
        }
    }

    /// `inputs` after hidden and norm: A and B of the entries, of the outputs, of the router.
    Experts with(const std::vector<at::Tensor>& inputs, const RoutingRule& rule, bool has_shared) {
        Experts out{.count = kExpertCount, .routing = rule};
        out.entry = {inputs[2], inputs[3]};
        out.output = {inputs[4], inputs[5]};
        out.router = single_part(router, LowRank{.a = inputs[6], .b = inputs[7], .scaling = kExpertScaling});
        out.expert = [this, entry = out.entry, output = out.output](std::int64_t e) {
            const auto place = static_cast<std::size_t>(e);
            const at::Tensor a = slice_a(entry.a.detach(), e), b = slice_b(entry.b.detach(), e);
            MlpProjections mlp;
            mlp.entry = single_part(
                gate[place], LowRank{.a = a, .b = b.narrow(0, 0, kExpertInner), .scaling = kExpertScaling});
            mlp.entry.parts.push_back(
                {.weight = &up[place],
                 .trained_weight = {},
                 .bias = {},
                 .update = {.low_rank = LowRank{.a = a,
                                                .b = b.narrow(0, kExpertInner, kExpertInner),
                                                .scaling = kExpertScaling}}});
            mlp.output = single_part(down[place], LowRank{.a = slice_a(output.a.detach(), e),
                                                          .b = slice_b(output.b.detach(), e),
                                                          .scaling = kExpertScaling});
            ++times_asked;
            return mlp;
        };
        if (has_shared) {
            out.shared = SharedExpert{.gate = single_part(shared_gate),
                                      .mlp = {single_part(shared_up), single_part(shared_down)}};
        }
        return out;
    }

    static at::Tensor slice_a(const at::Tensor& a, std::int64_t e) {
        return a.view({kExpertCount, kExpertRank, -1}).select(0, e);
    }
    static at::Tensor slice_b(const at::Tensor& b, std::int64_t e) {
        return b.view({-1, kExpertRank, kExpertCount}).select(2, e).contiguous();
    }

    /// Token by token, in fp64, through autograd.
    at::Tensor obvious(const std::vector<at::Tensor>& inputs, const RoutingRule& rule,
                       bool has_shared) const {
        const auto wide = [](const DenseWeight& weight) { return weight.dense().to(at::kDouble); };
        const at::Tensor& hidden = inputs[0];
        const at::Tensor x = hidden * at::rsqrt(hidden.pow(2).mean(-1, true) + kExpertEps) * inputs[1];
        const at::Tensor logits = x.matmul((wide(router) + kExpertScaling * inputs[7].matmul(inputs[6])).t());
        auto [weights, chosen] = at::topk(at::softmax(logits, -1), rule.chosen, -1);
        if (rule.renormalises) weights = weights / weights.sum(-1, true);
        const auto effective = [&](const at::Tensor& base, std::size_t a, std::int64_t e) {
            const at::Tensor of_a = inputs[a].view({kExpertCount, kExpertRank, -1}).select(0, e);
            const at::Tensor of_b = inputs[a + 1].view({-1, kExpertRank, kExpertCount}).select(2, e);
            return base + kExpertScaling * of_b.matmul(of_a);
        };
        std::vector<at::Tensor> rows;
        for (std::int64_t t = 0; t < hidden.size(0); ++t) {
            at::Tensor row = hidden[t];
            for (std::int64_t k = 0; k < rule.chosen; ++k) {
                const auto e = chosen[t][k].item<std::int64_t>();
                const auto place = static_cast<std::size_t>(e);
                const at::Tensor entered =
                    effective(at::cat({wide(gate[place]), wide(up[place])}, 0), 2, e).matmul(x[t]);
                const at::Tensor inner = at::silu(entered.narrow(0, 0, kExpertInner)) *
                                         entered.narrow(0, kExpertInner, kExpertInner);
                row = row + weights[t][k] * effective(wide(down[place]), 4, e).matmul(inner);
            }
            rows.push_back(row);
        }
        at::Tensor out = at::stack(rows);
        if (!has_shared) return out;
        const at::Tensor entered = x.matmul(wide(shared_up).t());
        const at::Tensor inner = at::silu(entered.narrow(1, 0, 4)) * entered.narrow(1, 4, 4);
        return out + at::sigmoid(x.matmul(wide(shared_gate).t())) * inner.matmul(wide(shared_down).t());
    }

    std::vector<DenseWeight> gate, up, down;
    DenseWeight router{gaussian({kExpertCount, kExpertHidden}, 91)};
    DenseWeight shared_gate{gaussian({1, kExpertHidden}, 92)};
    DenseWeight shared_up{gaussian({8, kExpertHidden}, 93)};
    DenseWeight shared_down{gaussian({kExpertHidden, 4}, 94)};
    int times_asked = 0;
};

std::vector<at::Tensor> expert_inputs() {
    const std::int64_t r = kExpertRank * kExpertCount;
    return {gaussian({kExpertTokens, kExpertHidden}, 1),
            gaussian({kExpertHidden}, 2),
            gaussian({r, kExpertHidden}, 3) * 0.3,
            gaussian({2 * kExpertInner, r}, 4) * 0.3,
            gaussian({r, kExpertInner}, 5) * 0.3,
            gaussian({kExpertHidden, r}, 6) * 0.3,
            gaussian({kExpertRank, kExpertHidden}, 7) * 0.3,
            gaussian({kExpertCount, kExpertRank}, 8) * 0.3};
}

Norm norm_of(const at::Tensor& weight) {
    return {.kind = kernels::NormKind::kRms, .weight = weight, .bias = {}, .eps = kExpertEps};
}

TEST(ExpertsNode, is_the_obvious_sum_with_its_gradients) {
    for (const bool has_shared : {false, true}) {
        for (const bool renormalises : {false, true}) {
            for (const ExpertsMemory memory : {ExpertsMemory::kInput, ExpertsMemory::kInner}) {
                SmallExperts experts;
                const RoutingRule rule{.chosen = 2, .renormalises = renormalises};
                expect_equal_with_gradients(
                    expert_inputs(),
                    [&](const std::vector<at::Tensor>& in) {
                        return experts_residual(in[0], norm_of(in[1]), experts.with(in, rule, has_shared),
                                                memory);
                    },
                    [&](const std::vector<at::Tensor>& in) { return experts.obvious(in, rule, has_shared); },
                    5e-6);
            }
        }
    }
}

/// The result and the gradients of all inputs.
std::vector<at::Tensor> run_experts(at::ScalarType dtype, ExpertsMemory memory, NodeOutput output) {
    SmallExperts experts;
    std::vector<at::Tensor> inputs = expert_inputs();
    inputs[0] = inputs[0].to(dtype);
    for (at::Tensor& input : inputs) input = input.detach().clone().requires_grad_();
    const at::Tensor y = experts_residual(inputs[0], norm_of(inputs[1]),
                                          experts.with(inputs, {.chosen = 3}, true), memory, output);
    torch::autograd::backward({y}, {gaussian(y.sizes(), 9).to(dtype)});
    std::vector<at::Tensor> out = {output == NodeOutput::kUsed ? y.detach() : at::Tensor()};
    for (const at::Tensor& input : inputs) out.push_back(input.grad());
    return out;
}

TEST(ExpertsNode, what_is_kept_changes_no_bit) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const std::vector<at::Tensor> expected = run_experts(dtype, ExpertsMemory::kInner, NodeOutput::kUsed);
        for (const NodeOutput output : {NodeOutput::kUsed, NodeOutput::kGraphOnly}) {
            const std::vector<at::Tensor> found = run_experts(dtype, ExpertsMemory::kInput, output);
            for (std::size_t i = 0; i < expected.size(); ++i) {
                if (!found[i].defined()) continue;
                EXPECT_TRUE(found[i].equal(expected[i])) << i;
                EXPECT_TRUE(expected[i].any().item<bool>()) << i;
            }
        }
    }
}

TEST(ExpertsNode, an_expert_without_rows_is_not_asked) {
    SmallExperts experts;
    std::vector<at::Tensor> inputs = expert_inputs();
    for (at::Tensor& input : inputs) input.requires_grad_();
    const at::Tensor one = inputs[0].detach().narrow(0, 0, 1).clone().requires_grad_();
    const at::Tensor y = experts_residual(one, norm_of(inputs[1]), experts.with(inputs, {.chosen = 2}, false),
                                          ExpertsMemory::kInput);
    EXPECT_EQ(experts.times_asked, 2);
    y.sum().backward();
    EXPECT_EQ(experts.times_asked, 4);
    std::int64_t zero = 0;
    const at::Tensor of_a = inputs[2].grad().view({kExpertCount, -1});
    for (std::int64_t e = 0; e < kExpertCount; ++e) zero += of_a[e].any().item<bool>() ? 0 : 1;
    EXPECT_EQ(zero, kExpertCount - 2);
}

TEST(ExpertsNode, without_gradients_it_is_the_same_result) {
    SmallExperts experts;
    const std::vector<at::Tensor> inputs = expert_inputs();
    const auto run = [&] {
        return experts_residual(inputs[0], norm_of(inputs[1]), experts.with(inputs, {.chosen = 2}, true),
                                ExpertsMemory::kInner);
    };
    const at::Tensor with = run();
    const at::AutoGradMode off(false);
    EXPECT_TRUE(run().equal(with));
}

TEST(ExpertsNode, an_uneven_router_is_told_so_in_backward) {
    SmallExperts experts;
    const RoutingRule rule{.chosen = 2};
    const double scale = 3.0;
    std::vector<at::Tensor> inputs = expert_inputs(), exact;
    for (at::Tensor& input : inputs) exact.push_back(input.to(at::kDouble).requires_grad_());
    for (at::Tensor& input : inputs) input.requires_grad_();
    Experts balanced = experts.with(inputs, rule, false);
    balanced.balance = std::make_shared<RouterBalance>();
    const std::shared_ptr<RouterBalance> balance = balanced.balance;
    const at::Tensor y =
        experts_residual(inputs[0], norm_of(inputs[1]), std::move(balanced), ExpertsMemory::kInput);
    balance->set_scale(scale);
    y.sum().backward();

    const at::Tensor x = exact[0] * at::rsqrt(exact[0].pow(2).mean(-1, true) + kExpertEps) * exact[1];
    const at::Tensor effective =
        experts.router.dense().to(at::kDouble) + kExpertScaling * exact[7].matmul(exact[6]);
    const at::Tensor p = at::softmax(x.matmul(effective.t()), -1);
    const at::Tensor chosen = std::get<1>(at::topk(p, 2, -1));
    at::Tensor share = at::zeros({kExpertCount}, at::kDouble);
    for (std::int64_t e = 0; e < kExpertCount; ++e) share[e] = chosen.eq(e).sum() / double(kExpertTokens);
    const at::Tensor loss = (share * p.mean(0)).sum() * double(kExpertCount);
    EXPECT_NEAR(balance->loss().item<double>(), loss.item<double>(), 1e-5);
    (experts.obvious(exact, rule, false).sum() + scale * loss).backward();
    for (const std::size_t i : {0UL, 1UL, 6UL, 7UL})
        EXPECT_LE(difference(inputs[i].grad(), exact[i].grad(), 0.1), 1e-5) << i;
}

}  // namespace
}  // namespace qlora::ops
