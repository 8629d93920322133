#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

#include "rules/run_config_texts.h"

namespace qlora::cli {
namespace {

struct BadConfig {
    const char* name;
    std::string text;
    std::vector<std::string> fragments;  // each must be in the message
};

void PrintTo(const BadConfig& bad, std::ostream* out) {
    *out << bad.name;
}

class RefusedConfig : public testing::TestWithParam<BadConfig> {};

TEST_P(RefusedConfig, names_path_and_fix) {
    const std::string fault = run_fault(GetParam().text);
    EXPECT_EQ(fault.rfind("run.json: ", 0), 0U) << fault;
    for (const std::string& fragment : GetParam().fragments) {
        EXPECT_NE(fault.find(fragment), std::string::npos) << fragment << "\n" << fault;
    }
}

const BadConfig kSyntax[] = {
    {"not_json", "{", {"line 1, column 2"}},
    {"array", "[]", {"must be an object with the sections of a run"}},
    {"empty",
     "{}",
     {"3 faults", "model.path: is required", "data.train: is required", "training.output_dir: is required"}},
    {"duplicate_key", with_training(R"("seed": 1, "seed": 2)"), {"\"training.seed\" is given twice"}},
    {"duplicate_section", with_section(kModel), {"\"model\" is given twice"}},
    {"section_not_object", with_section("\"peft\": [1]"), {"peft: must be an object, not [1]"}},
    {"section_null", with_section("\"quantization\": null"), {"quantization: must be an object, not null"}},
    {"unknown_section", with_section("\"lora\": {}"), {"lora: unknown section"}},
    {"misspelt_section",
     with_section("\"quantisation\": {}"),
     {"quantisation: unknown section; did you mean \"quantization\""}},
    {"setting_at_top",
     with_section("\"seed\": 1"),
     {"seed: unknown section; did you mean \"training.seed\"?"}},
    {"nan", with_training("\"learning_rate\": NaN"), {"line 1, column", "invalid literal"}},
};
INSTANTIATE_TEST_SUITE_P(syntax, RefusedConfig, testing::ValuesIn(kSyntax),
                         [](const auto& test) { return std::string(test.param.name); });

const BadConfig kModelFaults[] = {
    {"model_path_number",
     R"({"model": {"path": 3}, "data": {"train": "t"}, "training": {"output_dir": "o"}})",
     {"model.path: must be a path, not 3"}},
    {"unknown_device",
     with_model(R"("device": "gpu")"),
     {"model.device: must be auto, cpu, cuda or cuda:N with the number of a GPU (cuda:0 is the first), not "
      "\"gpu\""}},
    {"device_without_number", with_model(R"("device": "cuda:")"), {"model.device"}},
    {"device_number_word", with_model(R"("device": "cuda:one")"), {"model.device"}},
    {"zero_threads", with_model("\"threads\": 0"), {"model.threads: must be >= 1"}},
    {"threads_text",
     with_model("\"threads\": \"2\""),
     {"model.threads: must be null or an integer, not \"2\""}},
    {"model_misspelt",
     with_model("\"adaptor\": null"),
     {"model.adaptor: unknown key; did you mean \"adapter\"?"}},
    {"setting_of_other_section", with_model("\"max_length\": 5"), {"did you mean \"data.max_length\"?"}},
    {"fp4",
     with_quantization(R"("bnb_4bit_quant_type": "fp4")"),
     {"quantization.bnb_4bit_quant_type: must be one of \"nf4\", not \"fp4\""}},
    {"blocksize_48",
     with_quantization("\"bnb_4bit_blocksize\": 48"),
     {"quantization.bnb_4bit_blocksize: must be >= 32, <= 4096, a power of two, not 48"}},
    {"blocksize_8192",
     with_quantization("\"bnb_4bit_blocksize\": 8192"),
     {"quantization.bnb_4bit_blocksize"}},
    {"blocksize_unused",
     with_quantization("\"load_in_4bit\": false, \"bnb_4bit_blocksize\": 128"),
     {"quantization.bnb_4bit_blocksize: has no effect with load_in_4bit false"}},
    {"load_in_8bit",
     with_quantization("\"load_in_8bit\": true"),
     {"quantization.load_in_8bit: unknown key: weights in 8 bits are not there"}},
    {"compute_dtype_short", with_quantization(R"("bnb_4bit_compute_dtype": "bf16")"), {"\"bfloat16\""}},
    {"float16_on_cpu",
     R"({"model": {"path": "m", "device": "cpu"}, "data": {"train": "t"}, "training": {"output_dir": "o"},
         "quantization": {"bnb_4bit_compute_dtype": "float16"}})",
     {"quantization.bnb_4bit_compute_dtype: float16 needs the GPU's loss scaler"}},
};
INSTANTIATE_TEST_SUITE_P(model, RefusedConfig, testing::ValuesIn(kModelFaults),
                         [](const auto& test) { return std::string(test.param.name); });

