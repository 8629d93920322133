#include "qlora/cli/run_config.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "qlora/core/error.h"
#include "support/captured_log.h"
#include "support/temp_dir.h"

namespace qlora::cli {
namespace {

constexpr const char* kSmallest =
    R"({"model": {"path": "m"}, "data": {"train": "t.jsonl"}, "training": {"output_dir": "o"}})";

RunConfig run_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
    return parse_run_config(parse_json(text, "run.json"), "/base/folder", "run.json", overrides);
}

TEST(RunConfig, defaults_are_those_of_the_documentation) {
    const RunConfig config = run_of(kSmallest);
    EXPECT_EQ(config.model.device, "auto");
    EXPECT_EQ(config.quantization, quant::QuantConfig{});
    EXPECT_TRUE(config.quantization.load_in_4bit);
    EXPECT_TRUE(config.quantization.bnb_4bit_use_double_quant);
    EXPECT_EQ(config.quantization.bnb_4bit_blocksize, 64);
    EXPECT_FALSE(config.has_peft_section);
    EXPECT_EQ(config.peft, adapters::PeftConfig(adapters::LoraConfig{}));
    EXPECT_EQ(config.data.max_length, 1024);
    EXPECT_EQ(config.data.overlong, data::Overlong::kDrop);
    EXPECT_EQ(config.data.train_on, data::TrainOn::kAssistant);
    EXPECT_EQ(config.training.num_train_epochs, 1);
    EXPECT_EQ(config.training.max_steps, -1);
    EXPECT_EQ(config.training.gradient_accumulation_steps, 16);
    EXPECT_EQ(config.training.learning_rate, 2e-4);
    EXPECT_EQ(config.training.lr_scheduler_type, train::LrSchedulerType::kCosine);
    EXPECT_EQ(config.training.warmup_steps, 0.03);
    EXPECT_EQ(config.training.save_total_limit, 2);
    EXPECT_EQ(config.training.gradient_checkpointing, train::GradientCheckpointing::kOff);
    EXPECT_EQ(config.training.seed, 42);
}

TEST(RunConfig, takes_what_is_stored_and_refuses_what_was_given_otherwise) {
    const quant::QuantConfig stored{.bnb_4bit_use_double_quant = false, .bnb_4bit_blocksize = 128};
    RunConfig config = run_of(
        kSmallest, {"quantization.bnb_4bit_compute_dtype=bfloat16", "quantization.bnb_4bit_blocksize=128"});
    adopt_stored_quantization(config, std::nullopt);
    EXPECT_TRUE(config.quantization.bnb_4bit_use_double_quant) << "a dense model has nothing to take";
    adopt_stored_quantization(config, stored);
    EXPECT_FALSE(config.quantization.bnb_4bit_use_double_quant);
    EXPECT_EQ(config.quantization.bnb_4bit_blocksize, 128);
    EXPECT_EQ(config.quantization.bnb_4bit_compute_dtype, quant::ComputeDtype::kBfloat16);
    for (const char* given : {"quantization.bnb_4bit_use_double_quant=true",
                              "quantization.load_in_4bit=false", "quantization.bnb_4bit_blocksize=64"}) {
        RunConfig other = run_of(kSmallest, {given});
        EXPECT_THROW(adopt_stored_quantization(other, stored), ConfigError) << given;
    }
}

TEST(RunConfig, warmup_default_is_none_for_a_constant_rate) {
    EXPECT_EQ(run_of(kSmallest, {"training.lr_scheduler_type=constant"}).training.warmup_steps, 0);
    EXPECT_EQ(run_of(kSmallest, {"training.lr_scheduler_type=constant_with_warmup"}).training.warmup_steps,
              0.03);
    EXPECT_EQ(run_of(kSmallest, {"training.lr_scheduler_type=constant", "training.warmup_steps=0"})
                  .training.warmup_steps,
              0);
}

TEST(RunConfig, warmup_ratio_means_a_share_in_warmup_steps) {
    const RunConfig config = run_of(kSmallest, {"training.warmup_ratio=0.1"});
    EXPECT_EQ(config.training.warmup_steps, 0.1);
    EXPECT_FALSE(config.training.warmup_ratio.has_value());
}

TEST(RunConfig, fused_adamw_is_the_same_optimizer) {
    const RunConfig config = run_of(kSmallest, {"training.optim=adamw_torch_fused"});
    EXPECT_EQ(config.training.optim, train::OptimizerType::kAdamwTorch);
    EXPECT_EQ(run_config_json(config)["training"]["optim"], "adamw_torch");
    EXPECT_EQ(run_of(kSmallest, {"training.optim=adamw_8bit"}).training.optim,
              train::OptimizerType::kAdamw8bit);
}

TEST(RunConfig, names_of_optimizers_in_recipes_mean_ours) {
    for (const char* name :
         {"adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "paged_adamw", "paged_adamw_32bit"}) {
        EXPECT_EQ(run_of(kSmallest, {std::string("training.optim=") + name}).training.optim,
                  train::OptimizerType::kAdamwTorch);
    }
    for (const char* name : {"paged_adamw_8bit", "adamw_bnb_8bit"}) {
        EXPECT_EQ(run_of(kSmallest, {std::string("training.optim=") + name}).training.optim,
                  train::OptimizerType::kAdamw8bit);
    }
    test::CapturedLog log;
    run_of(kSmallest, {"training.optim=paged_adamw_8bit"});
    EXPECT_NE(log.text().find("paged_adamw_8bit is adamw_8bit here; paging is not needed"), std::string::npos)
        << log.text();
}

TEST(RunConfig, schedule_keywords_are_kept_as_given) {
    const RunConfig config = run_of(kSmallest, {"training.lr_scheduler_type=cosine_with_min_lr",
                                                "training.lr_scheduler_kwargs={\"min_lr_rate\": 0.1}"});
    EXPECT_EQ(config.training.lr_scheduler_kwargs.min_lr_rate, 0.1);
    EXPECT_EQ(run_config_json(config)["training"]["lr_scheduler_kwargs"].dump(), "{\"min_lr_rate\":0.1}");
    EXPECT_EQ(run_of(run_config_json(config).dump()).training, config.training);
    EXPECT_EQ(resume_differences(run_of(kSmallest), config).size(), 2U);
}

// A run_config.json from before num_train_epochs was a number and lr_scheduler_kwargs was there.
TEST(RunConfig, an_older_resolved_configuration_is_the_same_run) {
    const RunConfig config = run_of(kSmallest);
    Json older = run_config_json(config);
    older["training"]["num_train_epochs"] = 1;
    older["training"].erase("lr_scheduler_kwargs");
    EXPECT_TRUE(resume_differences(run_of(older.dump()), config).empty());
}

TEST(RunConfig, relative_paths_are_relative_to_the_file_also_in_overrides) {
    const RunConfig config =
        run_of(kSmallest, {"data.eval=../e.jsonl", "model.adapter=/abs/a/",
                           "data.train=[\"x/./t.jsonl\", \"/u\"]", "training.output_dir=runs/a/"});
    EXPECT_EQ(config.model.path, "/base/folder/m");
    EXPECT_EQ(*config.model.adapter, "/abs/a");
    EXPECT_EQ(*config.data.eval_file(), "/base/e.jsonl");
    EXPECT_EQ(config.data.train.files[0], "/base/folder/x/t.jsonl");
    EXPECT_EQ(config.data.train.files[1], "/u");
    EXPECT_EQ(config.training.output_dir, "/base/folder/runs/a");
}

TEST(RunConfig, a_tilde_is_the_home_folder_in_every_path) {
    const char* before = std::getenv("HOME");
    const std::string kept = before == nullptr ? "" : before;
    setenv("HOME", "/home/ann", 1);
    const RunConfig config = run_of(R"({"model": {"path": "~/models/m", "adapter": "~"},
        "data": {"train": ["~/t.jsonl", "a/~/t.jsonl", "~bob/t.jsonl"], "eval": "~/e.jsonl"},
        "training": {"output_dir": "~/runs/"}})");
    before == nullptr ? unsetenv("HOME") : setenv("HOME", kept.c_str(), 1);
    EXPECT_EQ(config.model.path, "/home/ann/models/m");
    EXPECT_EQ(config.model.adapter, "/home/ann");
    EXPECT_EQ(config.data.train.files,
              (std::vector<std::filesystem::path>{"/home/ann/t.jsonl", "/base/folder/a/~/t.jsonl",
                                                  "/base/folder/~bob/t.jsonl"}));
    EXPECT_EQ(*config.data.eval_file(), "/home/ann/e.jsonl");
    EXPECT_EQ(config.training.output_dir, "/home/ann/runs");
}

TEST(RunConfig, the_last_override_of_a_setting_wins) {
    EXPECT_EQ(run_of(kSmallest, {"training.seed=1", "training.seed=2"}).training.seed, 2);
}

TEST(RunConfig, an_override_can_open_a_section) {
    const RunConfig config = run_of(kSmallest, {"peft.r=3"});
    EXPECT_TRUE(config.has_peft_section);
    EXPECT_EQ(std::get<adapters::LoraConfig>(config.peft).r, 3);
}

TEST(RunConfig, a_pasted_adapter_config_is_a_peft_section) {
    adapters::LoraConfig adapter;
    adapter.r = 5;
    adapter.rank_pattern = {{"v_proj", 2}, {"proj", 3}};
    const Json peft = parse_json(adapters::adapter_config_text(adapter), "adapter_config.json");
    const Json root = {{"model", {{"path", "m"}}},
                       {"data", {{"train", "t"}}},
                       {"training", {{"output_dir", "o"}}},
                       {"peft", peft}};
    EXPECT_EQ(run_of(root.dump()).peft, adapters::PeftConfig(adapter));
}

TEST(RunConfig, the_resolved_configuration_reads_back_the_same) {
    const RunConfig config = run_of(
        kSmallest, {"training.lr_scheduler_type=constant", "peft.rank_pattern={\"v_proj\": 2, \"a\": 3}",
                    "peft.target_modules=all-linear", "peft.init_lora_weights=gaussian",
                    "training.save_total_limit=null", "training.gradient_checkpointing=auto",
                    "data.max_tokens_per_batch=4096", "quantization.load_in_4bit=false",
                    "training.learning_rate=1e-5", "model.threads=2", "data.template=none"});
    const Json resolved = run_config_json(config);
    const RunConfig again =
        parse_run_config(parse_json(resolved.dump(2), "t"), "/elsewhere", "run_config.json");
    EXPECT_EQ(again.model, config.model);
    EXPECT_EQ(again.quantization, config.quantization);
    EXPECT_EQ(again.peft, config.peft);
    EXPECT_EQ(again.data, config.data);
    EXPECT_EQ(again.training, config.training);
    EXPECT_EQ(run_config_json(again).dump(), resolved.dump());
}

TEST(RunConfig, every_shipped_configuration_loads) {
    std::size_t count = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator(std::filesystem::path(QLORA_SOURCE_DIR) / "configs")) {
        if (entry.path().extension() != ".json") continue;
        EXPECT_NO_THROW(load_run_config(entry.path())) << entry.path();
        const RunConfig config = load_run_config(entry.path());
        EXPECT_EQ(config.file, entry.path());
        EXPECT_EQ(config.training.output_dir.parent_path(), std::filesystem::path(QLORA_SOURCE_DIR) / "runs");
        ++count;
    }
    EXPECT_GE(count, 4U);
}

