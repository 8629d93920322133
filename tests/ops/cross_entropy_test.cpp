#include "qlora/ops/cross_entropy.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros_like.h>
#include <cmath>

#include "ops/reference.h"

namespace qlora::ops {
namespace {

using namespace test;

constexpr std::int64_t kHidden = 24, kVocabulary = 131;
// Products of 24 terms, a softmax over 131, and sums over up to 1,100 rows in fp32 (losses in fp64).
constexpr double kLossBound = 3e-6;

at::Tensor exact_loss(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets) {
    const at::Tensor logits = at::mm(hidden, head.t());
    return -at::log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).sum();
}

class AroundTheChunk : public testing::TestWithParam<std::int64_t> {};
INSTANTIATE_TEST_SUITE_P(Rows, AroundTheChunk, testing::Values(1, 2, 511, 512, 513, 1023, 1024, 1025, 1100));

TEST(RowsOfLogits, are_fewer_where_they_are_long) {
    EXPECT_EQ(logits_rows(0), 512);
    EXPECT_EQ(logits_rows(49'152), 512);
    EXPECT_EQ(logits_rows(100'000), 335);  // 128 MiB
    EXPECT_EQ(logits_rows(152'000), 256);
}

TEST_P(AroundTheChunk, loss_and_gradient_of_a_frozen_head_equal_autograd_in_fp64) {
    ASSERT_EQ(logits_rows(kVocabulary), 512) << "the row counts above lie around the chunk's edges";
    const DenseWeight head(gaussian({kVocabulary, kHidden}, 2));
    const at::Tensor targets = random_ids(GetParam(), kVocabulary, 3);
    expect_equal_with_gradients(
        {gaussian({GetParam(), kHidden}, 1)},
        [&](const auto& in) { return linear_cross_entropy(in[0], head, targets); },
        [&](const auto& in) { return exact_loss(in[0], head.dense().to(at::kDouble), targets); }, kLossBound);
}

TEST_P(AroundTheChunk, loss_and_gradients_of_a_trained_head_equal_autograd_in_fp64) {
    const at::Tensor targets = random_ids(GetParam(), kVocabulary, 3);
    expect_equal_with_gradients(
        {gaussian({GetParam(), kHidden}, 1), gaussian({kVocabulary, kHidden}, 2)},
        [&](const auto& in) { return trainable_linear_cross_entropy(in[0], in[1], targets); },
        [&](const auto& in) { return exact_loss(in[0], in[1], targets); }, kLossBound);
}

TEST_P(AroundTheChunk, scores_are_log_probabilities_and_the_most_likely_token) {
    const at::Tensor hidden = gaussian({GetParam(), kHidden}, 1), head = gaussian({kVocabulary, kHidden}, 2);
    const at::Tensor logits = at::mm(hidden.to(at::kDouble), head.to(at::kDouble).t());
    at::Tensor targets = random_ids(GetParam(), kVocabulary, 3);
    targets.slice(0, 0, GetParam(), 2)
        .copy_(logits.argmax(1).slice(0, 0, GetParam(), 2));  // half of them right
    const TokenScores scores = score_tokens(hidden, DenseWeight(head), targets);
    const at::Tensor exact = at::log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).squeeze(1);
    EXPECT_LE(difference(scores.logprobs, exact), kLossBound);
    EXPECT_TRUE(scores.correct.equal(logits.argmax(1).eq(targets)));
    // The scores are of the very logits that the loss is of.
    const double loss = linear_cross_entropy(hidden, DenseWeight(head), targets).item<double>();
    EXPECT_NEAR(-scores.logprobs.to(at::kDouble).sum().item<double>(), loss, kLossBound * std::abs(loss));
}

TEST(CrossEntropy, a_head_of_several_panels_gives_the_same) {
    constexpr std::int64_t kWide = 30000, kRows = 600;
    ASSERT_GT(kRows * kWide * 4, kHeadPanelBytes);
    const DenseWeight head(gaussian({kRows, kWide}, 2) * 0.02);
    const at::Tensor targets = random_ids(3, kRows, 3);
    expect_equal_with_gradients(
        {gaussian({3, kWide}, 1)}, [&](const auto& in) { return linear_cross_entropy(in[0], head, targets); },
        [&](const auto& in) { return exact_loss(in[0], head.dense().to(at::kDouble), targets); },
        2e-5);  // sums of 30,000 products
    const at::Tensor hidden = gaussian({3, kWide}, 1);
    EXPECT_LE(difference(head_logits(hidden, head),
                         at::mm(hidden.to(at::kDouble), head.dense().to(at::kDouble).t())),
              2e-5);
}

/// Scale, softcap and bias as models have them, and all at once.
std::vector<LogitRule> logit_rules() {
    const at::Tensor bias = gaussian({kVocabulary}, 7);
    return {
        {.scale = 0.0625}, {.softcap = 3.0}, {.bias = bias}, {.scale = 0.7, .softcap = 5.0, .bias = bias}};
}

/// As transformers' models write it.
at::Tensor ruled(at::Tensor logits, const LogitRule& rule) {
    if (rule.bias.defined()) logits = logits + rule.bias.to(logits.scalar_type());
    if (rule.scale != 1.0) logits = logits * rule.scale;
    if (rule.softcap != 0.0) logits = at::tanh(logits / rule.softcap) * rule.softcap;
    return logits;
}

at::Tensor loss_of_logits(const at::Tensor& logits, const at::Tensor& targets) {
    return -at::log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).sum();
}

TEST(LogitRule, loss_and_gradients_equal_autograd_in_fp64) {
    const at::Tensor targets = random_ids(515, kVocabulary, 3);  // a chunk and some
    const DenseWeight head(gaussian({kVocabulary, kHidden}, 2));
    for (const LogitRule& rule : logit_rules()) {
        const auto exact = [&](const at::Tensor& hidden, const at::Tensor& weight) {
            return loss_of_logits(ruled(at::mm(hidden, weight.t()), rule), targets);
        };
        expect_equal_with_gradients(
            {gaussian({515, kHidden}, 1)},
            [&](const auto& in) { return linear_cross_entropy(in[0], head, targets, rule); },
            [&](const auto& in) { return exact(in[0], head.dense().to(at::kDouble)); }, kLossBound);
        expect_equal_with_gradients(
            {gaussian({515, kHidden}, 1), gaussian({kVocabulary, kHidden}, 2)},
            [&](const auto& in) { return trainable_linear_cross_entropy(in[0], in[1], targets, rule); },
            [&](const auto& in) { return exact(in[0], in[1]); }, kLossBound);
    }
}

TEST(LogitRule, logits_and_scores_follow_it) {
    const at::Tensor hidden = gaussian({40, kHidden}, 1), targets = random_ids(40, kVocabulary, 3);
    const DenseWeight head(gaussian({kVocabulary, kHidden}, 2));
    for (const LogitRule& rule : logit_rules()) {
        const at::Tensor logits =
            ruled(at::mm(hidden.to(at::kDouble), head.dense().to(at::kDouble).t()), rule);
        EXPECT_LE(difference(head_logits(hidden, head, rule), logits), kLossBound);
        const at::Tensor exact = at::log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).squeeze(1);
        EXPECT_LE(difference(score_tokens(hidden, head, targets, rule).logprobs, exact), kLossBound);
    }
}

TEST(LogitRule, bf16_rounds_every_step_as_libtorchs_operations_do) {
    const at::Tensor hidden = gaussian({300, kHidden}, 1).to(at::kBFloat16).requires_grad_();
    const DenseWeight head(gaussian({kVocabulary, kHidden}, 2).to(at::kBFloat16).to(at::kFloat));
    const at::Tensor targets = random_ids(300, kVocabulary, 3);
    for (LogitRule rule : logit_rules()) {
        if (rule.bias.defined()) rule.bias = rule.bias.to(at::kBFloat16);
        // The product and its bias are rounded once (nn.Linear); what follows is operations on bf16 tensors.
        const LogitRule bias_alone{.bias = rule.bias};
        const at::Tensor product =
            head_logits(hidden.detach(), head, bias_alone).to(at::kBFloat16).requires_grad_();
        const LogitRule rest{.scale = rule.scale, .softcap = rule.softcap};
        const at::Tensor logits = ruled(product, rest);
        EXPECT_TRUE(head_logits(hidden.detach(), head, rule).equal(logits.detach().to(at::kFloat)));
        const at::Tensor exact = loss_of_logits(logits.to(at::kFloat).to(at::kDouble), targets);
        exact.backward();
        hidden.mutable_grad() = at::Tensor();
        const at::Tensor loss = linear_cross_entropy(hidden, head, targets, rule);
        loss.backward();
        // Of the very same logits: a double sum of fp32 softmaxes.
        EXPECT_LE(std::abs(loss.item<double>() / exact.item<double>() - 1.0), 1e-6);
        const at::Tensor gradient =
            at::mm(product.grad().to(at::kDouble), head.dense().to(at::kDouble)).to(at::kBFloat16);
        // The gradient of a logit is the same bf16 value but where fp32 softmax and fp64 differ in rounding.
        EXPECT_LE(difference(hidden.grad(), gradient), kBf16Rounding);
    }
}

constexpr std::int64_t kRank = 5;

/// A rule with an adapter of these matrices; with `p` some of hidden's values are dropped.
LogitRule adapted(LogitRule rule, const at::Tensor& a, const at::Tensor& b, double p = 0.0) {
    rule.low_rank =
        LowRank{.a = a, .b = b, .scaling = 0.7, .dropout = {.p = p, .seed = 3, .step = 4, .site = 5}};
    return rule;
}

TEST(AdaptedHead, loss_and_gradients_equal_autograd_in_fp64) {
    const DenseWeight head(gaussian({kVocabulary, kHidden}, 2));
    std::vector<LogitRule> rules = logit_rules();
    rules.insert(rules.begin(), LogitRule{});
    for (const std::int64_t rows : {1, 515}) {
        const at::Tensor targets = random_ids(rows, kVocabulary, 3);
        for (const double p : {0.0, 0.3}) {
            const DropoutSite site = adapted({}, {}, {}, p).low_rank->dropout;
            const at::Tensor kept = apply_dropout(at::ones({rows, kHidden}), site).to(at::kDouble);
            for (const LogitRule& rule : rules) {
                expect_equal_with_gradients(
                    {gaussian({rows, kHidden}, 1), gaussian({kRank, kHidden}, 4),
                     gaussian({kVocabulary, kRank}, 5)},
                    [&](const auto& in) {
                        return linear_cross_entropy(in[0], head, targets, adapted(rule, in[1], in[2], p));
                    },
                    [&](const auto& in) {
                        at::Tensor logits = at::mm(in[0], head.dense().to(at::kDouble).t());
                        logits = logits + at::mm(at::mm(in[0] * kept, in[1].t()), in[2].t()) * 0.7;
                        return loss_of_logits(ruled(logits, rule), targets);
                    },
                    kLossBound);
            }
        }
    }
}

TEST(AdaptedHead, its_bias_is_scaled_and_trains) {
    const DenseWeight head(gaussian({kVocabulary, kHidden}, 2));
    const at::Tensor a = gaussian({kRank, kHidden}, 4), b = gaussian({kVocabulary, kRank}, 5);
    const at::Tensor hidden = gaussian({9, kHidden}, 1), targets = random_ids(9, kVocabulary, 3);
    const at::Tensor trained_a = a.clone().requires_grad_(), trained_b = b.clone().requires_grad_();
    const at::Tensor bias = gaussian({kVocabulary}, 6).requires_grad_();
    LogitRule rule = adapted({}, trained_a, trained_b);
    rule.low_rank->bias = bias;
    linear_cross_entropy(hidden, head, targets, rule).backward();
    const at::Tensor exact = bias.detach().to(at::kDouble).requires_grad_();
    const at::Tensor delta = at::mm(at::mm(hidden, a.t()), b.t()).to(at::kDouble);
    loss_of_logits(at::mm(hidden, head.dense().t()).to(at::kDouble) + (delta + exact) * 0.7, targets)
        .backward();
    EXPECT_LE(difference(bias.grad(), exact.grad()), kLossBound);
    EXPECT_TRUE(trained_a.grad().defined() && trained_b.grad().defined());
}

TEST(AdaptedHead, logits_and_scores_are_those_of_the_sum) {
    const at::Tensor hidden = gaussian({40, kHidden}, 1), targets = random_ids(40, kVocabulary, 3);
    const at::Tensor w = gaussian({kVocabulary, kHidden}, 2), a = gaussian({kRank, kHidden}, 4),
                     b = gaussian({kVocabulary, kRank}, 5);
    const at::Tensor sum = w.to(at::kDouble) + at::mm(b.to(at::kDouble), a.to(at::kDouble)) * 0.7;
    for (const LogitRule& rule : logit_rules()) {
        const at::Tensor logits = ruled(at::mm(hidden.to(at::kDouble), sum.t()), rule);
        const LogitRule with = adapted(rule, a, b);
        EXPECT_LE(difference(head_logits(hidden, DenseWeight(w), with), logits), kLossBound);
        const at::Tensor exact = at::log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).squeeze(1);
        EXPECT_LE(difference(score_tokens(hidden, DenseWeight(w), targets, with).logprobs, exact),
                  kLossBound);
    }
}

TEST(AdaptedHead, bf16_rounds_the_heads_logits_and_then_the_sum) {
    const at::Tensor hidden = gaussian({300, kHidden}, 1).to(at::kBFloat16);
    const DenseWeight head(gaussian({kVocabulary, kHidden}, 2).to(at::kBFloat16).to(at::kFloat));
    const at::Tensor a = gaussian({kRank, kHidden}, 4), b = gaussian({kVocabulary, kRank}, 5);
    const at::Tensor base = head_logits(hidden, head);
    const at::Tensor wide = hidden.to(at::kFloat);
    const at::Tensor sum = (base + at::mm(at::mm(wide, a.t()), b.t()) * 0.7).to(at::kBFloat16);
    EXPECT_LE(difference(head_logits(hidden, head, adapted({}, a, b)), sum), kBf16Rounding);
    // And one that adds nothing changes no bit.
    const LogitRule nothing = adapted({}, a, at::zeros_like(b));
    EXPECT_TRUE(head_logits(hidden, head, nothing).equal(base));
}

TEST(AdaptedHead, no_row_gives_zero) {
    const at::Tensor a = gaussian({kRank, kHidden}, 4).requires_grad_(),
                     b = gaussian({kVocabulary, kRank}, 5).requires_grad_();
    const at::Tensor hidden = at::empty({0, kHidden}), targets = at::empty({0}, at::kLong);
    const DenseWeight head(gaussian({kVocabulary, kHidden}, 2));
    linear_cross_entropy(hidden, head, targets, adapted({}, a, b)).backward();
    EXPECT_FALSE(a.grad().any().item<bool>() || b.grad().any().item<bool>());
}

TEST(CrossEntropy, no_row_gives_zero) {
    const at::Tensor hidden = at::empty({0, kHidden}).requires_grad_(),
                     head = gaussian({kVocabulary, kHidden}, 2);
    const at::Tensor none = at::empty({0}, at::kLong);
    const at::Tensor loss = linear_cross_entropy(hidden, DenseWeight(head), none);
    loss.backward();
    EXPECT_EQ(loss.item<float>(), 0.0F);
    EXPECT_EQ(hidden.grad().sizes(), at::IntArrayRef({0, kHidden}));
    EXPECT_EQ(score_tokens(hidden.detach(), DenseWeight(head), none).logprobs.numel(), 0);
}

TEST(CrossEntropy, huge_logits_do_not_overflow) {
    const at::Tensor hidden = (gaussian({3, kHidden}, 1) * 1e4).requires_grad_();
    const DenseWeight head(gaussian({kVocabulary, kHidden}, 2));
    const at::Tensor loss = linear_cross_entropy(hidden, head, random_ids(3, kVocabulary, 3));
    loss.backward();
    EXPECT_TRUE(loss.isfinite().item<bool>());
    EXPECT_GT(loss.item<float>(), 100.0F);
    EXPECT_TRUE(hidden.grad().isfinite().all().item<bool>());
}

TEST(CrossEntropy, only_what_requires_a_gradient_gets_one) {
    const at::Tensor targets = random_ids(5, kVocabulary, 3);
    for (const bool train_hidden : {false, true}) {
        const at::Tensor hidden = gaussian({5, kHidden}, 1).requires_grad_(train_hidden);
        const at::Tensor head = gaussian({kVocabulary, kHidden}, 2).requires_grad_(!train_hidden);
        trainable_linear_cross_entropy(hidden, head, targets).backward();
        EXPECT_EQ(hidden.grad().defined(), train_hidden);
        EXPECT_EQ(head.grad().defined(), !train_hidden);
    }
    const at::AutoGradMode off(false);
    const at::Tensor hidden = gaussian({5, kHidden}, 1).requires_grad_();
    EXPECT_FALSE(linear_cross_entropy(hidden, DenseWeight(gaussian({kVocabulary, kHidden}, 2)), targets)
                     .requires_grad());
}

TEST(CrossEntropy, bf16_logits_are_rounded_and_their_softmax_is_fp32) {
    const at::Tensor hidden = gaussian({300, kHidden}, 1).to(at::kBFloat16).requires_grad_();
    const DenseWeight head(gaussian({kVocabulary, kHidden}, 2).to(at::kBFloat16).to(at::kFloat));
    const at::Tensor targets = random_ids(300, kVocabulary, 3);
    const at::Tensor loss = linear_cross_entropy(hidden, head, targets);
    loss.backward();
    EXPECT_EQ(loss.scalar_type(), at::kFloat);
    // The same with the rounding where transformers has it: after the product, before the softmax.
    const at::Tensor weight = head.dense().to(at::kDouble);
    const at::Tensor logits = at::mm(hidden.detach().to(at::kDouble), weight.t())
                                  .to(at::kFloat)
                                  .to(at::kBFloat16)
                                  .to(at::kDouble)
                                  .requires_grad_();
    const at::Tensor exact = -at::log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).sum();
    exact.backward();
    // fp32 noise flips the rounding of about one logit in 10^4 by 2^-8 of it: the sum of 300 losses hardly
    // moves.
    EXPECT_LE(std::abs(loss.item<double>() / exact.item<double>() - 1.0), 1e-5);
    const at::Tensor gradient =
        at::mm(logits.grad().to(at::kFloat).to(at::kBFloat16).to(at::kDouble), weight);
    EXPECT_EQ(hidden.grad().scalar_type(), at::kBFloat16);
    EXPECT_LE(difference(hidden.grad(), gradient), kBf16Rounding + 1e-4);
}

}  // namespace
}  // namespace qlora::ops
