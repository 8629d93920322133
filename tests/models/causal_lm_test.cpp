#include "qlora/models/causal_lm.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "qlora/data/batch.h"
#include "qlora/eval/generate.h"
#include "qlora/eval/token_batch.h"
#include "qlora/models/base_loader.h"
#include "support/tiny_model.h"
#include "support/weight_bytes.h"

namespace qlora::models {
namespace {

using qlora::test::TempDir;
using qlora::test::TinyModel;
using Ids = std::vector<tokenizer::TokenId>;

struct Case {
    const char* name;
    TinyModel tiny;
    at::ScalarType compute = at::kFloat;
};

std::ostream& operator<<(std::ostream& out, const Case& value) {
    return out << value.name;
}

std::unique_ptr<CausalLM> load(const Case& value) {
    const TempDir dir;
    value.tiny.write(dir.path());
    LoadOptions options;
    options.compute_dtype = value.compute;
    return load_base(io::Checkpoint(dir.path()), load_decoder_spec(dir.path()), options);
}

/// Random weights in a decoder that `change` has changed.
template <class Change>
std::unique_ptr<CausalLM> load_changed(const TinyModel& tiny, const Change& change) {
    const TempDir dir;
    tiny.write(dir.path());
    DecoderSpec decoder = load_decoder_spec(dir.path());
    change(decoder);
    LoadOptions options;
    options.compute_dtype = at::kFloat;
    return load_base(io::Checkpoint(dir.path()), decoder, options);
}

TokenBatch batch_of(const std::vector<Ids>& sequences) {
    std::vector<data::Example> examples;
    for (const Ids& ids : sequences) {
        examples.push_back({.ids = ids, .supervised = std::vector<std::uint8_t>(ids.size(), 0)});
    }
    std::vector<const data::Example*> pointers;
    for (const data::Example& example : examples) pointers.push_back(&example);
    return eval::token_batch(data::collate(pointers), at::kCPU);
}

Ids some_ids(std::size_t count, unsigned seed) {
    std::mt19937 engine(seed);
    Ids out(count);
    for (auto& id : out) id = static_cast<tokenizer::TokenId>(engine() % 97);
    return out;
}

class Generation : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Models, Generation,
    testing::Values(Case{"llama", {}}, Case{"llama_tied_bias", {.tie = true, .bias = true}},
                    Case{"llama_bf16", {}, at::kBFloat16},
                    Case{"mistral_window", {.model_type = "mistral", .sliding_window = 5}},
                    Case{"qwen2_window", {.model_type = "qwen2", .sliding_window = 4}},
                    Case{"qwen3", {.model_type = "qwen3", .kv_heads = 1, .bias = true}}),
    [](const auto& chosen) { return chosen.param.name; });

/// How far below the largest logit of a whole pass each generated token lies, as a share of the largest in
/// size; 0 where it is the argmax.
double largest_shortfall(const CausalLM& model, Ids ids, const Ids& generated) {
    double worst = 0.0;
    for (const tokenizer::TokenId token : generated) {
        const at::Tensor hidden = model.forward(batch_of({ids}), {});
        const at::Tensor logits =
            model.logits(hidden.narrow(0, static_cast<std::int64_t>(ids.size()) - 1, 1))[0];
        const double gap = logits.max().item<double>() - logits[token].item<double>();
        worst = std::max(worst, gap / logits.abs().max().item<double>());
        ids.push_back(token);
    }
    return worst;
}

/// Greedy continuation by whole forward passes without any cache.
Ids slow_continuation(const CausalLM& model, Ids ids, std::size_t count) {
    const std::size_t prompt = ids.size();
    while (ids.size() < prompt + count) {
        const at::Tensor hidden = model.forward(batch_of({ids}), {});
        const auto last = static_cast<std::int64_t>(ids.size()) - 1;
        ids.push_back(static_cast<tokenizer::TokenId>(
            model.logits(hidden.narrow(0, last, 1)).argmax(1).item<std::int64_t>()));
    }
    return Ids(ids.begin() + static_cast<std::ptrdiff_t>(prompt), ids.end());
}

TEST_P(Generation, with_a_cache_equals_the_argmax_of_whole_forward_passes) {
    const at::AutoGradMode off(false);
    const auto model = load(GetParam());
    // Prompts of many lengths together, so that caches of different lengths share a batch; 50 tokens make
    // them grow.
    const std::vector<Ids> prompts = {some_ids(1, 1), some_ids(7, 2), some_ids(40, 3), some_ids(2, 4)};
    const auto out = eval::generate(*model, prompts, {.max_new_tokens = 50, .stop_ids = {}, .batch_rows = 3});
    ASSERT_EQ(out.size(), prompts.size());
    for (std::size_t i = 0; i < prompts.size(); ++i) {
        const Ids slow = slow_continuation(*model, prompts[i], 50);
        if (GetParam().compute == at::kFloat) {
            EXPECT_EQ(out[i], slow) << "prompt " << i;
        } else {
            // bf16 logits tie within a few roundings (2^-8 each), and a tie may fall either way.
            ASSERT_EQ(out[i].size(), slow.size());
            EXPECT_LE(largest_shortfall(*model, prompts[i], out[i]), 3.0 / 256) << "prompt " << i;
        }
        EXPECT_GT(std::set<tokenizer::TokenId>(slow.begin(), slow.end()).size(), 1U)
            << "a constant proves little";
    }
}

TEST_P(Generation, cached_hidden_states_equal_the_whole_pass_whatever_the_cuts) {
    const at::AutoGradMode off(false);
    const auto model = load(GetParam());
    const Ids ids = some_ids(37, 5);
    const at::Tensor whole = model->forward(batch_of({ids}), {}).to(at::kFloat);
    KvCache cache(model->spec().layers.size());
    std::int64_t done = 0;
    for (const std::int64_t n : {5, 1, 1, 20, 3, 7}) {
        const Ids piece(ids.begin() + done, ids.begin() + done + n);
        TokenBatch batch = batch_of({piece});
        batch.positions.add_(done);
        KvCache* caches[] = {&cache};
        const at::Tensor part = model->forward(batch, {}, {}, caches).to(at::kFloat);
        cache.advance(n);
        // Attention sums in another order: fp32 noise, which in bf16 may flip roundings layer after layer.
        const double bound = GetParam().compute == at::kFloat ? 1e-5 : 3e-2;
        const double gap = (part - whole.narrow(0, done, n)).abs().max().item<double>();
        EXPECT_LE(gap, bound * whole.abs().max().item<double>()) << "tokens from " << done;
        done += n;
    }
    EXPECT_EQ(cache.length(), 37);
}

TEST(Generation, ends_at_any_stop_token_and_does_not_return_it) {
    const at::AutoGradMode off(false);
    const auto model = load({"llama", {}});
    const Ids prompt = some_ids(9, 2);
    const Ids all =
        eval::generate(*model, std::vector<Ids>{prompt}, {.max_new_tokens = 20, .stop_ids = {}})[0];
    ASSERT_EQ(all.size(), 20U);
    const auto first = std::find(all.begin(), all.end(), all[6]);
    const auto cut = eval::generate(*model, std::vector<Ids>{prompt},
                                    {.max_new_tokens = 20, .stop_ids = {1000, all[6]}})[0];
    EXPECT_EQ(cut, Ids(all.begin(), first));
}

TEST(CausalLM, a_sequence_gives_the_same_bits_wherever_it_lies_in_a_batch) {
    const at::AutoGradMode off(false);
    const auto model = load({"qwen3", {.model_type = "qwen3", .sliding_window = 6}});
    const Ids a = some_ids(16, 1), b = some_ids(16, 2), c = some_ids(3, 3);
    const at::Tensor first = model->forward(batch_of({a, b, c}), {});
    const at::Tensor second = model->forward(batch_of({c, b, a}), {});
    // Rows of a product depend on their own values only; blocks of rows may still be summed in another order.
    const double largest = first.abs().max().item<double>();
    EXPECT_LE((first.narrow(0, 0, 16) - second.narrow(0, 19, 16)).abs().max().item<double>(), 1e-6 * largest);
    EXPECT_LE((first.narrow(0, 16, 16) - second.narrow(0, 3, 16)).abs().max().item<double>(), 1e-6 * largest);
    EXPECT_LE((first.narrow(0, 32, 3) - second.narrow(0, 0, 3)).abs().max().item<double>(), 1e-6 * largest);
}

TEST(CausalLM, bytes_and_parameters_are_counted_as_held) {
    const auto model = load({"llama", {.tie = true}});
    // 2 layers: q and o 32x32, k and v 16x32, three of 40x32, two norms of 32; final norm 32; table 97x32.
    const std::int64_t linear = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 40 * 32);
    EXPECT_EQ(model->parameter_count(), linear + 2 * 2 * 32 + 32 + 97 * 32);
    EXPECT_EQ(model->dense_bytes(), 4 * (linear + 97 * 32));
    EXPECT_LT(test::weight_bytes(*model), linear * 6 / 10 + 4 * (97 * 32 + 5 * 32) + 1024);
}