TEST(RunConfig, faults_of_a_file_start_with_its_name) {
    const test::TempDir folder;
    test::write_file(folder / "run.json", "{\"model\": 1}");
    try {
        load_run_config(folder / "run.json");
        FAIL();
    } catch (const ConfigError& error) {
        EXPECT_EQ(std::string(error.what()).rfind((folder / "run.json").string() + ": ", 0), 0U)
            << error.what();
    }
}

TEST(RunConfig, a_resumed_run_may_change_its_length_and_reports_but_nothing_that_changes_numbers) {
    const RunConfig saved = run_of(kSmallest);
    for (const char* allowed :
         {"training.max_steps=9", "training.num_train_epochs=3", "training.logging_steps=1",
          "training.save_steps=5", "training.save_total_limit=7", "training.log_rows=true",
          "training.output_dir=moved", "training.gradient_checkpointing=true", "model.threads=1",
          "model.path=moved", "data.train=moved.jsonl", "data.eval=moved.jsonl"}) {
        EXPECT_TRUE(resume_differences(saved, run_of(kSmallest, {allowed})).empty()) << allowed;
    }
    for (const char* refused : {"training.seed=1", "training.learning_rate=1e-3", "peft.r=16",
                                "data.max_length=8", "quantization.bnb_4bit_blocksize=128",
                                "training.gradient_accumulation_steps=2", "peft.rank_pattern={\"q\": 2}"}) {
        const auto differences = resume_differences(saved, run_of(kSmallest, {refused}));
        ASSERT_EQ(differences.size(), 1U) << refused;
        const std::string setting = std::string(refused).substr(0, std::string(refused).find('='));
        EXPECT_EQ(differences[0].rfind(setting + ": ", 0), 0U) << differences[0];
    }
    EXPECT_EQ(resume_differences(saved, run_of(kSmallest, {"training.seed=1"}))[0],
              "training.seed: 42 in the run, 1 now");
}

