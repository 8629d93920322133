#include "qlora/train/memory_plan.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/train/adamw.h"
#include "support/llama_config.h"

namespace qlora {
namespace {

using train::MemoryPlan;
using train::MemoryRequest;

/// One layer has 8 x (8 + 8) + 8 x (4 + 4) + 3 x 8 x 16 = 576 weights; two layers 1152.
MemoryRequest small_request() {
    models::DecoderSpec config = test::llama_config(
        {.vocab = 10, .hidden = 8, .inner = 16, .layers = 2, .heads = 2, .kv_heads = 1, .head_dim = 4});
    MemoryRequest request{.config = config};
    request.tokens = 100;
    request.supervised_tokens = 30;
    return request;
}

TEST(MemoryPlan, weights_are_counted_as_they_are_stored) {
    MemoryRequest request = small_request();
    // Embedding and head: 2 x 10 x 8 values of two bytes; linears: 4 bits and one byte a block of 64.
    EXPECT_EQ(train::plan_memory(request).weights, 320 + 1152 / 2 + 1152 / 64);
    request.quantization.bnb_4bit_use_double_quant = false;
    EXPECT_EQ(train::plan_memory(request).weights, 320 + 1152 / 2 + 4 * 1152 / 64);
    request.quantization.bnb_4bit_blocksize = 128;
    EXPECT_EQ(train::plan_memory(request).weights, 320 + 1152 / 2 + 4 * 1152 / 128);
    request.config.tie_word_embeddings = true;
    EXPECT_EQ(train::plan_memory(request).weights, 160 + 1152 / 2 + 4 * 1152 / 128);
    request.quantization.load_in_4bit = false;
    EXPECT_EQ(train::plan_memory(request).weights, 160 + 1152 * 2);
    request.stored_bytes_per_weight = 4;
    EXPECT_EQ(train::plan_memory(request).weights, 320 + 1152 * 4);
}

TEST(MemoryPlan, a_trained_value_costs_eight_bytes_and_its_moments) {
    MemoryRequest request = small_request();
    EXPECT_EQ(train::plan_memory(request).adapters, 0);
    request.trained_elements = 212;
    request.moment_bytes = 1000;
    EXPECT_EQ(train::plan_memory(request).adapters, 8 * 212 + 1000);
}

TEST(MemoryPlan, moments_take_eight_bytes_or_two_and_the_scales_of_their_blocks) {
    using train::OptimizerType;
    for (const std::int64_t elements : {0, 1, 4095, 4096, 1'000'000}) {
        EXPECT_EQ(train::moment_bytes(elements, OptimizerType::kAdamwTorch), 8 * elements);
    }
    EXPECT_EQ(train::moment_bytes(4095, OptimizerType::kAdamw8bit), 8 * 4095) << "small tensors keep fp32";
    EXPECT_EQ(train::moment_bytes(4096, OptimizerType::kAdamw8bit), 2 * (4096 + 4 * 16));
    EXPECT_EQ(train::moment_bytes(4097, OptimizerType::kAdamw8bit), 2 * (4097 + 4 * 17));
}

TEST(MemoryPlan, moments_are_planned_as_the_optimizer_makes_them) {
    for (const auto type : {train::OptimizerType::kAdamwTorch, train::OptimizerType::kAdamw8bit}) {
        train::TrainingConfig config;
        config.optim = type;
        std::int64_t planned = 0, made = 0;
        std::vector<nn::Parameter> parameters;
        for (const std::int64_t elements : {3, 4095, 4096, 5000}) {
            parameters.push_back(
                {std::to_string(elements), at::zeros({elements}, at::kFloat).set_requires_grad(true)});
            planned += train::moment_bytes(elements, type);
        }
        for (const auto& moment : train::AdamW(parameters, config).state()) {
            made += static_cast<std::int64_t>(moment.tensor.nbytes());
        }
        EXPECT_EQ(planned, made);
    }
}

TEST(MemoryPlan, kept_fp32_forms_are_all_matrices_that_are_not_fp32_already) {
    MemoryRequest request = small_request();
    EXPECT_EQ(train::plan_memory(request).dense_copies, 0);
    request.keep_dense = true;
    EXPECT_EQ(train::plan_memory(request).dense_copies, 4 * (1152 + 80));
    request.stored_bytes_per_weight = 4;
    EXPECT_EQ(train::plan_memory(request).dense_copies, 4 * 1152) << "the head is used as it is stored";
    request.bytes_per_element = 2;
    EXPECT_EQ(train::plan_memory(request).dense_copies, 4 * (1152 + 80)) << "rounded to bf16 it is another";
}

TEST(MemoryPlan, without_them_the_largest_product_makes_its_own) {
    MemoryRequest request = small_request();
    request.tokens = request.supervised_tokens = 1;
    request.recomputation = nn::Recomputation::kMlp;
    const std::int64_t fresh = train::plan_memory(request).working;
    request.keep_dense = true;
    // Gate and up run as one; beside them the head is small.
    EXPECT_EQ(fresh - train::plan_memory(request).working, 4 * 8 * 2 * 16);
}

TEST(MemoryPlan, the_loss_holds_one_chunk_of_logits_and_one_panel_of_the_head) {
    MemoryRequest request = small_request();
    request.config.vocab_size = 100'000;
    EXPECT_EQ(train::plan_memory(request).working, 30 * (100'000 + 3 * 8) * 4 + 100'000 * 8 * 4);
    request.keep_dense = true;
    EXPECT_EQ(train::plan_memory(request).working, 30 * (100'000 + 3 * 8) * 4);
    request.tokens = request.supervised_tokens = 2000;
    EXPECT_LT(train::plan_memory(request).working, 2000 * 100'000 * 4 / 5) << "never all rows at once";
    request.keep_dense = false;
    request.config.vocab_size = 1'000'000'000;
    request.supervised_tokens = 0;
    EXPECT_LT(train::plan_memory(request).working, 100'000'000) << "a panel at a time";
}

/// What one layer keeps for each token, both halves: hidden 8, q 8, qkv 16, inner 16 values; statistics of
/// two norms and two heads.
TEST(MemoryPlan, activations_are_what_backward_reads) {
    MemoryRequest request = small_request();
    request.supervised_tokens = 100;
    const std::int64_t statistics = 4 * 4, gathered = 8 * 4, result = 8 * 4;
    EXPECT_EQ(train::plan_memory(request).activations,
              100 * (2 * ((8 + 16 + 8 + 8 + 32) * 4 + statistics) + gathered + result));
    request.recomputation = nn::Recomputation::kMlp;
    EXPECT_EQ(train::plan_memory(request).activations,
              100 * (2 * ((8 + 16 + 8 + 8) * 4 + statistics - 4) + gathered + result));
    request.recomputation = nn::Recomputation::kLayers;
    EXPECT_EQ(train::plan_memory(request).activations, 100 * (2 * 8 * 4 + result));
}

TEST(MemoryPlan, the_last_layer_goes_on_with_supervised_tokens_alone) {
    MemoryRequest request = small_request();
    const std::int64_t some = train::plan_memory(request).activations;
    request.supervised_tokens = 31;
    EXPECT_EQ(train::plan_memory(request).activations - some, (8 + 32 + 8 + 8) * 4 + 4);
}

TEST(MemoryPlan, recomputation_saves_more_the_deeper_the_model) {
    MemoryRequest request = small_request();
    request.config.layers.resize(20, request.config.layers.front());
    const auto all = [&](nn::Recomputation level) {
        request.recomputation = level;
        return train::plan_memory(request).activations + train::plan_memory(request).working;
    };
    const std::int64_t none = all(nn::Recomputation::kNone), mlp = all(nn::Recomputation::kMlp),
                       layers = all(nn::Recomputation::kLayers);
    EXPECT_LT(mlp, none * 2 / 3);
    EXPECT_LT(layers, none / 4);
}

TEST(MemoryPlan, the_total_is_the_sum_and_is_in_the_text) {
    const MemoryPlan plan{.weights = 1'000'000'000,
                          .dense_copies = 200'000'000,
                          .adapters = 30'000'000,
                          .activations = 4'000'000'000,
                          .working = 500'000'000,
                          .data = 70'000'000,
                          .baseline = 20'000'000};
    EXPECT_EQ(plan.total(), 5'820'000'000);
    EXPECT_EQ(plan.needed(), 5'730'000'000) << "rows and LibTorch are there already";
    for (const char* part :
         {"5.82 GB", "data 0.07 GB", "1.00 GB", "0.20 GB", "0.03 GB", "4.00 GB", "0.50 GB"}) {
        EXPECT_NE(plan.text().find(part), std::string::npos) << plan.text();
    }
}

TEST(RequireMemory, a_plan_beyond_the_machine_is_refused_with_what_to_change) {
    constexpr std::int64_t kAvailable = 2'000'000'000;
    EXPECT_NO_THROW(train::require_memory({.weights = kAvailable}, kAvailable, ""));
    EXPECT_NO_THROW(train::require_memory({.baseline = 3 * kAvailable}, kAvailable, ""));
    try {
        train::require_memory({.activations = 2 * kAvailable}, kAvailable, "do this");
        FAIL();
    } catch (const ResourceError& error) {
        EXPECT_STREQ(error.what(),
                     "the run needs about 4.00 GB of memory and 2.00 GB are available; do this");
    }
}

}  // namespace
}  // namespace qlora
