// LoRA on the embedding and the output head, and files that carry both.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full_like.h>
#include <gtest/gtest.h>

#include "models/token_rows.h"
#include "qlora/adapters/carried_tables.h"
#include "qlora/adapters/inject.h"
#include "qlora/adapters/merge.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/models/base_loader.h"
#include "qlora/quant/tensor_bytes.h"
#include "support/tiny_model.h"

namespace qlora::adapters {
namespace {

namespace fs = std::filesystem;

const std::string kEmbedding = "base_model.model.model.embed_tokens.", kHead = "base_model.model.lm_head.";

at::Tensor logits_of(const models::CausalLM& model) {
    const at::AutoGradMode off(false);
    const models::TokenBatch batch =
        models::collated(models::examples_of({models::TokenIds{5, 9, 3, 3, 60, 1}}, true));
    return model.logits(model.forward(batch, {}));
}

/// A tiny model of which embedding and head are adapted.
class TableLora : public testing::TestWithParam<bool> {
  protected:
    TableLora() {
        test::TinyModel{.tie = GetParam()}.write(model_.path());
        config_ = models::load_decoder_spec(model_.path());
        dense_.load_in_4bit = false;
    }

    std::unique_ptr<models::CausalLM> load(const fs::path& folder) const {
        return models::load_base(io::Checkpoint(folder), models::load_decoder_spec(folder),
                                 {.quantization = dense_});
    }
    LoraConfig on(NameList targets, bool ties = false) const {
        LoraConfig lora;
        lora.r = 3;
        lora.target_modules = std::move(targets);
        lora.init_lora_weights = InitLoraWeights::kRandom;
        lora.ensure_weight_tying = ties;
        return lora;
    }
    /// Trained for a while, one could say; saved.
    std::unique_ptr<models::CausalLM> adapted(const LoraConfig& lora) {
        auto model = load(model_.path());
        adaptation_ = inject(*model, lora, 3);
        save_adapter(adapter(), adaptation_, "base", {});
        return model;
    }
    /// The saved adapter with these tensors besides.
    void save_with(std::vector<nn::Parameter> further) {
        std::vector<nn::Parameter> tensors = adaptation_.adapter->saved();
        for (nn::Parameter& tensor : further) {
            std::erase_if(tensors, [&](const nn::Parameter& known) { return known.key == tensor.key; });
            tensors.push_back(tensor);
        }
        save_tensors(adapter() / kAdapterWeightsFile, tensors, {});
    }
    std::unique_ptr<models::CausalLM> loaded(bool is_finished = true) {
        auto model = load(model_.path());
        Adaptation adaptation = inject(*model, load_adapter_config(adapter()), {.finished = is_finished});
        load_adapter_weights(adapter(), config_, adaptation);
        take_carried_tables(adapter(), adaptation.plan, io::Checkpoint(model_.path()), *model, is_finished);
        return model;
    }
    MergeReport merged() {
        fs::remove_all(output());
        return merge({.model = model_.path(), .adapter = adapter(), .output = output()});
    }
    template <class Run>
    std::string fault(const Run& run) const {
        try {
            run();
        } catch (const CheckpointError& error) {
            return error.what();
        }
        return "nothing was thrown";
    }
    at::Tensor base_tensor(const std::string& name) const {
        return quant::tensor_from_view(io::Checkpoint(model_.path()).at(name));
    }

    fs::path adapter() const { return folder_ / "adapter"; }
    fs::path output() const { return folder_ / "merged"; }

