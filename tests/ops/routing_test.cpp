#include "qlora/ops/routing.h"

#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include "ops/reference.h"

namespace qlora::ops {
namespace {

using namespace test;

TEST(Routing, takes_the_largest_and_the_first_of_equals) {
    const at::Tensor logits =
        at::tensor({0.0, 2.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0}).to(at::kFloat).view({2, 4});
    const Routing routing = route(logits, {.chosen = 2});
    const auto [values, order] = at::topk(at::softmax(logits, -1), 2, -1);
    EXPECT_TRUE(routing.experts.equal(order)) << "torch.topk's order, which transformers has";
    EXPECT_EQ(routing.experts[0][0].item<std::int64_t>(), 1);
    EXPECT_TRUE(routing.weights.equal(values));
    EXPECT_TRUE(routing.probabilities.sum(-1).sub(1).abs().lt(1e-6).all().item<bool>());
}

TEST(Routing, weights_are_renormalised_and_rounded_as_asked) {
    const at::Tensor logits = gaussian({7, 5}, 1).to(at::kBFloat16);
    const Routing plain = route(logits, {.chosen = 3, .rounds = false});
    EXPECT_EQ(plain.weights.scalar_type(), at::kFloat);
    const Routing rounded = route(logits, {.chosen = 3});
    EXPECT_TRUE(rounded.weights.equal(plain.weights.to(at::kBFloat16)));
    const Routing whole = route(logits, {.chosen = 3, .renormalises = true, .rounds = false});
    EXPECT_TRUE(whole.weights.sum(-1).sub(1).abs().lt(1e-6).all().item<bool>());
    EXPECT_TRUE(whole.experts.equal(plain.experts));
}

TEST(Routing, its_gradient_is_that_of_softmax_and_choice) {
    for (const bool renormalises : {false, true}) {
        const RoutingRule rule{.chosen = 3, .renormalises = renormalises};
        const at::Tensor logits = gaussian({11, 6}, 2), g = gaussian({11, 3}, 3), all = gaussian({6}, 4);
        at::Tensor exact = logits.to(at::kDouble).requires_grad_();
        const at::Tensor p = at::softmax(exact, -1);
        at::Tensor w = std::get<0>(at::topk(p, 3, -1));
        if (renormalises) w = w / w.sum(-1, true);
        ((w * g).sum() + (p * all).sum()).backward();
        const at::Tensor found = route_backward(g, route(logits, rule), rule, all);
        EXPECT_LE(difference(found, exact.grad()), 1e-6) << renormalises;
    }
}

TEST(Routing, rows_are_gathered_by_expert_in_the_order_of_the_tokens) {
    const at::Tensor experts = at::tensor({2, 0, 0, 3, 2, 3}, at::kLong).view({3, 2});
    const ExpertRows rows = rows_by_expert(experts, 5);
    EXPECT_EQ(rows.begin, (std::vector<std::int64_t>{0, 2, 2, 4, 6, 6}));
    EXPECT_TRUE(rows.tokens.equal(at::tensor({0, 1, 0, 2, 1, 2}, at::kLong)));
    EXPECT_TRUE(rows.choices.equal(at::tensor({1, 2, 0, 4, 3, 5}, at::kLong)));
    EXPECT_TRUE(rows.places.equal(at::tensor({2, 0, 1, 4, 3, 5}, at::kLong).view({3, 2})));
}

TEST(Routing, a_tokens_rows_are_summed_in_the_order_of_its_choice) {
    const at::Tensor experts = at::tensor({1, 0, 0, 1}, at::kLong).view({2, 2});
    const ExpertRows by_expert = rows_by_expert(experts, 2);
    // Token 0 chose expert 1 first: 1e8 and then -1e8 + 1 would give another sum.
    const at::Tensor rows = at::tensor({-1e8, 1.0, 1e8, 2.0}).to(at::kFloat).view({4, 1});
    const at::Tensor sum = sum_of_choices(rows, by_expert);
    EXPECT_EQ(sum[0][0].item<float>(), 0.0F);
    EXPECT_EQ(sum[1][0].item<float>(), 3.0F);
    const at::Tensor weights = at::tensor({0.5, 0.25, 2.0, 4.0}).to(at::kFloat).view({2, 2});
    EXPECT_EQ(sum_of_choices(rows, by_expert, weights)[1][0].item<float>(), 2.0F * 1.0F + 4.0F * 2.0F);
}

TEST(RouterBalance, is_the_mean_over_layers_and_tokens) {
    RouterBalance balance;
    EXPECT_FALSE(balance.loss().defined());
    at::Tensor choices = at::zeros({4}, at::kDouble), mean = at::zeros({4}, at::kDouble);
    std::int64_t rows = 0;
    for (const std::int64_t tokens : {5, 9}) {
        const Routing routing =
            route(gaussian({tokens, 4}, static_cast<std::uint64_t>(tokens)), {.chosen = 2});
        balance.add(routing);
        for (std::int64_t t = 0; t < tokens; ++t) {
            for (std::int64_t k = 0; k < 2; ++k) choices[routing.experts[t][k].item<std::int64_t>()] += 1;
            mean += routing.probabilities[t].to(at::kDouble);
        }
        rows += tokens;
    }
    choices /= rows;
    mean /= rows;
    EXPECT_NEAR(balance.loss().item<double>(), 4 * (choices * mean).sum().item<double>(), 1e-6);
    EXPECT_FALSE(balance.probability_gradient().defined());
    balance.set_scale(0.5);
    EXPECT_LE(difference(balance.probability_gradient(), 0.5 * 4 * choices / rows), 1e-6);
}

}  // namespace
}  // namespace qlora::ops