const BadConfig kDataFaults[] = {
    {"no_train_files",
     R"({"model": {"path": "m"}, "data": {"train": []}, "training": {"output_dir": "o"}})",
     {"data.train: must name at least one file"}},
    {"train_with_number",
     R"({"model": {"path": "m"}, "data": {"train": ["a", 1]}, "training": {"output_dir": "o"}})",
     {"data.train: [1] must be a path, not 1"}},
    {"format", with_data(R"("format": "sharegtp")"), {"data.format", "did you mean \"sharegpt\"?"}},
    {"template", with_data(R"("template": "chat_ml")"), {"data.template", "did you mean \"chatml\"?"}},
    {"max_length", with_data("\"max_length\": 1"), {"data.max_length: must be >= 2, not 1"}},
    {"max_seq_length",
     with_data("\"max_seq_length\": 1024"),
     {"data.max_seq_length: unknown key: the longest row in tokens is data.max_length"}},
    {"overlong", with_data(R"("overlong": "cut")"), {"data.overlong: must be one of \"drop\", \"truncate\""}},
    {"train_on", with_data(R"("train_on": "answers")"), {"data.train_on"}},
    {"on_bad_row",
     with_data(R"("on_bad_row": true)"),
     {"data.on_bad_row: must be one of \"stop\", \"skip\", not true"}},
    {"tokens_below_length",
     with_data("\"max_tokens_per_batch\": 512"),
     {"data.max_tokens_per_batch: is 512, below data.max_length (1024)"}},
    {"tokens_and_rows",
     R"({"model": {"path": "m"}, "data": {"train": "t", "max_tokens_per_batch": 4096},
         "training": {"output_dir": "o", "per_device_train_batch_size": 4}})",
     {"training.per_device_train_batch_size: has no effect with data.max_tokens_per_batch"}},
    {"eval_is_train", with_data(R"("eval": "./t.jsonl")"), {"data.eval: is a training file too"}},
    {"eval_all",
     with_data("\"eval\": 1.0"),
     {"data.eval: must be a path, a share of the training rows (above 0, below 1) or a whole number of them, "
      "not "
      "1.0"}},
    {"eval_none", with_data("\"eval\": 0"), {"data.eval: must be a path, a share", "not 0"}},
    {"eval_no_share", with_data("\"eval\": 0.0"), {"data.eval: must be a path, a share", "not 0.0"}},
    {"eval_negative", with_data("\"eval\": -5"), {"data.eval: must be a path, a share", "not -5"}},
    {"eval_huge", with_data("\"eval\": 9223372036854775808"), {"data.eval: must be a path, a share"}},
    {"eval_true", with_data("\"eval\": true"), {"data.eval: must be null or a path or a share", "not true"}},
};
INSTANTIATE_TEST_SUITE_P(data, RefusedConfig, testing::ValuesIn(kDataFaults),
                         [](const auto& test) { return std::string(test.param.name); });

