#include "qlora/train/memory_choice.h"
#include "support/llama_config.h"

#include <gtest/gtest.h>

namespace qlora {
namespace {

using nn::Recomputation;
using train::GradientCheckpointing;
using train::MemoryChoice;
using train::MemoryRequest;

/// Llama's shapes, a hundredth of its width; activations outweigh all else.
MemoryRequest long_rows() {
    models::DecoderSpec config = test::llama_config(
        {.vocab = 300, .hidden = 40, .inner = 140, .layers = 32, .heads = 4, .kv_heads = 1, .head_dim = 10});
    MemoryRequest request{.config = config};
    request.trained_elements = 1000;
    request.tokens = 20'000;
    request.supervised_tokens = 10'000;
    return request;
}

std::int64_t needed(MemoryRequest request, Recomputation level, bool keep_dense = false) {
    request.recomputation = level;
    request.keep_dense = keep_dense;
    return train::plan_memory(request).needed();
}

/// The least available memory under which `bytes` fit.
std::int64_t just_enough_for(std::int64_t bytes) {
    return (bytes + 8) / 9 * 10;
}

MemoryChoice automatic(std::int64_t available) {
    return train::choose_memory(long_rows(), GradientCheckpointing::kAuto, available);
}

TEST(MemoryChoice, auto_takes_the_first_level_that_fits) {
    const std::int64_t none = needed(long_rows(), Recomputation::kNone),
                       mlp = needed(long_rows(), Recomputation::kMlp),
                       layers = needed(long_rows(), Recomputation::kLayers);
    ASSERT_LT(layers, mlp);
    ASSERT_LT(mlp, none);
    const std::pair<std::int64_t, Recomputation> cases[] = {
        {10 * none, Recomputation::kNone},
        {just_enough_for(none), Recomputation::kNone},
        {just_enough_for(none) - 20, Recomputation::kMlp},
        {just_enough_for(mlp), Recomputation::kMlp},
        {just_enough_for(mlp) - 20, Recomputation::kLayers},
        {just_enough_for(layers), Recomputation::kLayers},
        {layers / 2, Recomputation::kLayers},  // fits nowhere: the least
        {0, Recomputation::kLayers}};
    for (const auto& [available, expected] : cases) {
        const MemoryChoice choice = automatic(available);
        EXPECT_EQ(choice.recomputation, expected) << available << " bytes available";
        EXPECT_EQ(choice.plan.needed(), needed(long_rows(), expected, choice.keep_dense));
    }
}

TEST(MemoryChoice, true_and_false_are_whole_layers_and_none_whatever_is_available) {
    for (const std::int64_t available :
         {std::int64_t{0}, needed(long_rows(), Recomputation::kMlp), std::int64_t{1} << 40}) {
        EXPECT_EQ(train::choose_memory(long_rows(), GradientCheckpointing::kOff, available).recomputation,
                  Recomputation::kNone);
        EXPECT_EQ(train::choose_memory(long_rows(), GradientCheckpointing::kOn, available).recomputation,
                  Recomputation::kLayers);
    }
}

TEST(MemoryChoice, kept_fp32_forms_are_given_up_before_anything_is_made_again) {
    MemoryRequest request = long_rows();
    request.tokens = 2'000;
    request.supervised_tokens = 1'000;
    const std::int64_t kept = needed(request, Recomputation::kNone, true),
                       fresh = needed(request, Recomputation::kNone);
    ASSERT_LT(fresh + 1000, kept);
    const auto choose = [&](std::int64_t available) {
        return train::choose_memory(request, GradientCheckpointing::kAuto, available);
    };
    EXPECT_TRUE(choose(100 * kept).keep_dense);
    for (const std::int64_t available : {just_enough_for(kept) - 20, just_enough_for(fresh)}) {
        EXPECT_FALSE(choose(available).keep_dense);
        EXPECT_EQ(choose(available).recomputation, Recomputation::kNone);
    }
}

TEST(MemoryChoice, fp32_forms_take_a_quarter_of_the_available_memory_at_most) {
    MemoryRequest request = long_rows();
    request.tokens = request.supervised_tokens = 1;
    request.keep_dense = true;
    const std::int64_t copies = train::plan_memory(request).dense_copies;
    EXPECT_TRUE(train::choose_memory(request, GradientCheckpointing::kOff, 4 * copies).keep_dense);
    EXPECT_FALSE(train::choose_memory(request, GradientCheckpointing::kOff, 4 * copies - 4).keep_dense);
}

TEST(MemoryChoice, a_set_cache_is_kept_or_left_out_whatever_fits) {
    for (const std::int64_t available : {std::int64_t{1}, std::int64_t{1} << 60}) {
        const auto choose = [&](train::CacheDequantized cache) {
            return train::choose_memory(long_rows(), GradientCheckpointing::kAuto, available, cache)
                .keep_dense;
        };
        EXPECT_TRUE(choose(train::CacheDequantized::kOn));
        EXPECT_FALSE(choose(train::CacheDequantized::kOff));
        EXPECT_EQ(choose(train::CacheDequantized::kAuto), available > 1);
    }
}

TEST(MemoryChoice, the_line_tells_setting_level_needs_and_available) {
    MemoryRequest request = long_rows();
    request.tokens = 2'000'000;
    const std::int64_t mlp = needed(request, Recomputation::kMlp);
    const std::int64_t available = just_enough_for(mlp);
    const std::string text = train::choose_memory(request, GradientCheckpointing::kAuto, available).text;
    EXPECT_EQ(text.find('\n'), std::string::npos);
    for (const std::string& part :
         {std::string("gradient checkpointing auto: recomputes mlp"),
          "none " + train::gigabytes(needed(request, Recomputation::kNone)), "mlp " + train::gigabytes(mlp),
          "layers " + train::gigabytes(needed(request, Recomputation::kLayers)),
          "available: " + train::gigabytes(available)}) {
        EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
    }
}

TEST(MemoryAdvice, names_the_three_that_help_most_in_their_order) {
    const std::string text = train::memory_advice({{"first", 900'000'000},
                                                   {"second", 200'000'000},
                                                   {"third", 500'000'000},
                                                   {"more", 1'200'000'000},
                                                   {"fourth", 700'000'000}},
                                                  1'000'000'000);
    EXPECT_EQ(text, "what helps most: second (then 0.20 GB), third (then 0.50 GB), fourth (then 0.70 GB)");
}

TEST(MemoryAdvice, leaves_out_what_saves_less_than_a_hundredth) {
    EXPECT_EQ(train::memory_advice({{"big", 800'000'000}, {"small", 995'000'000}}, 1'000'000'000),
              "what helps most: big (then 0.80 GB)");
    EXPECT_EQ(train::memory_advice({{"small", 995'000'000}}, 1'000'000'000),
              "no setting makes it much less: it takes a smaller model or more memory");
    EXPECT_EQ(train::memory_advice({}, 0),
              "no setting makes it much less: it takes a smaller model or more memory");
}

}  // namespace
}  // namespace qlora
