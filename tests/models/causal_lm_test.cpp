#include "qlora/models/causal_lm.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tanh.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "models/token_rows.h"
#include "qlora/eval/generate.h"
#include "qlora/models/base_loader.h"
#include "support/tiny_model.h"
#include "support/weight_bytes.h"

namespace qlora::models {
namespace {

using qlora::test::TempDir;
using qlora::test::TinyModel;

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

TokenBatch batch_of(const std::vector<TokenIds>& rows) {
    return collated(examples_of(rows, false));
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
double largest_shortfall(const CausalLM& model, TokenIds ids, const TokenIds& generated) {
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
TokenIds slow_continuation(const CausalLM& model, TokenIds ids, std::size_t count) {
    const std::size_t prompt = ids.size();
    while (ids.size() < prompt + count) {
        const at::Tensor hidden = model.forward(batch_of({ids}), {});
        const auto last = static_cast<std::int64_t>(ids.size()) - 1;
        ids.push_back(static_cast<tokenizer::TokenId>(
            model.logits(hidden.narrow(0, last, 1)).argmax(1).item<std::int64_t>()));
    }
    return TokenIds(ids.begin() + static_cast<std::ptrdiff_t>(prompt), ids.end());
}

TEST_P(Generation, with_a_cache_equals_the_argmax_of_whole_forward_passes) {
    const at::AutoGradMode off(false);
    const auto model = load(GetParam());
    // Prompts of many lengths together, so that caches of different lengths share a batch; 50 tokens make
    // them grow.
    const std::vector<TokenIds> prompts = {row_of(1, 1), row_of(7, 2), row_of(40, 3), row_of(2, 4)};
    const auto out = eval::generate(*model, prompts, {.max_new_tokens = 50, .stop_ids = {}, .batch_rows = 3});
    ASSERT_EQ(out.size(), prompts.size());
    for (std::size_t i = 0; i < prompts.size(); ++i) {
        const TokenIds slow = slow_continuation(*model, prompts[i], 50);
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
    const TokenIds ids = row_of(37, 5);
    const at::Tensor whole = model->forward(batch_of({ids}), {}).to(at::kFloat);
    KvCache cache(model->spec().layers.size());
    std::int64_t done = 0;
    for (const std::int64_t n : {5, 1, 1, 20, 3, 7}) {
        const TokenIds piece(ids.begin() + done, ids.begin() + done + n);
        TokenBatch batch = batch_of({piece});
        batch.positions.add_(done);
        KvCache* caches[] = {&cache};
        const at::Tensor part = model->forward(batch, {}, {}, caches).to(at::kFloat);
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
    const TokenIds prompt = row_of(9, 2);
    const TokenIds all =
        eval::generate(*model, std::vector<TokenIds>{prompt}, {.max_new_tokens = 20, .stop_ids = {}})[0];
    ASSERT_EQ(all.size(), 20U);
    const auto first = std::find(all.begin(), all.end(), all[6]);
    const auto cut = eval::generate(*model, std::vector<TokenIds>{prompt},
                                    {.max_new_tokens = 20, .stop_ids = {1000, all[6]}})[0];
    EXPECT_EQ(cut, TokenIds(all.begin(), first));
}

TEST(CausalLM, a_sequence_gives_the_same_bits_wherever_it_lies_in_a_batch) {
    const at::AutoGradMode off(false);
    const auto model = load({"qwen3", {.model_type = "qwen3", .sliding_window = 6}});
    const TokenIds a = row_of(16, 1), b = row_of(16, 2), c = row_of(3, 3);
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
        return model->forward(batch_of({row_of(20, 1), row_of(7, 2)}), {});
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
    const std::vector<TokenIds> rows = {row_of(7, 1), row_of(21, 2), row_of(20, 3), row_of(40, 4)};
    const at::Tensor packed = model->forward(batch_of(rows), {});
    std::int64_t begin = 0;
    for (const TokenIds& row : rows) {
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
    const std::vector<TokenIds> prompts = {row_of(15, 1), row_of(20, 2), row_of(30, 3), row_of(1, 4)};
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
            ->forward(batch_of({row_of(20, 1)}), {});
    };
    // Powers of two round nowhere.
    EXPECT_TRUE(states(2.0, 1.0F).equal(states(1.0, 4.0F)));
    EXPECT_FALSE(states(2.0, 1.0F).equal(states(1.0, 1.0F)));
}

TEST(Generation, ends_where_the_model_takes_no_more_positions) {
    const at::AutoGradMode off(false);
    const auto model =
        load_changed({}, [](DecoderSpec& decoder) { decoder.ropes[0].frequencies.most_positions = 30; });
    const std::vector<TokenIds> prompts = {row_of(28, 1), row_of(3, 2), row_of(30, 3)};
    const auto out = eval::generate(*model, prompts, {.max_new_tokens = 12, .stop_ids = {}});
    EXPECT_EQ(out[0].size(), 3U) << "the last token is read off the 30th position";
    EXPECT_EQ(out[1].size(), 12U);
    EXPECT_EQ(out[2].size(), 1U);
}

/// The embedding's rows, replaced.
void replace_embedding(CausalLM& model, const at::Tensor& table) {
    model.set_embedding(nn::Weight(table, model.compute_dtype()), table);
}

at::Tensor embedding_of(const CausalLM& model) {
    return model.embedding().dense();
}

TEST(CausalLM, a_scaled_embedding_is_one_whose_rows_are_larger) {
    const auto plain = load_changed({}, [](DecoderSpec&) {});
    const auto scaled = load_changed({}, [](DecoderSpec& decoder) { decoder.embedding_scale = 1.7; });
    const TokenBatch batch = batch_of({row_of(9, 1), row_of(5, 2)});
    EXPECT_FALSE(scaled->forward(batch, {}).equal(plain->forward(batch, {})));
    replace_embedding(*plain, embedding_of(*plain) * 1.7);
    EXPECT_TRUE(scaled->forward(batch, {}).equal(plain->forward(batch, {})));
}

TEST(CausalLM, a_rounded_embedding_scale_is_a_value_of_the_compute_dtype) {
    const TokenIds ids = row_of(9, 1);
    const auto hidden = [&](double scale, bool rounds, at::ScalarType dtype) {
        const TempDir dir;
        TinyModel{}.write(dir.path());
        DecoderSpec decoder = load_decoder_spec(dir.path());
        decoder.embedding_scale = scale;
        decoder.rounds_embedding_scale = rounds;
        LoadOptions options;
        options.compute_dtype = dtype;
        return load_base(io::Checkpoint(dir.path()), decoder, options)->forward(batch_of({ids}), {});
    };
    const double exact = std::sqrt(33.0), in_bf16 = 5.75;  // of 5.745
    EXPECT_TRUE(hidden(exact, true, at::kBFloat16).equal(hidden(in_bf16, false, at::kBFloat16)));
    EXPECT_FALSE(hidden(exact, false, at::kBFloat16).equal(hidden(in_bf16, false, at::kBFloat16)));
    EXPECT_TRUE(hidden(exact, true, at::kFloat).equal(hidden(exact, false, at::kFloat)));
}

TEST(CausalLM, learned_positions_are_added_to_the_embedding) {
    const auto with = load_changed({}, [](DecoderSpec&) {}), without = load_changed({}, [](DecoderSpec&) {});
    const at::Tensor positions = at::arange(256 * 32, at::kFloat).reshape({256, 32}).sin();
    with->set_positions(positions);
    TokenIds ids;
    for (int i = 0; i < 9; ++i) ids.push_back(3 + 10 * i);  // each once, so that a row stands for a position
    at::Tensor table = embedding_of(*without).clone();
    for (std::int64_t i = 0; i < 9; ++i) table[3 + 10 * i].add_(positions[i]);
    replace_embedding(*without, table);
    // The second sequence begins at position 0 again.
    const TokenBatch batch = batch_of({ids, TokenIds(ids.begin(), ids.begin() + 4)});
    EXPECT_TRUE(with->forward(batch, {}).equal(without->forward(batch, {})));
}

TEST(CausalLM, a_trained_embedding_gets_the_gradient_of_what_is_scaled) {
    const auto model = load_changed({}, [](DecoderSpec& decoder) { decoder.embedding_scale = 1.7; });
    const auto larger = load_changed({}, [](DecoderSpec&) {});
    replace_embedding(*larger, embedding_of(*larger) * 1.7);
    const TokenBatch batch = batch_of({row_of(9, 1)});
    for (CausalLM* each : {model.get(), larger.get()}) {
        each->train_embedding();
        each->forward(batch, {}).sin().sum().backward();
    }
    const at::Tensor gradient = model->trained_embedding().grad();
    EXPECT_TRUE(gradient.any().item<bool>());
    EXPECT_TRUE(gradient.equal(larger->trained_embedding().grad() * 1.7));
}

TEST(CausalLM, logits_losses_and_scores_follow_the_rule_of_the_description) {
    const auto plain = load_changed({}, [](DecoderSpec&) {});
    const auto ruled = load_changed({}, [](DecoderSpec& decoder) {
        decoder.logit_scale = 0.7;
        decoder.logit_softcap = 2.0;
    });
    const at::Tensor bias = at::arange(97, at::kFloat).cos();
    ruled->set_head_bias(bias);
    const at::Tensor hidden = plain->forward(batch_of({row_of(9, 1)}), {}).detach();
    const at::Tensor expected = at::tanh((plain->logits(hidden) + bias).to(at::kDouble) * 0.7 / 2.0) * 2.0;
    // Values of at most 2, products of 32 terms and four operations in fp32.
    EXPECT_LE((ruled->logits(hidden) - expected).abs().max().item<double>(), 2e-6);
    const at::Tensor targets = at::arange(9, at::kLong) * 7;
    const at::Tensor exact = at::log_softmax(expected, 1).gather(1, targets.unsqueeze(1)).squeeze(1);
    EXPECT_LE((ruled->score(hidden, targets).logprobs - exact).abs().max().item<double>(), 1e-5);
    EXPECT_NEAR(ruled->loss_sum(hidden, targets).item<double>(), -exact.sum().item<double>(), 1e-4);
    const double frozen = ruled->loss_sum(hidden, targets).item<double>();
    ruled->train_head();
    EXPECT_NEAR(ruled->loss_sum(hidden, targets).item<double>(), frozen, 1e-4);
    EXPECT_LE((ruled->logits(hidden) - expected).abs().max().item<double>(), 2e-6);
}

}  // namespace
}  // namespace qlora::models
