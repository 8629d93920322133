// Every setting of run.json arrives: whole runs of qlora-train on a tiny model, in this process. A setting
// that is changed changes the run as the table says; a setting without an entry fails the test.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "qlora/cli/run_config.h"
#include "support/train_runs.h"

namespace qlora::cli {
namespace {

using test::Settings;
using test::TrainOutcome;

/// How a changed setting shows. Both runs end well where nothing else is said.
enum class Effect {
    kNumbers,  ///< losses, rates, rows or adapter differ
    kFiles,    ///< other files, or another adapter_config.json
    kLog,      ///< the same numbers; `text` is in one log and not in the other
    kThreads,  ///< the number of threads
    kRefused,  ///< the changed run is refused; the message has `text`
    kAllowed,  ///< the run is refused without the change; the message has `text`
    kNone      ///< cannot show here; `text` says why
};

struct Entry {
    std::string setting;
    std::string value;
    Effect effect;
    test::Settings besides = {};  ///< settings of both runs, where X has an effect only together with them
    std::string text = {};
};

std::vector<Entry> entries(const test::TrainRuns& runs) {
    using enum Effect;
    const std::string own_template = "data.template=" + runs.path("own.jinja");
    const std::string best = "training.load_best_model_at_end";
    return {
        {"model.path", runs.path("other_model"), kNumbers},
        {"model.adapter", runs.path("adapter"), kNumbers},
        {"model.device", "cuda:99", kRefused, {}, "model.device"},
        {"model.threads", "2", kThreads},
        {"quantization.load_in_4bit", "false", kNumbers},
        {"quantization.bnb_4bit_quant_type", "nf4", kNone, {}, "has one value"},
        {"quantization.bnb_4bit_use_double_quant", "false", kNumbers},
        {"quantization.bnb_4bit_compute_dtype", "bfloat16", kNumbers},
        {"quantization.bnb_4bit_blocksize", "32", kNumbers},
        {"peft.r", "8", kNumbers},
        {"peft.lora_alpha", "16", kNumbers},
        {"peft.lora_dropout", "0.5", kNumbers},
        {"peft.target_modules", "all-linear", kNumbers},
        // A model with experts: tests/peers/test_moe_models.py.
        {"peft.target_parameters", R"(["mlp.experts.down_proj"])", kRefused, {}, "the model has no experts"},
        {"peft.exclude_modules", R"(["v_proj"])", kNumbers},
        {"peft.modules_to_save", R"(["lm_head"])", kNumbers},
        // A model that ties them: adapters/table_lora_test.cpp.
        {"peft.ensure_weight_tying", "true", kFiles},
        {"peft.layers_to_transform", "[0]", kNumbers},
        {"peft.layers_pattern",
         "blocks",
         kRefused,
         {"peft.layers_to_transform=[0]", "peft.target_modules=[\"q_proj\"]"},
         "layers_"},
        {"peft.rank_pattern", R"({"v_proj": 2})", kNumbers},
        {"peft.alpha_pattern", R"({"v_proj": 2})", kNumbers},
        {"peft.use_rslora", "true", kNumbers},
        {"peft.use_dora", "true", kNumbers},
        {"peft.lora_bias", "true", kNumbers},
        {"peft.init_lora_weights", "gaussian", kNumbers},
        {"peft.bias", "all", kNumbers},
        {"peft.peft_type", "IA3", kRefused, {}, "peft.r: is a setting of another peft_type"},
        {"peft.task_type", "null", kFiles},
        {"peft.base_model_name_or_path", "group/name", kFiles},
        {"data.train", runs.path("other_train.jsonl"), kNumbers},
        {"data.eval", runs.path("other_eval.jsonl"), kNumbers},
        {"data.format", "text", kRefused, {}, "train.jsonl:1"},
        {"data.columns", R"({"completion": "reply"})", kRefused, {}, "reply"},
        {"data.template", "chatml", kNumbers},
        {"data.template_arguments", R"({"mode": true})", kNumbers, {own_template}},
        {"data.tools", R"([{"name": "w"}])", kNumbers, {own_template}},
        {"data.documents", R"([{"text": "w"}])", kNumbers, {own_template}},
        {"data.one_row_per_answer",
         "true",
         kNumbers,
         {own_template, "data.train=" + runs.path("turns.jsonl")}},
        {"data.max_length", "9", kNumbers},
        {"data.overlong", "truncate", kNumbers, {"data.max_length=9"}},
        {"data.train_on", "all", kNumbers},
        {"data.max_tokens_per_batch", "32", kNumbers, {"data.max_length=32"}},
        {"data.group_by_length", "true", kNumbers, {"training.log_rows=true"}},
        {"data.on_bad_row",
         "skip",
         kAllowed,
         {"data.train=" + runs.path("bad_row.jsonl")},
         "bad_row.jsonl:13"},
        {"training.output_dir",
         "",
         kNone,
         {},
         "each run here has a folder of its own, where its files are looked for"},
        {"training.router_aux_loss_coef", "0.5", kRefused, {}, "a llama model has no experts"},
        {"training.num_train_epochs", "1.5", kNumbers},
        {"training.max_steps", "3", kNumbers},
        {"training.per_device_train_batch_size", "2", kNumbers},
        {"training.gradient_accumulation_steps", "3", kNumbers},
        {"training.learning_rate", "5e-3", kNumbers},
        {"training.lr_scheduler_type", "linear", kNumbers},
        {"training.lr_scheduler_kwargs", R"({"num_cycles": 1.5})", kNumbers},
        {"training.warmup_steps", "3", kNumbers},
        {"training.warmup_ratio", "0.5", kNumbers},
        {"training.optim", "paged_adamw_8bit", kNumbers, {"peft.r=128"}},
        {"training.weight_decay", "0.5", kNumbers},
        {"training.loraplus_lr_ratio", "4", kNumbers},
        {"training.loraplus_lr_embedding",
         "1e-2",
         kNumbers,
         {"training.loraplus_lr_ratio=4", R"(peft.target_modules=["embed_tokens"])"}},
        {"training.adam_beta1", "0.5", kNumbers},
        {"training.adam_beta2", "0.5", kNumbers},
        {"training.adam_epsilon", "1e-2", kNumbers},
        {"training.max_grad_norm", "1e-4", kNumbers, {"training.adam_epsilon=1e-2"}},
        {"training.logging_steps", "2", kNumbers},
        {"training.eval_steps", "2", kNumbers},
        {"training.save_steps", "4", kFiles},
        {"training.save_total_limit", "1", kFiles, {"training.save_steps=2"}},
        {best,
         "true",
         kNumbers,
         {"training.eval_steps=1", "training.learning_rate=1", "training.lr_scheduler_type=constant"}},
        {"training.seed", "7", kNumbers},
        {"training.gradient_checkpointing", "true", kLog, {}, "recomputes layers ("},
        {"training.cache_dequantized",
         "false",
         kLog,
         {"model.path=" + runs.path("wide_model")},
         "dense forms 0.00 GB"},
        {"training.full_determinism", "true", kNone, {}, "the CPU always gives the same bits"},
        {"training.max_nonfinite_steps",
         "1",
         kNone,
         {},
         "needs losses that are not finite: faults/test_nonfinite.py"},
        {"training.log_rows", "true", kNumbers},
        {"training.eval_on_start", "false", kNumbers},
        {"training.sample_rows", "0", kLog, {}, "generated:"},
    };
}

class SettingsArrive : public testing::Test {
  protected:
    static test::TrainRuns& runs() {
        static test::TrainRuns the_runs;
        return the_runs;
    }
    /// The run with `besides` alone; made once.
    static const TrainOutcome& base(const Settings& besides = {}) {
        static std::map<Settings, TrainOutcome> known;
        const auto at = known.find(besides);
        return at != known.end() ? at->second : known.emplace(besides, runs().run(besides)).first->second;
    }
    /// An adapter with dropout; its own configuration is used, so there is no peft section.
    static TrainOutcome run_from_adapter(const std::string& model, Settings settings) {
        if (!std::filesystem::exists(runs().path("adapter"))) {
            const TrainOutcome made = runs().run({"peft.lora_dropout=0.5"});
            EXPECT_EQ(made.code, 0) << made.log;
            std::filesystem::copy(runs().output() / "adapter", runs().path("adapter"));
        }
        Json config = runs().config();
        config.erase("peft");
        config["model"]["path"] = runs().path(model);
        settings.push_back("model.adapter=" + runs().path("adapter"));
        return runs().run(config, settings);
    }
    static TrainOutcome run_changed(const Entry& entry) {
        if (entry.setting == "model.adapter") return run_from_adapter("model", {});
        Settings settings = entry.besides;
        settings.push_back(entry.setting + "=" + entry.value);
        return runs().run(settings);
    }
};

TEST_F(SettingsArrive, every_setting_has_an_entry_and_no_entry_is_of_another) {
    std::set<std::string> known;
    for (const Entry& entry : entries(runs()))
        EXPECT_TRUE(known.insert(entry.setting).second) << entry.setting;
    RunConfig::sections(RunConfig{}, [&](const char* name, const auto& section, bool) {
        for (const FieldInfo& info : list_fields_of(section)) {
            if (info.fixed) continue;  // refused at any other value: rules/run_config_bad_test.cpp
            EXPECT_EQ(known.erase(std::string(name) + "." + info.name), 1U) << info.name << " has no entry";
        }
    });
    EXPECT_TRUE(known.empty()) << *known.begin() << " is no setting";
}

TEST_F(SettingsArrive, a_changed_setting_changes_the_run) {
    for (const Entry& entry : entries(runs())) {
        SCOPED_TRACE(entry.setting);
        if (entry.effect == Effect::kNone) {
            EXPECT_FALSE(entry.text.empty());
            continue;
        }
        const TrainOutcome& before = base(entry.besides);
        const TrainOutcome after = run_changed(entry);
        EXPECT_EQ(before.code, entry.effect == Effect::kAllowed ? 2 : 0) << before.log;
        EXPECT_EQ(after.code, entry.effect == Effect::kRefused ? 2 : 0) << after.log;
        switch (entry.effect) {
            case Effect::kNumbers:
                EXPECT_FALSE(before.has_same_numbers(after)) << after.log;
                break;
            case Effect::kFiles:
                EXPECT_NE(before.files, after.files);
                break;
            case Effect::kLog:
                EXPECT_TRUE(before.has_same_numbers(after));
                EXPECT_NE(before.says(entry.text), after.says(entry.text)) << after.log;
                break;
            case Effect::kThreads:
                EXPECT_NE(before.threads, after.threads);
                break;
            case Effect::kRefused:
                EXPECT_TRUE(after.says(entry.text)) << after.log;
                break;
            case Effect::kAllowed:
                EXPECT_TRUE(before.says(entry.text)) << before.log;
                break;
            case Effect::kNone:
                break;
        }
    }
}

TEST_F(SettingsArrive, the_resolved_configuration_is_the_same_run) {
    const TrainOutcome first = runs().run({});
    ASSERT_EQ(first.code, 0) << first.log;
    const TrainOutcome again = runs().run(read_json_file(runs().output() / "run_config.json"), {});
    EXPECT_EQ(again.code, 0) << again.log;
    EXPECT_TRUE(again.has_same_numbers(first));
    EXPECT_EQ(again.files, first.files);
}

TEST_F(SettingsArrive, the_seed_reaches_the_order_of_the_rows) {
    const TrainOutcome one = runs().run({"training.log_rows=true", "training.seed=1"});
    const TrainOutcome two = runs().run({"training.log_rows=true", "training.seed=2"});
    EXPECT_EQ(one.rows().size(), 12U) << one.log;
    EXPECT_NE(one.rows(), two.rows());
}

// One row has one order.
TEST_F(SettingsArrive, the_seed_reaches_the_initial_adapters) {
    const Settings one_row = {"data.train=" + runs().path("one_row.jsonl"), "training.seed=1"};
    const TrainOutcome one = runs().run(one_row);
    const TrainOutcome two = runs().run({one_row[0], "training.seed=2"});
    EXPECT_EQ(one.code, 0) << one.log;
    EXPECT_EQ(two.code, 0) << two.log;
    EXPECT_TRUE(one.adapter_values != two.adapter_values);
}

// One row has one order, and the initial adapter is the one that is gone on from.
TEST_F(SettingsArrive, the_seed_reaches_the_dropout) {
    const std::string one_row = "data.train=" + runs().path("one_row.jsonl");
    const TrainOutcome one = run_from_adapter("model", {one_row, "training.seed=1"});
    const TrainOutcome two = run_from_adapter("model", {one_row, "training.seed=2"});
    EXPECT_EQ(one.code, 0) << one.log;
    EXPECT_EQ(two.code, 0) << two.log;
    EXPECT_FALSE(one.has_same_numbers(two));
    const TrainOutcome again = run_from_adapter("model", {one_row, "training.seed=1"});
    EXPECT_TRUE(one.has_same_numbers(again));
}

TEST_F(SettingsArrive, clipping_at_zero_is_none) {
    const TrainOutcome off = runs().run({"training.max_grad_norm=0"});
    EXPECT_EQ(off.code, 0) << off.log;
    EXPECT_TRUE(off.has_same_numbers(runs().run({"training.max_grad_norm=1e9"})));
}

TEST_F(SettingsArrive, grouping_by_length_puts_the_longest_row_first) {
    const std::vector<std::int64_t> rows =
        runs().run({"data.group_by_length=true", "training.log_rows=true"}).rows();
    const auto letters = [](std::int64_t row) { return row % 5 + row % 3; };  // besides those all rows have
    ASSERT_EQ(rows.size(), 12U);
    EXPECT_TRUE(
        std::is_sorted(rows.begin(), rows.end(), [&](auto a, auto b) { return letters(a) > letters(b); }));
}

TEST_F(SettingsArrive, bad_rows_of_both_files_are_listed_when_they_are_skipped) {
    test::write_file(runs().path("bad_eval_row.jsonl"),
                     test::read_file(runs().path("eval.jsonl")) + "{\"prompt\": 1}\n");
    const TrainOutcome outcome =
        runs().run({"data.on_bad_row=skip", "data.train=" + runs().path("bad_row.jsonl"),
                    "data.eval=" + runs().path("bad_eval_row.jsonl"), "training.max_steps=1"});
    EXPECT_EQ(outcome.code, 0) << outcome.log;
    EXPECT_TRUE(outcome.says("2 bad rows were left out")) << outcome.log;
    const std::string listed = test::read_file(runs().output() / "rejected.jsonl");
    EXPECT_NE(listed.find("bad_row.jsonl:13"), std::string::npos) << listed;
    EXPECT_NE(listed.find("bad_eval_row.jsonl:5"), std::string::npos) << listed;
}

TEST_F(SettingsArrive, an_adapter_of_another_base_is_refused) {
    const TrainOutcome outcome = run_from_adapter("other_model", {});
    EXPECT_EQ(outcome.code, 2);
    EXPECT_TRUE(outcome.says("base")) << outcome.log;
}

}  // namespace
}  // namespace qlora::cli
