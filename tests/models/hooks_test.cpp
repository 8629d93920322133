#include "qlora/models/hooks.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "models/token_rows.h"
#include "qlora/eval/evaluator.h"
#include "qlora/eval/generate.h"
#include "qlora/models/base_loader.h"
#include "support/tiny_model.h"

namespace qlora::models {
namespace {

constexpr std::int64_t kVirtual = 5;

at::Tensor random_values(at::IntArrayRef sizes, std::uint64_t seed) {
    return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed),
                     at::TensorOptions().dtype(at::kFloat));
}

/// What a parameter gives by way of a graph, as an encoder's does.
at::Tensor encoded(const at::Tensor& parameter) {
    return (parameter * 2.0).sin();
}

class TestPrompt final : public SoftPrompt {
  public:
    explicit TestPrompt(std::int64_t hidden)
        : parameter(random_values({kVirtual, hidden}, 11).requires_grad_()) {}
    std::int64_t tokens() const override { return kVirtual; }
    at::Tensor rows(const nn::ForwardContext&) const override {
        ++asked;
        return encoded(parameter);
    }
    void to(at::Device) override {}

    at::Tensor parameter;
    mutable int asked = 0;
};

class TestPrefix final : public KeyValuePrefix {
  public:
    TestPrefix(std::int64_t layers, std::int64_t kv_size)
        : parameter(random_values({layers, 2, kVirtual, kv_size}, 12).requires_grad_()) {}
    std::int64_t tokens() const override { return kVirtual; }
    std::vector<at::Tensor> layers(const nn::ForwardContext&) const override {
        ++asked;
        return encoded(parameter).unbind(0);
    }
    void to(at::Device) override {}

    at::Tensor parameter;
    mutable int asked = 0;
};

enum class Kind { kPrompt, kPrefix, kBoth };

struct HookCase {
    const char* name;
    Kind kind;
    test::TinyModel tiny = {};
    void (*change)(DecoderSpec&) = nullptr;
    at::ScalarType compute = at::kFloat;
    bool positions = false;  ///< learned ones
};

std::ostream& operator<<(std::ostream& out, const HookCase& value) {
    return out << value.name;
}

/// A tiny model with hooks, and their parameters.
struct Hooked {
    explicit Hooked(const HookCase& value) {
        const test::TempDir dir;
        value.tiny.write(dir.path());
        DecoderSpec decoder = load_decoder_spec(dir.path());
        if (value.change != nullptr) value.change(decoder);
        LoadOptions options;
        options.compute_dtype = value.compute;
        model = load_base(io::Checkpoint(dir.path()), decoder, options);
        if (value.positions) model->set_positions(random_values({256, value.tiny.hidden}, 13));
        Hooks hooks;
        if (value.kind != Kind::kPrefix) {
            prompt = std::make_shared<TestPrompt>(value.tiny.hidden);
            hooks.prompt = prompt;
            parameters.push_back(prompt->parameter);
        }
        if (value.kind != Kind::kPrompt) {
            prefix =
                std::make_shared<TestPrefix>(value.tiny.layers, value.tiny.kv_heads * value.tiny.head_dim);
            hooks.prefix = prefix;
            parameters.push_back(prefix->parameter);
        }
        model->set_hooks(hooks);
    }

    std::unique_ptr<CausalLM> model;
    std::shared_ptr<TestPrompt> prompt;
    std::shared_ptr<TestPrefix> prefix;
    std::vector<at::Tensor> parameters;
};

const std::vector<TokenIds>& sample_rows() {
    static const std::vector<TokenIds> rows = {row_of(9, 1), row_of(2, 2), row_of(31, 3), row_of(14, 4)};
    return rows;
}

double gap(const at::Tensor& a, const at::Tensor& b) {
    return ((a - b).abs().max() / b.abs().max()).item<double>();
}