    test::TempDir folder_, model_;
    models::DecoderSpec config_;
    quant::QuantConfig dense_;
    Adaptation adaptation_;
};
INSTANTIATE_TEST_SUITE_P(Tied, TableLora, testing::Bool(),
                         [](const auto& tied) { return tied.param ? "tied" : "untied"; });

// Sums of 32 products in fp32, merged and apart.
constexpr double kRelative = 1e-4, kAbsolute = 1e-5;

TEST_P(TableLora, a_merged_model_gives_the_same_logits_and_is_untied_where_it_must) {
    const at::Tensor base = logits_of(*load(model_.path()));
    for (const auto& [targets, ties] :
         {std::pair{NameList{"embed_tokens"}, false}, std::pair{NameList{"lm_head"}, false},
          std::pair{NameList{"embed_tokens", "lm_head"}, false}, std::pair{NameList{"lm_head"}, true}}) {
        const auto model = adapted(on(targets, ties));
        const at::Tensor expected = logits_of(*model);
        EXPECT_FALSE(at::allclose(expected, base, kRelative, kAbsolute));
        EXPECT_TRUE(logits_of(*loaded()).equal(expected));
        const MergeReport report = merged();
        EXPECT_EQ(report.untied, GetParam() && !ties);
        EXPECT_EQ(io::Checkpoint(output()).contains("lm_head.weight"), !GetParam() || !ties);
        EXPECT_TRUE(at::allclose(logits_of(*load(output())), expected, kRelative, kAbsolute));
    }
}

TEST_P(TableLora, begins_as_the_base_and_the_embedding_with_a_normal_b) {
    auto model = load(model_.path());
    const at::Tensor base = logits_of(*model);
    LoraConfig lora = on({"embed_tokens", "lm_head"});
    lora.init_lora_weights = InitLoraWeights::kDefault;
    const Adaptation adaptation = inject(*model, lora, 3);
    EXPECT_TRUE(logits_of(*model).equal(base));
    ASSERT_EQ(adaptation.parameters.size(), 4U);
    EXPECT_EQ(adaptation.parameters[0].key, kEmbedding + "lora_embedding_A");
    EXPECT_EQ(adaptation.parameters[0].tensor.sizes(), at::IntArrayRef({3, 97}));
    EXPECT_FALSE(adaptation.parameters[0].tensor.any().item<bool>());
    EXPECT_NEAR(adaptation.parameters[1].tensor.std().item<double>(), 1.0, 0.3);
    EXPECT_EQ(adaptation.parameters[3].key, kHead + "lora_B.weight");
}

TEST_P(TableLora, shared_matrices_are_one_tensor_in_training_and_two_in_the_file) {
    if (!GetParam()) GTEST_SKIP() << "nothing is tied";
    adapted(on({"lm_head", "q_proj"}, true));
    EXPECT_EQ(adaptation_.trainable_elements(), 3 * (97 + 32) + 2 * 3 * (32 + 32));
    const AdapterFile file(adapter(), config_);
    const auto tensor = [&](const std::string& key) { return quant::tensor_from_view(file.at(key)); };
    EXPECT_TRUE(tensor(kHead + "lora_A.weight").equal(tensor(kEmbedding + "lora_embedding_B").t()));
    EXPECT_TRUE(tensor(kHead + "lora_B.weight").equal(tensor(kEmbedding + "lora_embedding_A").t()));
    EXPECT_TRUE(logits_of(*loaded(false)).equal(logits_of(*loaded())));
    // What PEFT trained apart is evaluated so, and training it together would lose one of the two.
    save_with({{kHead + "lora_B.weight", at::full_like(tensor(kHead + "lora_B.weight"), 0.5)}});
    loaded();
    EXPECT_NE(fault([&] { loaded(false); }).find("differs from the tensor that it is one with"),
              std::string::npos);
    EXPECT_TRUE(merged().untied);
}

TEST_P(TableLora, tables_that_a_file_carries_are_the_bases_or_take_their_place) {
    adapted(on({"embed_tokens"}));
    const at::Tensor table = base_tensor("model.embed_tokens.weight");
    const at::Tensor before = logits_of(*loaded());
    save_with({{kEmbedding + "base_layer.weight", table.clone()}});
    EXPECT_TRUE(logits_of(*loaded()).equal(before));
    EXPECT_TRUE(logits_of(*loaded(false)).equal(before));
    save_with({{kEmbedding + "base_layer.weight", table.to(at::kBFloat16)}});
    EXPECT_TRUE(logits_of(*loaded(false)).equal(before)) << "the base, as a 16-bit run had it";

    save_with({{kEmbedding + "base_layer.weight", table + 0.25}});
    const at::Tensor after = logits_of(*loaded());
    EXPECT_FALSE(at::allclose(after, before, kRelative, kAbsolute));
    EXPECT_NE(fault([&] { loaded(false); }).find("base_layer.weight is another than the base's"),
              std::string::npos);
    EXPECT_EQ(merged().untied, GetParam());
    EXPECT_TRUE(at::allclose(logits_of(*load(output())), after, kRelative, kAbsolute));
    if (GetParam()) {
        EXPECT_TRUE(
            quant::tensor_from_view(io::Checkpoint(output()).at("lm_head.weight")).equal(table + 0.25));
    }
}

TEST_P(TableLora, a_head_that_a_file_carries_takes_the_place_of_the_bases) {
    adapted(on({"q_proj"}));
    const at::Tensor head = base_tensor(GetParam() ? "model.embed_tokens.weight" : "lm_head.weight");
    save_with({{kHead + "weight", head * 1.5}});
    const at::Tensor after = logits_of(*loaded());
    EXPECT_FALSE(merged().untied);
    EXPECT_TRUE(at::allclose(logits_of(*load(output())), after, kRelative, kAbsolute));
    // Both, of a tied pair, must be equal.
    save_with(
        {{kHead + "weight", head * 1.5}, {kEmbedding + "weight", base_tensor("model.embed_tokens.weight")}});
    if (GetParam()) {
        EXPECT_NE(fault([&] { loaded(); }).find("which is the same tensor of this model"), std::string::npos);
    } else {
        EXPECT_TRUE(logits_of(*loaded()).equal(after));
    }
}

TEST_P(TableLora, a_resized_vocabulary_is_refused_by_name) {
    adapted(on({"q_proj"}));
    save_with({{kEmbedding + "weight", at::zeros({99, 32})}, {kHead + "weight", at::zeros({99, 32})}});
    const std::string text = fault([&] { loaded(); });
    EXPECT_NE(text.find("2 faults"), std::string::npos) << text;
    EXPECT_NE(text.find("the vocabulary was resized before training"), std::string::npos) << text;
}

}  // namespace
}  // namespace qlora::adapters