TEST(RotaryEmbeddings, each_layer_turns_by_its_own) {
    const at::AutoGradMode off(false);
    const auto states = [](const std::vector<double>& thetas, std::size_t first, std::size_t second) {
        const auto model = load_changed({}, [&](DecoderSpec& decoder) {
            const spec::Rope rope = decoder.ropes[0];
            decoder.ropes.assign(thetas.size(), rope);
            for (std::size_t i = 0; i < thetas.size(); ++i) decoder.ropes[i].frequencies.theta = thetas[i];
            decoder.ropes.push_back({.frequencies = {}, .dims = -1});  // one that no layer reads
            std::get<spec::Attention>(decoder.layers[0].branches[0].block).rope = first;
            std::get<spec::Attention>(decoder.layers[1].branches[0].block).rope = second;
        });
        return model->forward(batch_of({some_ids(20, 1), some_ids(7, 2)}), {});
    };
    const at::Tensor one = states({100.0, 10000.0}, 0, 1);
    EXPECT_TRUE(one.equal(states({10000.0, 100.0}, 1, 0)));
    EXPECT_TRUE(states({100.0}, 0, 0).equal(states({100.0, 100.0}, 0, 1)));
    EXPECT_FALSE(one.equal(states({100.0}, 0, 0)));
    EXPECT_FALSE(one.equal(states({10000.0}, 0, 0)));
}