class HookedModel : public testing::TestWithParam<HookCase> {};
INSTANTIATE_TEST_SUITE_P(
    Models, HookedModel,
    testing::Values(HookCase{"prompt", Kind::kPrompt}, HookCase{"prefix", Kind::kPrefix},
                    HookCase{"both", Kind::kBoth, {.tie = true, .bias = true}},
                    HookCase{"prompt_window", Kind::kPrompt, {.model_type = "mistral", .sliding_window = 4}},
                    HookCase{"prefix_window", Kind::kPrefix, {.model_type = "mistral", .sliding_window = 4}},
                    HookCase{"prefix_longer_than_the_window",
                             Kind::kPrefix,
                             {.model_type = "qwen2", .sliding_window = 3}},
                    HookCase{"prefix_norms", Kind::kPrefix, {.model_type = "qwen3", .kv_heads = 1}},
                    HookCase{"prefix_softcap",
                             Kind::kPrefix,
                             {},
                             [](DecoderSpec& decoder) {
                                 for (spec::Layer& layer : decoder.layers)
                                     std::get<spec::Attention>(layer.branches[0].block).softcap = 1.5;
                             }},
                    HookCase{"prompt_positions", Kind::kPrompt, {}, nullptr, at::kFloat, true},
                    HookCase{"prefix_positions", Kind::kPrefix, {}, nullptr, at::kFloat, true},
                    HookCase{"prompt_bf16", Kind::kPrompt, {}, nullptr, at::kBFloat16},
                    HookCase{"prefix_bf16", Kind::kPrefix, {}, nullptr, at::kBFloat16}),
    [](const auto& chosen) { return chosen.param.name; });

TEST_P(HookedModel, a_batch_gives_each_row_what_it_gives_alone) {
    const at::AutoGradMode off(false);
    const Hooked hooked(GetParam());
    const TokenBatch batch = collated(examples_of(sample_rows(), true));
    const at::Tensor all = hooked.model->forward(batch, {});
    ASSERT_EQ(all.size(0), batch.ids.size(0)) << "those of the text";
    std::int64_t begin = 0;
    for (const TokenIds& row : sample_rows()) {
        const auto n = static_cast<std::int64_t>(row.size());
        const at::Tensor alone = hooked.model->forward(collated(examples_of({row}, true)), {});
        // fp32 products of other sizes; in bf16 they flip a rounding now and then.
        EXPECT_LE(gap(all.narrow(0, begin, n), alone), GetParam().compute == at::kFloat ? 1e-6 : 3e-2);
        begin += n;
    }
    const at::Tensor some = hooked.model->forward(batch, {}, batch.rows);
    EXPECT_LE(gap(some, all.index_select(0, batch.rows)), GetParam().compute == at::kFloat ? 1e-6 : 3e-2);
}

TEST_P(HookedModel, hooks_change_the_states_of_the_text) {
    const at::AutoGradMode off(false);
    const Hooked hooked(GetParam());
    const TokenBatch batch = collated(examples_of(sample_rows(), true));
    const at::Tensor with = hooked.model->forward(batch, {});
    hooked.model->set_hooks({});
    EXPECT_GE(gap(hooked.model->forward(batch, {}), with), 1e-2);
}

TEST_P(HookedModel, generation_equals_whole_passes) {
    const at::AutoGradMode off(false);
    if (GetParam().compute != at::kFloat) return;  // ties of bf16 may fall either way
    const Hooked hooked(GetParam());
    const std::vector<TokenIds> prompts = {row_of(1, 1), row_of(7, 2), row_of(20, 3)};
    const auto out =
        eval::generate(*hooked.model, prompts, {.max_new_tokens = 20, .stop_ids = {}, .batch_rows = 2});
    for (std::size_t i = 0; i < prompts.size(); ++i) {
        TokenIds ids = prompts[i];
        for (const tokenizer::TokenId found : out[i]) {
            const at::Tensor hidden = hooked.model->forward(collated(examples_of({ids}, true)), {});
            const at::Tensor logits = hooked.model->logits(hidden.narrow(0, hidden.size(0) - 1, 1))[0];
            ASSERT_EQ(found, logits.argmax().item<std::int64_t>()) << "prompt " << i;
            ids.push_back(found);
        }
        EXPECT_EQ(out[i].size(), 20U);
    }
}

TEST_P(HookedModel, levels_of_recomputation_give_the_same_bits) {
    std::vector<at::Tensor> losses;
    std::vector<std::vector<at::Tensor>> gradients;
    for (const nn::Recomputation level :
         {nn::Recomputation::kNone, nn::Recomputation::kMlp, nn::Recomputation::kLayers}) {
        const Hooked hooked(GetParam());
        const TokenBatch batch = collated(examples_of(sample_rows(), true));
        const at::Tensor hidden =
            hooked.model->forward(batch, {.training = true, .recomputation = level}, batch.rows);
        losses.push_back(hooked.model->loss_sum(hidden, batch.targets));
        losses.back().backward();
        std::vector<at::Tensor> found;
        for (const at::Tensor& parameter : hooked.parameters) {
            ASSERT_TRUE(parameter.grad().defined());
            ASSERT_TRUE(parameter.grad().any().item<bool>());
            found.push_back(parameter.grad());
        }
        gradients.push_back(found);
        EXPECT_EQ(hooked.prompt ? hooked.prompt->asked : 1, 1);
        EXPECT_EQ(hooked.prefix ? hooked.prefix->asked : 1, 1);
    }
    for (std::size_t level : {1, 2}) {
        EXPECT_TRUE(losses[level].equal(losses[0]));
        for (std::size_t i = 0; i < gradients[0].size(); ++i)
            EXPECT_TRUE(gradients[level][i].equal(gradients[0][i])) << level << ", parameter " << i;
    }
}

