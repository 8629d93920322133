#include "qlora/train/memory_plan.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/train/adamw.h"

namespace qlora {
namespace {

using train::MemoryPlan;
using train::MemoryRequest;

/// One layer has 8 x (8 + 8) + 8 x (4 + 4) + 3 x 8 x 16 = 576 weights; two layers 1152.
MemoryRequest small_request() {
    models::ModelConfig config;
    config.model_type = "llama";
    config.vocab_size = 10;
    config.hidden_size = 8;
    config.intermediate_size = 16;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 2;
    config.num_key_value_heads = 1;
    config.head_dim = 4;
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
        std::vector<adapters::TrainableParameter> parameters;
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

TEST(MemoryPlan, fp32_forms_are_all_matrices_or_the_largest_product) {
    MemoryRequest request = small_request();
    EXPECT_EQ(train::plan_memory(request).dense_copies, 4 * 8 * 2 * 16) << "gate and up run as one";
    request.config.vocab_size = 1000;
    EXPECT_EQ(train::plan_memory(request).dense_copies, 4 * 8 * 1000)
        << "the head, as long as it is one panel";
    request.config.vocab_size = 1'000'000'000;
    EXPECT_LT(train::plan_memory(request).dense_copies, 100'000'000) << "else a panel at a time";
    request.config.vocab_size = 10;
    request.keep_dense = true;
    EXPECT_EQ(train::plan_memory(request).dense_copies, 4 * (1152 + 80));
}

TEST(MemoryPlan, logits_are_of_one_chunk_of_supervised_tokens) {
    MemoryRequest request = small_request();
    EXPECT_EQ(train::plan_memory(request).logits, 30 * 10 * 4);
    request.supervised_tokens = 1'000'000;
    EXPECT_LT(train::plan_memory(request).logits, 1'000'000 * 10 * 4 / 10) << "never all at once";
}

TEST(MemoryPlan, activations_grow_with_tokens_and_recomputation_saves_layers) {
    MemoryRequest request = small_request();
    const std::int64_t once = train::plan_memory(request).activations;
    request.tokens = 200;
    EXPECT_EQ(train::plan_memory(request).activations, 2 * once);
    request.config.num_hidden_layers = 20;
    const std::int64_t all = train::plan_memory(request).activations;
    request.gradient_checkpointing = true;
    EXPECT_LT(train::plan_memory(request).activations, all / 3);
}

TEST(MemoryPlan, the_total_is_the_sum_and_is_in_the_text) {
    const MemoryPlan plan{.weights = 1'000'000'000,
                          .dense_copies = 200'000'000,
                          .adapters = 30'000'000,
                          .activations = 4'000'000'000,
                          .logits = 500'000'000,
                          .baseline = 20'000'000};
    EXPECT_EQ(plan.total(), 5'750'000'000);
    for (const char* part : {"5.75 GB", "1.00 GB", "0.20 GB", "0.03 GB", "4.00 GB", "0.50 GB"}) {
        EXPECT_NE(plan.text().find(part), std::string::npos) << plan.text();
    }
}

TEST(RequireMemory, a_plan_beyond_the_machine_is_refused_with_what_to_change) {
    const std::int64_t available = train::available_memory_bytes();
    ASSERT_GT(available, 0);
    EXPECT_NO_THROW(train::require_memory({.weights = available / 2}));
    EXPECT_NO_THROW(train::require_memory({.baseline = 3 * available})) << "LibTorch is loaded already";
    try {
        train::require_memory({.activations = 2 * available});
        FAIL();
    } catch (const ResourceError& error) {
        const std::string message = error.what();
        for (const char* part : {"training.per_device_train_batch_size", "data.max_length",
                                 "training.gradient_checkpointing", "are available"}) {
            EXPECT_NE(message.find(part), std::string::npos) << message;
        }
    }
}

}  // namespace
}  // namespace qlora