TEST(RunConfig, held_out_rows_may_be_a_share_or_a_number_of_the_training_rows) {
    for (const auto& [text, part] :
         {std::pair<const char*, data::RowPart>{"0.05", {.share = 0.05}}, {"200", {.rows = 200}}}) {
        const RunConfig config =
            run_of(kSmallest, {std::string("data.eval=") + text, "training.eval_steps=5"});
        ASSERT_NE(config.data.eval_part(), nullptr);
        EXPECT_EQ(*config.data.eval_part(), part);
        EXPECT_EQ(config.data.eval_file(), nullptr);
        EXPECT_EQ(run_config_json(config)["data"]["eval"].dump(), text);
    }
    EXPECT_EQ(run_of(kSmallest).data.eval_part(), nullptr);
    EXPECT_EQ(run_of(kSmallest, {"data.eval=./200"}).data.eval_part(), nullptr);
}

// Other rows held out are other rows trained.
TEST(RunConfig, a_resumed_run_holds_the_same_rows_out) {
    const RunConfig share = run_of(kSmallest, {"data.eval=0.5"});
    EXPECT_TRUE(resume_differences(share, run_of(kSmallest, {"data.eval=0.5"})).empty());
    EXPECT_EQ(resume_differences(share, run_of(kSmallest, {"data.eval=2"})),
              std::vector<std::string>{"data.eval: 0.5 in the run, 2 now"});
    EXPECT_EQ(resume_differences(share, run_of(kSmallest)),
              std::vector<std::string>{"data.eval: 0.5 in the run, null now"});
    EXPECT_EQ(resume_differences(run_of(kSmallest, {"data.eval=e.jsonl"}), share),
              std::vector<std::string>{"data.eval: \"/base/folder/e.jsonl\" in the run, 0.5 now"});
}