TEST_P(HookedModel, evaluation_is_the_same_whatever_the_batching) {
    if (GetParam().compute != at::kFloat) return;
    const Hooked hooked(GetParam());
    const std::vector<data::Example> rows = examples_of(sample_rows(), true);
    const eval::EvalSums alone = eval::evaluate(*hooked.model, rows, {.tokens_per_batch = 1});
    const eval::EvalSums together = eval::evaluate(*hooked.model, rows, {.tokens_per_batch = 1024});
    EXPECT_EQ(together.supervised_tokens, 52);
    EXPECT_EQ(together.correct_tokens, alone.correct_tokens);
    EXPECT_NEAR(together.loss, alone.loss, 1e-6 * alone.loss);
}

/// The gradient of each parameter along a direction, against how the loss moves in fp32.
TEST_P(HookedModel, gradients_are_the_slope_of_the_loss) {
    if (GetParam().compute != at::kFloat) return;
    const Hooked hooked(GetParam());
    const TokenBatch batch = collated(examples_of(sample_rows(), true));
    const auto loss = [&] {
        return hooked.model->loss_sum(hooked.model->forward(batch, {}, batch.rows), batch.targets);
    };
    loss().backward();
    const at::AutoGradMode off(false);
    for (at::Tensor parameter : hooked.parameters) {
        const at::Tensor direction = parameter.grad() / parameter.grad().norm();
        constexpr double kStep = 2e-2;
        parameter.add_(direction, kStep);
        const double above = loss().item<double>();
        parameter.sub_(direction, 2 * kStep);
        const double below = loss().item<double>();
        parameter.add_(direction, kStep);
        const double slope = parameter.grad().norm().item<double>();
        // Curvature over the step, and fp32's noise in a loss of about 250 over it.
        EXPECT_NEAR((above - below) / (2 * kStep), slope, 0.02 * slope + 5e-3);
    }
}

std::unique_ptr<CausalLM> changed(void (*change)(DecoderSpec&), bool positions = false) {
    HookCase value{"", Kind::kPrompt};
    value.change = change;
    value.positions = positions;
    Hooked hooked(value);
    hooked.model->set_hooks({});
    return std::move(hooked.model);
}

/// A prompt of given rows.
class Rows final : public SoftPrompt {
  public:
    explicit Rows(at::Tensor rows) : rows_(std::move(rows)) {}
    std::int64_t tokens() const override { return rows_.size(0); }
    at::Tensor rows(const nn::ForwardContext&) const override { return rows_; }
    void to(at::Device) override {}

  private:
    at::Tensor rows_;
};

TEST(Prompt, of_the_rows_of_tokens_is_these_tokens) {
    const at::AutoGradMode off(false);
    const TokenIds before = row_of(6, 8), text = row_of(17, 9);
    TokenIds together = before;
    together.insert(together.end(), text.begin(), text.end());
    void (*const changes[])(DecoderSpec&) = {[](DecoderSpec&) {},
                                             [](DecoderSpec& decoder) { decoder.embedding_scale = 1.7; },
                                             [](DecoderSpec& decoder) {
                                                 decoder.embedding_scale = 1.7;
                                                 decoder.rounds_embedding_scale = true;
                                             },
                                             [](DecoderSpec&) {}};
    for (std::size_t i = 0; i < std::size(changes); ++i) {
        const auto model = changed(changes[i], i == 3);
        const at::Tensor expected =
            model->forward(collated(examples_of({together}, true)), {}).narrow(0, 6, 17);
        const std::vector<std::int64_t> ids(before.begin(), before.end());
        model->set_hooks(
            {.prompt = std::make_shared<Rows>(model->rows_of_tokens(at::tensor(ids, at::kLong)))});
        EXPECT_TRUE(model->forward(collated(examples_of({text}, true)), {}).equal(expected)) << i;
    }
}