const BadConfig kTrainingFaults[] = {
    {"epochs_none",
     with_training("\"num_train_epochs\": 0"),
     {"training.num_train_epochs: must be > 0, <= 1000000, not 0"}},
    {"kwargs_list",
     with_training("\"lr_scheduler_kwargs\": [1]"),
     {"training.lr_scheduler_kwargs: must be an object, not [1]"}},
    {"kwargs_of_another_schedule",
     with_training("\"lr_scheduler_kwargs\": {\"power\": 2}"),
     {"training.lr_scheduler_kwargs.power: is not a keyword of the schedule \"cosine\""}},
    {"plateau",
     with_training(R"("lr_scheduler_type": "reduce_lr_on_plateau")"),
     {"training.lr_scheduler_type", "a rate that follows the losses is not there"}},
    {"max_steps_zero", with_training("\"max_steps\": 0"), {"training.max_steps: must be at least 1, or -1"}},
    {"learning_rate_zero",
     with_training("\"learning_rate\": 0"),
     {"training.learning_rate: must be > 0, not 0"}},
    {"learning_rate_text",
     with_training("\"learning_rate\": \"2e-4\""),
     {"training.learning_rate: must be a number, not \"2e-4\""}},
    {"learning_rat",
     with_training("\"learning_rat\": 1e-4"),
     {"training.learning_rat: unknown key; did you mean \"learning_rate\"?"}},
    {"batch_size", with_training("\"batch_size\": 4"), {"did you mean \"per_device_train_batch_size\"?"}},
    {"scheduler",
     with_training(R"("lr_scheduler_type": "cosinus")"),
     {"training.lr_scheduler_type", "did you mean \"cosine\"?"}},
    {"warmup_for_constant",
     with_training(R"("lr_scheduler_type": "constant", "warmup_steps": 10)"),
     {"training.warmup_steps: has no effect with lr_scheduler_type \"constant\"", "constant_with_warmup"}},
    {"ratio_for_constant",
     with_training(R"("lr_scheduler_type": "constant", "warmup_ratio": 0.1)"),
     {"training.warmup_steps: has no effect"}},
    {"warmup_twice",
     with_training("\"warmup_steps\": 10, \"warmup_ratio\": 0.1"),
     {"training.warmup_ratio: is given besides training.warmup_steps"}},
    {"warmup_ratio_one",
     with_training("\"warmup_ratio\": 1"),
     {"training.warmup_ratio: must be >= 0, < 1, not 1"}},
    {"warmup_one_and_a_half",
     with_training("\"warmup_steps\": 1.5"),
     {"training.warmup_steps: must be a whole number"}},
    {"optim", with_training(R"("optim": "adamw")"), {"training.optim: must be one of \"adamw_torch\""}},
    {"optim_of_another_kind",
     with_training(R"("optim": "paged_adamw_16bit")"),
     {"must be one of \"adamw_torch\", \"adamw_8bit\" (or another name of these: adamw_torch_fused, ",
      "did you mean \"paged_adamw_32bit\""}},
    {"beta_one", with_training("\"adam_beta2\": 1"), {"training.adam_beta2: must be >= 0, < 1, not 1"}},
    {"epsilon_zero", with_training("\"adam_epsilon\": 0"), {"training.adam_epsilon: must be > 0"}},
    {"clip_negative",
     with_training("\"max_grad_norm\": -1"),
     {"training.max_grad_norm: must be >= 0, not -1"}},
    {"keep_none",
     with_training("\"save_total_limit\": 0"),
     {"training.save_total_limit: must be >= 1, not 0"}},
    {"save_never", with_training("\"save_steps\": 0"), {"training.save_steps: must be >= 1"}},
    {"eval_without_data",
     with_training("\"eval_steps\": 5"),
     {"training.eval_steps: has no effect without data.eval"}},
    {"best_without_data",
     with_training("\"load_best_model_at_end\": true"),
     {"training.load_best_model_at_end: needs data.eval"}},
    {"seed_negative", with_training("\"seed\": -1"), {"training.seed: must be >= 0, not -1"}},
    {"checkpointing",
     with_training(R"("gradient_checkpointing": "yes")"),
     {"training.gradient_checkpointing: must be one of false, true, \"auto\", not \"yes\""}},
    {"fp16",
     with_training("\"fp16\": true"),
     {"training.fp16: unknown key: products are computed in quantization.bnb_4bit_compute_dtype"}},
};
INSTANTIATE_TEST_SUITE_P(training, RefusedConfig, testing::ValuesIn(kTrainingFaults),
                         [](const auto& test) { return std::string(test.param.name); });

