#include "qlora/adapters/virtual_tokens.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <numeric>

#include "qlora/core/error.h"
#include "qlora/models/base_loader.h"
#include "support/tiny_model.h"

namespace qlora::adapters {
namespace {

using TextIds = std::vector<std::int64_t>;

std::unique_ptr<models::CausalLM> loaded(const test::TinyModel& tiny) {
    const test::TempDir dir;
    tiny.write(dir.path());
    models::LoadOptions options;
    options.compute_dtype = at::kFloat;
    return models::load_base(io::Checkpoint(dir.path()), models::load_decoder_spec(dir.path()), options);
}

/// Ids that go on from a number, to tell texts apart.
TextIds text_of(std::int64_t count, std::int64_t first) {
    TextIds out(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) out[static_cast<std::size_t>(i)] = (first + 7 * i) % 97;
    return out;
}

at::Tensor states_of(const models::CausalLM& model, const TextIds& ids) {
    TextIds positions(ids.size());
    std::iota(positions.begin(), positions.end(), 0);
    const TextIds offsets = {0, static_cast<std::int64_t>(ids.size())};
    return model.forward(
        models::upload({.ids = ids, .positions = positions, .offsets = offsets, .rows = {}, .targets = {}},
                       at::kCPU),
        {});
}

class Starts : public testing::TestWithParam<test::TinyModel> {};
INSTANTIATE_TEST_SUITE_P(Models, Starts,
                         testing::Values(test::TinyModel{.layers = 3},
                                         test::TinyModel{.model_type = "qwen3", .kv_heads = 1, .bias = true},
                                         test::TinyModel{.model_type = "mistral", .sliding_window = 6}),
                         [](const auto& chosen) { return chosen.param.model_type; });

TEST_P(Starts, from_a_text_are_that_text_before_each_sequence) {
    const at::AutoGradMode off(false);
    const auto model = loaded(GetParam());
    const TextIds before = text_of(9, 3), text = text_of(20, 50);
    TextIds together = before;
    together.insert(together.end(), text.begin(), text.end());
    const at::Tensor expected = states_of(*model, together).narrow(0, 9, 20);
    const auto gap = [&] {
        return ((states_of(*model, text) - expected).abs().max() / expected.abs().max()).item<double>();
    };
    ASSERT_GT(gap(), 1e-2);
    const std::int64_t layers = GetParam().layers, kv = GetParam().kv_heads * GetParam().head_dim;
    const KeyValueHeads heads = key_value_heads(model->spec());
    ASSERT_EQ(heads.kv_size(), kv);

    const auto prefix = std::make_shared<PromptEncoder>(prefix_embedding(9, layers, kv), 1);
    prefix->set_embedding(keys_values_of_tokens(*model, before));
    model->set_hooks({.prefix = std::make_shared<EncodedPrefix>(prefix, layers)});
    // Sums of other numbers of rows.
    EXPECT_LE(gap(), 1e-6);

    const auto prompt = std::make_shared<PromptEncoder>(prompt_embedding(9, GetParam().hidden), 1);
    prompt->set_embedding(rows_of_tokens(*model, before));
    model->set_hooks({.prompt = std::make_shared<EncodedPrompt>(prompt)});
    EXPECT_LE(gap(), 1e-6);
}

/// PEFT's columns: ((layer * 2 + (0 key, 1 value)) * heads + head) * head_dim + i.
TEST(EncodedPrefix, reads_the_columns_that_PEFT_writes) {
    const auto encoder = std::make_shared<PromptEncoder>(prefix_embedding(4, 3, 6), 1);
    const at::Tensor all = encoder->parameters()[0].tensor;
    const std::vector<at::Tensor> layers = EncodedPrefix(encoder, 3).layers({});
    ASSERT_EQ(layers.size(), 3U);
    for (std::int64_t layer = 0; layer < 3; ++layer) {
        for (std::int64_t which : {0, 1}) {
            EXPECT_TRUE(layers[static_cast<std::size_t>(layer)][which].equal(
                all.narrow(1, (2 * layer + which) * 6, 6)));
        }
    }
}

TEST(StartOfAPrompt, takes_tokens_of_the_vocabulary_or_of_a_text) {
    EXPECT_EQ(repeated_tokens(TextIds{4, 5, 6}, 7), (TextIds{4, 5, 6, 4, 5, 6, 4}));
    EXPECT_EQ(repeated_tokens(TextIds{4, 5, 6}, 2), (TextIds{4, 5}));
    const TextIds drawn = sampled_tokens(97, 1000, 1);
    EXPECT_EQ(drawn, sampled_tokens(97, 1000, 1));
    EXPECT_NE(drawn, sampled_tokens(97, 1000, 2));
    EXPECT_EQ(*std::min_element(drawn.begin(), drawn.end()), 0);
    EXPECT_EQ(*std::max_element(drawn.begin(), drawn.end()), 96);
}

TEST(KeyValueHeads, that_differ_between_layers_are_refused) {
    models::DecoderSpec decoder = loaded({})->spec();
    EXPECT_EQ(key_value_heads(decoder).heads, 2);
    std::get<models::spec::Attention>(decoder.layers[1].branches[0].block).kv_heads = 4;
    EXPECT_THROW(key_value_heads(decoder), ConfigError);
}

}  // namespace
}  // namespace qlora::adapters