/// Where the embedding's own module scales, virtual tokens are not scaled; else the model scales all.
TEST(Prompt, is_scaled_unless_the_embedding_scales_its_rows) {
    const at::AutoGradMode off(false);
    const auto states = [](bool rounds, double factor) {
        const auto model = rounds ? changed([](DecoderSpec& decoder) {
            decoder.embedding_scale = 2.0;
            decoder.rounds_embedding_scale = true;
        })
                                  : changed([](DecoderSpec& decoder) { decoder.embedding_scale = 2.0; });
        model->set_hooks({.prompt = std::make_shared<Rows>(random_values({3, 32}, 5) * factor)});
        return model->forward(collated(examples_of({row_of(4, 1)}, true)), {});
    };
    EXPECT_TRUE(states(false, 1.0).equal(states(true, 2.0)));
    EXPECT_FALSE(states(false, 1.0).equal(states(true, 1.0)));
}

/// longrope turns a row of more than 20 positions otherwise: 5 of them are virtual.
TEST(VirtualTokens, count_at_longropes_edge_and_at_the_last_position) {
    const at::AutoGradMode off(false);
    for (const Kind kind : {Kind::kPrompt, Kind::kPrefix}) {
        HookCase value{"", kind};
        value.change = [](DecoderSpec& decoder) {
            RopeConfig& rope = decoder.ropes[0].frequencies;
            rope.type = RopeType::kLongrope;
            rope.short_factor = {1.0, 1.5, 2.0, 2.5};
            rope.long_factor = {1.0, 4.0, 9.0, 30.0};
            rope.original_max_position_embeddings = 20;
            rope.most_positions = 26;
        };
        const Hooked hooked(value);
        HookCase short_value = value;
        short_value.change = [](DecoderSpec& decoder) {
            RopeConfig& rope = decoder.ropes[0].frequencies;
            rope.type = RopeType::kLongrope;
            rope.short_factor = rope.long_factor = {1.0, 1.5, 2.0, 2.5};
            rope.original_max_position_embeddings = 20;
        };
        const Hooked always_short(short_value);
        for (const std::size_t n : {15, 16}) {
            const TokenBatch batch = collated(examples_of({row_of(n, 3)}, true));
            EXPECT_EQ(hooked.model->forward(batch, {}).equal(always_short.model->forward(batch, {})), n == 15)
                << n;
        }
        // From 12 tokens over the edge to the 26th position, off which one more token is read.
        const TokenIds prompt = row_of(12, 4);
        const auto out = eval::generate(*hooked.model, std::vector<TokenIds>{prompt},
                                        {.max_new_tokens = 50, .stop_ids = {}});
        EXPECT_EQ(out[0].size(), 26U - 5U - 12U + 1U);
        TokenIds ids = prompt;
        for (const tokenizer::TokenId found : out[0]) {
            const at::Tensor hidden = hooked.model->forward(collated(examples_of({ids}, true)), {});
            EXPECT_EQ(found, hooked.model->logits(hidden.narrow(0, hidden.size(0) - 1, 1))[0]
                                 .argmax()
                                 .item<std::int64_t>());
            ids.push_back(found);
        }
    }
}

TEST(VirtualTokens, stand_in_a_cache_from_its_first_pass_on) {
    const at::AutoGradMode off(false);
    for (const Kind kind : {Kind::kPrompt, Kind::kPrefix, Kind::kBoth}) {
        const Hooked hooked({"", kind});
        const std::int64_t before = hooked.model->hooks().tokens();
        KvCache cache(2), other(2);
        std::vector<KvCache*> one = {&cache}, both = {&cache, &other};
        TokenBatch batch = collated(examples_of({row_of(4, 1)}, true));
        hooked.model->forward(batch, {}, {}, one);
        EXPECT_EQ(cache.length(), before + 4);
        // A sequence that goes on and one that begins.
        batch = collated(examples_of({row_of(2, 2), row_of(3, 3)}, true));
        batch.positions.narrow(0, 0, 2).add_(4);
        const at::Tensor states = hooked.model->forward(batch, {}, {}, both);
        EXPECT_EQ(states.size(0), 5);
        EXPECT_EQ(cache.length(), before + 6);
        EXPECT_EQ(other.length(), before + 3);
        TokenIds whole = row_of(4, 1);
        for (const tokenizer::TokenId id : row_of(2, 2)) whole.push_back(id);
        const at::Tensor first =
            hooked.model->forward(collated(examples_of({whole}, true)), {}).narrow(0, 4, 2);
        EXPECT_LE(gap(states.narrow(0, 0, 2), first), 1e-5);
        EXPECT_LE(gap(states.narrow(0, 2, 3),
                      hooked.model->forward(collated(examples_of({row_of(3, 3)}, true)), {})),
                  1e-5);
    }
}

}  // namespace
}  // namespace qlora::models