/// A llama with longrope: sequences of more than 20 tokens turn by other frequencies than shorter ones.
std::unique_ptr<CausalLM> with_longrope(bool only_short = false) {
    return load_changed({}, [&](DecoderSpec& decoder) {
        RopeConfig& rope = decoder.ropes[0].frequencies;
        rope.type = RopeType::kLongrope;
        rope.short_factor = {1.0, 1.5, 2.0, 2.5};
        rope.long_factor = {1.0, 4.0, 9.0, 30.0};
        rope.original_max_position_embeddings = only_short ? 1000 : 20;
        rope.attention_factor = 1.2;
    });
}

TEST(RotaryEmbeddings, longrope_is_chosen_for_each_sequence_by_its_length) {
    const at::AutoGradMode off(false);
    const auto model = with_longrope(), short_model = with_longrope(true);
    const std::vector<Ids> rows = {some_ids(7, 1), some_ids(21, 2), some_ids(20, 3), some_ids(40, 4)};
    const at::Tensor packed = model->forward(batch_of(rows), {});
    std::int64_t begin = 0;
    for (const Ids& row : rows) {
        const auto n = static_cast<std::int64_t>(row.size());
        const at::Tensor alone = model->forward(batch_of({row}), {});
        const auto gap = [&](const at::Tensor& other) { return (alone - other).abs().max().item<double>(); };
        // Products of another number of rows may sum in another order.
        EXPECT_LE(gap(packed.narrow(0, begin, n)), 1e-5 * alone.abs().max().item<double>()) << n;
        EXPECT_EQ(gap(short_model->forward(batch_of({row}), {})) > 1e-3, n > 20) << n;
        begin += n;
    }
}

TEST(RotaryEmbeddings, an_answer_that_grows_past_longropes_edge_is_that_of_whole_passes) {
    const at::AutoGradMode off(false);
    const auto model = with_longrope();
    const std::vector<Ids> prompts = {some_ids(15, 1), some_ids(20, 2), some_ids(30, 3), some_ids(1, 4)};
    const auto out = eval::generate(*model, prompts, {.max_new_tokens = 12, .stop_ids = {}, .batch_rows = 4});
    for (std::size_t i = 0; i < prompts.size(); ++i)
        EXPECT_EQ(out[i], slow_continuation(*model, prompts[i], 12)) << "prompt " << i;
}

TEST(RotaryEmbeddings, the_attention_factor_scales_queries_and_keys) {
    const at::AutoGradMode off(false);
    const TinyModel tiny;
    const auto states = [&](double factor, float query_scale) {
        const TempDir dir;
        auto tensors = tiny.tensors();
        for (auto& [name, tensor] : tensors) {
            if (name.find("q_proj") == std::string::npos) continue;
            for (float& value : tensor.values) value *= query_scale;
        }
        TinyModel::write(dir.path(), tiny.config(), tensors);
        DecoderSpec decoder = load_decoder_spec(dir.path());
        decoder.ropes[0].frequencies.attention_factor = factor;
        LoadOptions options;
        options.compute_dtype = at::kFloat;
        return load_base(io::Checkpoint(dir.path()), decoder, options)
            ->forward(batch_of({some_ids(20, 1)}), {});
    };
    // Powers of two round nowhere.
    EXPECT_TRUE(states(2.0, 1.0F).equal(states(1.0, 4.0F)));
    EXPECT_FALSE(states(2.0, 1.0F).equal(states(1.0, 1.0F)));
}

TEST(Generation, ends_where_the_model_takes_no_more_positions) {
    const at::AutoGradMode off(false);
    const auto model =
        load_changed({}, [](DecoderSpec& decoder) { decoder.ropes[0].frequencies.most_positions = 30; });
    const std::vector<Ids> prompts = {some_ids(28, 1), some_ids(3, 2), some_ids(30, 3)};
    const auto out = eval::generate(*model, prompts, {.max_new_tokens = 12, .stop_ids = {}});
    EXPECT_EQ(out[0].size(), 3U) << "the last token is read off the 30th position";
    EXPECT_EQ(out[1].size(), 12U);
    EXPECT_EQ(out[2].size(), 1U);
}

}  // namespace
}  // namespace qlora::models