const BadConfig kPeftFaults[] = {
    {"rank_zero", with_peft("\"r\": 0"), {"peft.r: must be >= 1, not 0"}},
    {"rank_fraction", with_peft("\"r\": 8.5"), {"peft.r: must be an integer"}},
    {"alpha_misspelt",
     with_peft("\"lora_aplha\": 16"),
     {"peft.lora_aplha: unknown key; did you mean \"lora_alpha\"?"}},
    {"dropout_one", with_peft("\"lora_dropout\": 1.0"), {"peft.lora_dropout: must be >= 0, < 1, not 1"}},
    {"no_targets", with_peft("\"target_modules\": []"), {"peft.target_modules: is an empty list"}},
    {"empty_target",
     with_peft("\"target_modules\": [\"q_proj\", \"\"]"),
     {"peft.target_modules: must not contain an empty"}},
    {"target_number",
     with_peft("\"target_modules\": 4"),
     {"peft.target_modules: must be null or a string or a list"}},
    {"bad_regex",
     with_peft(R"("target_modules": ".*(q_proj")"),
     {"peft.target_modules: the regular expression"}},
    {"foreign_regex",
     with_peft(R"("target_modules": ".*\\Qq_proj\\E")"),
     {"peft.target_modules", "\\Q is not supported"}},
    {"bad_pattern_key",
     with_peft(R"("rank_pattern": {"*": 4})"),
     {"peft.rank_pattern: the regular expression"}},
    {"pattern_value",
     with_peft(R"("alpha_pattern": {"q_proj": "8"})"),
     {"peft.alpha_pattern: [\"q_proj\"] must be a number, not \"8\""}},
    {"layers_with_text",
     with_peft(R"("target_modules": "all-linear", "layers_to_transform": [1])"),
     {"peft.layers_to_transform: cannot be combined with a target_modules string"}},
    {"layers_pattern_alone",
     with_peft(R"("layers_pattern": "layers")"),
     {"peft.layers_pattern: has no effect without layers_to_transform"}},
    {"layer_negative",
     with_peft("\"layers_to_transform\": [-1]"),
     {"peft.layers_to_transform: [0] must be >= 0"}},
    {"dora",
     with_peft("\"use_dora\": true"),
     {"peft.use_dora: must be false, not true: DoRA is not built yet"}},
    {"pissa",
     with_peft(R"("init_lora_weights": "pissa")"),
     {"peft.init_lora_weights: must be one of true, false, \"gaussian\""}},
    {"trainable_tokens", with_peft("\"trainable_token_indices\": [1]"), {"peft.trainable_token_indices"}},
    {"ia3",
     with_peft(R"("peft_type": "IA3")"),
     {"peft.peft_type: must be \"LORA\", not \"IA3\": IA3's scaling vectors are not there yet"}},
    {"task",
     with_peft(R"("task_type": "SEQ_CLS")"),
     {"peft.task_type: must be \"CAUSAL_LM\", not \"SEQ_CLS\": a head that classifies whole sequences"}},
    {"task_of_the_seed",
     with_peft(R"("task_type": "QUESTION_ANSWERING")"),
     {"peft.task_type", "QUESTION_ANS in PEFT"}},
    {"init_in_quotes",
     with_peft(R"("init_lora_weights": "True")"),
     {"peft.init_lora_weights", "; write true without quotes"}},
    {"bias", with_peft(R"("bias": "lora")"), {"peft.bias: must be one of", "did you mean \"lora_only\"?"}},
    {"unknown_null", with_peft("\"use_newest_lora\": null"), {"peft.use_newest_lora: unknown key"}},
};
INSTANTIATE_TEST_SUITE_P(peft, RefusedConfig, testing::ValuesIn(kPeftFaults),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace qlora::cli
