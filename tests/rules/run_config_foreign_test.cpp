#include <gtest/gtest.h>

#include <string>

#include "rules/run_config_texts.h"

namespace qlora::cli {
namespace {

// Keys of the HF trainer, PEFT, trl and axolotl, wherever they stand.
constexpr const char* kForeignKeys[] = {"bf16",
                                        "fp16",
                                        "packing",
                                        "max_seq_length",
                                        "report_to",
                                        "lora_target_linear",
                                        "sequence_len",
                                        "micro_batch_size",
                                        "val_set_size",
                                        "eval_strategy",
                                        "evaluation_strategy",
                                        "save_strategy",
                                        "logging_strategy",
                                        "logging_dir",
                                        "dataloader_num_workers",
                                        "metric_for_best_model",
                                        "greater_is_better",
                                        "neftune_noise_alpha",
                                        "train_on_inputs",
                                        "lora_r",
                                        "sample_packing",
                                        "chat_template",
                                        "special_tokens",
                                        "gradient_checkpointing_kwargs",
                                        "per_device_eval_batch_size",
                                        "load_in_8bit",
                                        "base_model",
                                        "datasets",
                                        "dataset_text_field",
                                        "completion_only_loss",
                                        "assistant_only_loss",
                                        "tf32",
                                        "torch_compile",
                                        "deepspeed",
                                        "fsdp",
                                        "ddp_find_unused_parameters",
                                        "push_to_hub",
                                        "hub_model_id",
                                        "remove_unused_columns",
                                        "optim_args",
                                        "use_liger_kernel",
                                        "attn_implementation",
                                        "flash_attention",
                                        "torch_dtype",
                                        "device_map",
                                        "trust_remote_code",
                                        "overwrite_output_dir"};

TEST(RunConfigFaults, of_val_set_size_name_the_share_that_is_meant) {
    EXPECT_NE(run_fault(with_data("\"val_set_size\": 0.05"))
                  .find("data.eval here: a share of the training rows (0.05)"),
              std::string::npos);
}

TEST(RunConfigFaults, of_other_programs_words_say_which_setting_it_is) {
    for (const std::string key : kForeignKeys) {
        for (const std::string& text :
             {with_section("\"" + key + "\": 1"), with_training("\"" + key + "\": 1"),
              with_peft("\"" + key + "\": 1")}) {
            const std::string fault = run_fault(text);
            EXPECT_NE(fault.find(key + ": unknown "), std::string::npos) << fault;
            EXPECT_EQ(fault.find("did you mean"), std::string::npos) << fault;
            EXPECT_GT(fault.size(), std::string("run.json: : unknown section: ").size() + key.size() + 20)
                << fault;
        }
    }
    EXPECT_NE(
        run_fault(with_section(R"("adapter": "qlora")")).find("quantization.load_in_4bit true is QLoRA"),
        std::string::npos);
}

TEST(RunConfigFaults, of_a_setting_in_another_section_name_its_own) {
    RunConfig::sections(RunConfig{}, [&]<class Section>(const char* name, const Section&, bool) {
        for_each_alternative<Section>([&]<class Struct>() {
            for (const FieldInfo& info : list_fields<Struct>()) {
                const std::string path = std::string(name) + "." + info.name;
                EXPECT_NE(run_fault(with_section("\"" + info.name + "\": 1"))
                              .find("did you mean \"" + path + "\"?"),
                          std::string::npos)
                    << path;
            }
        });
    });
    EXPECT_NE(
        run_fault(with_training("\"group_by_length\": true")).find("did you mean \"data.group_by_length\"?"),
        std::string::npos);
}

TEST(RunConfigFaults, are_all_reported_together) {
    const std::string fault = run_fault(R"({
        "model": {"device": "gpu"},
        "quantization": {"bnb_4bit_blocksize": 48},
        "peft": {"r": 0, "use_qalora": true},
        "data": {"train": "t", "formt": "alpaca"},
        "training": {"output_dir": "o", "seed": 1.5, "load_best_model_at_end": true},
        "extra": 1})",
                                        {"nowhere.x=1", "training.warmup_steps=-1"});
    EXPECT_NE(fault.find("run.json: 11 faults:"), std::string::npos) << fault;
    for (const char* fragment :
         {"nowhere", "extra", "model.path", "model.device", "bnb_4bit_blocksize", "peft.r", "peft.use_qalora",
          "data.formt", "training.seed", "training.warmup_steps", "training.load_best_model_at_end"}) {
        EXPECT_NE(fault.find(fragment), std::string::npos) << fragment << "\n" << fault;
    }
}

TEST(RunConfigFaults, of_an_override_name_the_setting) {
    const std::string good = std::string("{") + kModel + ", " + kData + ", " + kTraining + "}";
    EXPECT_EQ(run_fault(good), "no fault");
    EXPECT_NE(run_fault(good, {"training.learning_rat=1"}).find("did you mean \"learning_rate\""),
              std::string::npos);
    EXPECT_NE(run_fault(good, {"training.learning_rate=fast"}).find("must be a number, not \"fast\""),
              std::string::npos);
    EXPECT_NE(run_fault(good, {"training.warmup_ratio=0.1", "training.warmup_steps=4"}).find("leave one out"),
              std::string::npos);
}

}  // namespace
}  // namespace qlora::cli
