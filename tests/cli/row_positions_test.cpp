#include "cli/row_positions.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "support/tiny_model.h"
#include "support/train_runs.h"

namespace qlora::cli {
namespace {

data::Dataset with_longest(std::int64_t tokens) {
    data::Dataset out;
    out.statistics.longest = tokens;
    return out;
}

TEST(PositionWarning, is_given_where_a_row_passes_what_the_model_has_seen) {
    models::DecoderSpec model = models::parse_decoder_spec(test::TinyModel{}.config(), "config.json");
    const data::Dataset fits = with_longest(256), longer = with_longest(300);
    EXPECT_EQ(position_warning({model}, fits, nullptr), "");
    EXPECT_EQ(position_warning({model}, fits, &fits), "");
    for (const std::string& text :
         {position_warning({model}, longer, nullptr), position_warning({model}, fits, &longer)}) {
        EXPECT_NE(text.find("300 tokens"), std::string::npos) << text;
        EXPECT_NE(text.find("256 positions (max_position_embeddings"), std::string::npos) << text;
        EXPECT_NE(text.find("data.max_length: 256"), std::string::npos) << text;
        EXPECT_EQ(text.find("linear"), std::string::npos) << text;
    }
    model.ropes = {{.frequencies = {.type = models::RopeType::kLinear, .factor = 4.0}}};
    EXPECT_NE(position_warning({model}, longer, nullptr).find("linear scaling of its rope, 4 times"),
              std::string::npos);
}

models::DecoderSpec with_rope(const Json& section) {
    Json json = test::TinyModel{}.config();
    json["rope_scaling"] = section;
    return models::parse_decoder_spec(json, "config.json");
}

data::Dataset rows_of(const std::vector<std::int64_t>& lengths) {
    data::Dataset out;
    for (const std::int64_t length : lengths) {
        out.examples.push_back({.ids = std::vector<tokenizer::TokenId>(static_cast<std::size_t>(length)),
                                .place = "rows.jsonl:" + std::to_string(out.examples.size() + 1),
                                .answer_begin = length / 2});
    }
    return out;
}

template <class Action>
std::string refusal(const Action& action) {
    try {
        action();
    } catch (const DataError& error) {
        return error.what();
    }
    return "";
}

const Json kDynamic = {{"type", "dynamic"}, {"factor", 2.0}};  // for 256 positions

TEST(RowPositions, rows_beyond_what_a_rope_is_built_for_are_refused_by_name) {
    const models::DecoderSpec model = with_rope(kDynamic);
    const data::Dataset fits = rows_of({256, 3}), one = rows_of({3, 257}), more = rows_of({300, 2, 400});
    const auto text = [&](const std::vector<const data::Dataset*>& data) {
        return refusal([&] { require_positions({model}, data, "data.max_length:"); });
    };
    EXPECT_EQ(text({&fits}), "");
    EXPECT_EQ(
        text({&fits, &one}),
        "rows.jsonl:2: the row has 257 tokens, but this model takes rows of at most 256: a rope of type "
        "dynamic changes with the longest row beyond max_position_embeddings, which is not built; "
        "data.max_length: 256 keeps rows within");
    EXPECT_NE(
        text({&one, &more}).find("rows.jsonl:3: the row has 400 tokens, the most of 3 rows that are too"),
        std::string::npos)
        << text({&one, &more});
    const models::DecoderSpec plain = with_rope(nullptr);
    EXPECT_EQ(refusal([&] { require_positions({plain}, {&more}, "data.max_length:"); }), "");
}

TEST(RowPositions, virtual_tokens_take_positions_too) {
    const models::DecoderSpec model = with_rope(kDynamic);
    const data::Dataset fits = rows_of({236}), longer = rows_of({237});
    const auto text = [&](const data::Dataset& rows) {
        return refusal([&] { require_positions({model, 20}, {&rows}, "data.max_length:"); });
    };
    EXPECT_EQ(text(fits), "");
    EXPECT_NE(text(longer).find("237 tokens behind 20 virtual ones"), std::string::npos) << text(longer);
    EXPECT_NE(text(longer).find("data.max_length: 236 keeps"), std::string::npos) << text(longer);
    EXPECT_EQ(refusal([&] { require_answer_positions({model, 20}, fits.examples, 119); }), "");
    EXPECT_NE(refusal([&] { require_answer_positions({model, 20}, fits.examples, 120); }), "");
    EXPECT_EQ(position_warning({model, 20}, with_longest(236), nullptr), "");
    EXPECT_NE(position_warning({model, 20}, with_longest(237), nullptr).find("data.max_length: 236"),
              std::string::npos);
}

TEST(RowPositions, answers_beyond_it_are_refused_before_they_begin) {
    const data::Dataset rows = rows_of({40, 100, 60});
    const auto text = [&](const Json& rope, std::int64_t tokens) {
        return refusal([&] { require_answer_positions({with_rope(rope)}, rows.examples, tokens); });
    };
    EXPECT_EQ(text(kDynamic, 207), "");
    EXPECT_EQ(text(nullptr, 208), "");
    const std::string refused = text(kDynamic, 208);
    EXPECT_EQ(refused.find("rows.jsonl:2: the prompt has 50 tokens and its answer up to 208"), 0U) << refused;
    EXPECT_NE(refused.find("--max-new-tokens 207 fits"), std::string::npos) << refused;
}

TEST(RowPositions, long_rows_of_a_longrope_are_named_once) {
    const std::vector<double> ones(4, 1.0);
    const models::DecoderSpec model = with_rope({{"type", "longrope"},
                                                 {"short_factor", ones},
                                                 {"long_factor", ones},
                                                 {"original_max_position_embeddings", 64}});
    const data::Dataset brief = rows_of({64, 3}), mixed = rows_of({65, 3}), all = rows_of({65, 300});
    EXPECT_EQ(longrope_note({model}, {&brief}), "");
    EXPECT_EQ(longrope_note({with_rope(nullptr)}, {&all}), "");
    EXPECT_EQ(longrope_note({model}, {&brief, &mixed}).find("longrope turns 1 of 4 rows"), 0U);
    EXPECT_NE(longrope_note({model}, {&mixed}).find("the others by its short ones"), std::string::npos);
    EXPECT_EQ(longrope_note({model}, {&all}).find("the others"), std::string::npos);
}

TEST(RowPositions, programs_refuse_rows_before_they_run_and_name_longrope) {
    test::TrainRuns runs;
    const std::string file = runs.path("model/config.json");
    const Json config = read_json_file(file);
    const auto write = [&](const Json& rope, std::int64_t positions) {
        Json changed = config;
        changed["rope_scaling"] = rope;
        changed["max_position_embeddings"] = positions;
        test::write_file(file, changed.dump());
    };
    const auto expect_refused = [](const test::TrainOutcome& outcome, const std::string& advice) {
        EXPECT_EQ(outcome.code, 2) << outcome.log;
        EXPECT_TRUE(outcome.says(": the row has ")) << outcome.log;
        EXPECT_TRUE(outcome.says(advice)) << outcome.log;
    };
    write(kDynamic, 4);
    expect_refused(runs.run(test::Settings{}), "data.max_length: 4 keeps rows within");
    expect_refused(runs.again({"--dry-run"}, {}), "data.max_length: 4 keeps rows within");
    expect_refused(runs.evaluate({"--base-only"}, {}), "--max-length 4 keeps rows within");

    write(kDynamic, 256);
    const test::TrainOutcome answers = runs.evaluate({"--base-only", "--generate"}, {});
    EXPECT_EQ(answers.code, 2) << answers.log;
    EXPECT_TRUE(answers.says("its answer up to 256")) << answers.log;

    const std::vector<double> ones(4, 1.0);
    write({{"type", "longrope"},
           {"short_factor", ones},
           {"long_factor", ones},
           {"original_max_position_embeddings", 4}},
          256);
    const test::TrainOutcome dry = runs.again({"--dry-run"}, {});
    EXPECT_EQ(dry.code, 0) << dry.log;
    EXPECT_NE(dry.printed.find("longrope turns 16 of 16 rows"), std::string::npos) << dry.printed;
    EXPECT_TRUE(runs.evaluate({"--base-only"}, {}).says("longrope turns 4 of 4 rows"));
}

}  // namespace
}  // namespace qlora::cli