TEST(RunConfig, going_on_from_an_adapter_takes_its_configuration) {
    const test::TempDir folder;
    adapters::LoraConfig adapter;
    adapter.r = 5;
    adapter.target_modules = adapters::NameList{"q_proj"};
    test::write_file(folder / "adapter_config.json", adapters::adapter_config_text(adapter));
    const std::string from = "model.adapter=" + folder.path().string();

    RunConfig config = run_of(kSmallest, {from});
    adopt_adapter_config(config);
    EXPECT_EQ(std::get<adapters::LoraConfig>(config.peft).r, 5);

    RunConfig same = run_of(kSmallest, {from, "peft.r=5", "peft.target_modules=[\"q_proj\"]"});
    EXPECT_NO_THROW(adopt_adapter_config(same));

    EXPECT_EQ(config.training.learning_rate, adapters::LoraConfig::kLearningRate);
    test::write_file(folder / "adapter_config.json",
                     adapters::adapter_config_text(adapters::BottleneckConfig{}));
    RunConfig bottleneck = run_of(kSmallest, {from});
    adopt_adapter_config(bottleneck);
    EXPECT_EQ(bottleneck.training.learning_rate, adapters::BottleneckConfig::kLearningRate);
    RunConfig rated = run_of(kSmallest, {from, "training.learning_rate=0.5"});
    adopt_adapter_config(rated);
    EXPECT_EQ(rated.training.learning_rate, 0.5);
    test::write_file(folder / "adapter_config.json", adapters::adapter_config_text(adapter));

    RunConfig other = run_of(kSmallest, {from, "peft.r=6", "peft.target_modules=[\"q_proj\"]"});
    try {
        adopt_adapter_config(other);
        FAIL();
    } catch (const ConfigError& error) {
        EXPECT_NE(std::string(error.what()).find("peft.r: 6 against 5"), std::string::npos) << error.what();
    }
}

TEST(RunConfig, float16_is_refused_where_auto_came_to_the_cpu) {
    const RunConfig config = run_of(kSmallest, {"quantization.bnb_4bit_compute_dtype=float16"});
    EXPECT_THROW(check_device(config, false), ConfigError);
    EXPECT_NO_THROW(check_device(config, true));
    EXPECT_NO_THROW(check_device(run_of(kSmallest), false));
}

TEST(QuantConfig, is_read_from_overrides_alone) {
    EXPECT_EQ(quant_config_from_overrides({}), quant::QuantConfig{});
    EXPECT_EQ(quant_config_from_overrides({"quantization.bnb_4bit_blocksize=128"}).bnb_4bit_blocksize, 128);
    EXPECT_THROW(quant_config_from_overrides({"training.seed=1"}), ConfigError);
    EXPECT_THROW(quant_config_from_overrides({"quantization.bnb_4bit_blocksize=100"}), ConfigError);
}

TEST(ConfigDocumentation, names_every_setting_of_the_resolved_configuration) {
    const std::string help = config_help_text();
    const std::string table = config_table_markdown();
    const Json resolved = run_config_json(run_of(kSmallest));
    std::size_t count = 0;
    for (const auto& [section, settings] : resolved.items()) {
        EXPECT_NE(help.find("\n" + section), std::string::npos);
        EXPECT_NE(table.find("### `" + section + "`"), std::string::npos);
        for (const auto& [setting, value] : settings.items()) {
            EXPECT_NE(help.find("\n  " + setting + "  ("), std::string::npos) << setting;
            EXPECT_NE(table.find("\n| `" + setting + "` |"), std::string::npos) << setting;
            ++count;
        }
    }
    EXPECT_GT(count, 50U);
    EXPECT_NE(help.find("use_dora"), std::string::npos);
}

}  // namespace
}  // namespace qlora::cli
