#include "run_config_foreign.h"

#include <string_view>

namespace qlora::cli {
namespace {

struct Meaning {
    std::string_view key;  ///< a star at the end stands for anything
    std::string_view sentence;
};

constexpr std::string_view kComputeDtype =
    "products are computed in quantization.bnb_4bit_compute_dtype (\"float32\", \"bfloat16\", \"float16\")";
constexpr std::string_view kMaxLength = "the longest row in tokens is data.max_length here";
constexpr std::string_view kPacking =
    "not needed: rows are laid end to end without padding and never see each other; "
    "data.max_tokens_per_batch fills micro-batches by tokens";
constexpr std::string_view kReports = "metrics are always written to metrics.jsonl in training.output_dir";
constexpr std::string_view kEvaluation =
    "evaluation is at the end of each epoch when data.eval is set, or every training.eval_steps";
constexpr std::string_view kEvalBatch =
    "not needed: held-out rows are batched by tokens, and the loss does not depend on it";
constexpr std::string_view kLoaders = "not needed: all rows are encoded once, before the run";
constexpr std::string_view kRouterLoss =
    "the loss for even routing among experts is training.router_aux_loss_coef here";
constexpr std::string_view kBest = "the best checkpoint is the one with the lowest held-out loss";
constexpr std::string_view kTrainOn =
    "what has a loss is data.train_on here (\"assistant\", \"last_assistant\", \"all\")";
constexpr std::string_view kTemplate = "the chat template is chosen by data.template here";
constexpr std::string_view kTokens = "the special tokens are those of the model's folder";
constexpr std::string_view kFormat =
    "the fields of a row are found by data.format here, columns of other names by data.columns: "
    "{\"prompt\": \"question\", \"completion\": \"answer\"}";
constexpr std::string_view kFiles = "training files are data.train here, the held-out file is data.eval";
constexpr std::string_view kHeldOut =
    "held-out rows are data.eval here: a share of the training rows (0.05), a number of them (500), or a "
    "file";
constexpr std::string_view kModelPath = "the base model's folder is model.path here";
constexpr std::string_view kOneProcess = "runs on one device; there is nothing to set";
constexpr std::string_view kNoHub = "nothing is sent to a hub; the result is the folder adapter/ of the run";
constexpr std::string_view kFused = "not needed: norms, rotation, SwiGLU and the loss are fused already";
constexpr std::string_view kNotCompiled = "not needed: there is no Python graph to compile";
constexpr std::string_view kEight = "weights in 8 bits are not there; quantization.load_in_4bit is";
constexpr std::string_view kPeftSection = "the section is named \"peft\" here";
constexpr std::string_view kQuantizationSection = "the section is named \"quantization\" here";
constexpr std::string_view kTrainingSection = "the section is named \"training\" here";

constexpr Meaning kMeanings[] = {
    {"bf16", kComputeDtype},
    {"fp16", kComputeDtype},
    {"fp16_*", kComputeDtype},
    {"bf16_*", kComputeDtype},
    {"half_precision_backend", kComputeDtype},
    {"torch_dtype", kComputeDtype},
    {"dtype", kComputeDtype},
    {"tf32", "not used: products are in the compute dtype as it is"},
    {"packing", kPacking},
    {"sample_packing", kPacking},
    {"pad_to_sequence_len", kPacking},
    {"padding_free", kPacking},
    {"eval_packing", kPacking},
    {"max_seq_length", kMaxLength},
    {"max_seq_len", kMaxLength},
    {"sequence_len", kMaxLength},
    {"cutoff_len", kMaxLength},
    {"model_max_length", kMaxLength},
    {"report_to", kReports},
    {"run_name", kReports},
    {"logging_dir", kReports},
    {"wandb_*", kReports},
    {"logging_strategy", "a line is logged every training.logging_steps"},
    {"logging_first_step", "a line is logged every training.logging_steps"},
    {"disable_tqdm", "progress goes to stderr; --quiet leaves it out"},
    {"save_strategy", "checkpoints are at the end of each epoch, or every training.save_steps"},
    {"saves_per_epoch", "checkpoints are at the end of each epoch, or every training.save_steps"},
    {"save_only_model", "checkpoints hold the optimizer too, so that a run can be resumed"},
    {"save_safetensors", "not needed: adapters are always safetensors"},
    {"eval_strategy", kEvaluation},
    {"evaluation_strategy", kEvaluation},
    {"evals_per_epoch", kEvaluation},
    {"do_train", "training is what qlora-train does"},
    {"do_eval", kEvaluation},
    {"per_device_eval_batch_size", kEvalBatch},
    {"eval_batch_size", kEvalBatch},
    {"eval_accumulation_steps", kEvalBatch},
    {"micro_batch_size", "rows per micro-batch are training.per_device_train_batch_size here"},
    {"num_epochs", "passes over the data are training.num_train_epochs here"},
    {"optimizer", "the optimizer is training.optim here"},
    {"lr_scheduler", "the schedule is training.lr_scheduler_type here"},
    {"lr", "the peak rate is training.learning_rate here"},
    {"val_set_size", kHeldOut},
    {"val_size", kHeldOut},
    {"test_size", kHeldOut},
    {"test_split_size", kHeldOut},
    {"test_datasets", kFiles},
    {"datasets", kFiles},
    {"dataset", kFiles},
    {"dataset_name", kFiles},
    {"train_file", kFiles},
    {"train_dataset", kFiles},
    {"eval_dataset", kFiles},
    {"dataset_prepared_path", kLoaders},
    {"dataset_num_proc", kLoaders},
    {"dataset_text_field", kFormat},
    {"formatting_func", kFormat},
    {"train_on_inputs", kTrainOn},
    {"completion_only_loss", kTrainOn},
    {"assistant_only_loss", kTrainOn},
    {"chat_template", kTemplate},
    {"chat_template_path", kTemplate},
    {"special_tokens", kTokens},
    {"tokens", kTokens},
    {"pad_token", kTokens},
    {"eos_token", kTokens},
    {"remove_unused_columns", kFormat},
    {"dataloader_*", kLoaders},
    {"length_column_name", "rows of similar length are grouped by data.group_by_length"},
    {"metric_for_best_model", kBest},
    {"greater_is_better", kBest},
    {"early_stopping_patience", "a run does not stop by itself; training.load_best_model_at_end is there"},
    {"neftune_noise_alpha", "noise on embeddings (NEFTune) is not there"},
    {"output_router_logits", kRouterLoss},
    {"moe_aux_loss_coef", kRouterLoss},
    {"label_smoothing_factor", "label smoothing is not there"},
    {"lora_r", "the rank is peft.r here"},
    {"lora_rank", "the rank is peft.r here"},
    {"lora_target_modules", "the adapted layers are peft.target_modules here"},
    {"lora_target_linear", "all linear layers are peft.target_modules \"all-linear\" here"},
    {"lora_target_parameters", "adapted parameters of experts are peft.target_parameters here"},
    {"lora_modules_to_save", "modules trained whole are peft.modules_to_save here"},
    {"lora_model_dir", "an adapter to go on from is model.adapter here"},
    {"use_peft", "adapters are always trained; their settings are in the section peft"},
    {"gradient_checkpointing_kwargs",
     "not needed: training.gradient_checkpointing gives the same numbers in every mode"},
    {"load_in_8bit", kEight},
    {"base_model", kModelPath},
    {"model_name_or_path", kModelPath},
    {"model_name", kModelPath},
    {"tokenizer_type", "the tokenizer is that of the model's folder"},
    {"model_type", "the architecture is that of the model's config.json"},
    {"tf32_*", "not used: products are in the compute dtype as it is"},
    {"torch_compile*", kNotCompiled},
    {"deepspeed*", kOneProcess},
    {"fsdp*", kOneProcess},
    {"ddp_*", kOneProcess},
    {"local_rank", kOneProcess},
    {"parallelism_config", kOneProcess},
    {"accelerator_config", kOneProcess},
    {"push_to_hub*", kNoHub},
    {"hub_*", kNoHub},
    {"optim_args", "the optimizer has settings of its own: training.adam_beta1, adam_beta2, adam_epsilon"},
    {"optim_target_modules", "the optimizer updates the adapters, all of them"},
    {"use_liger_kernel", kFused},
    {"liger_*", kFused},
    {"attn_implementation", "not needed: attention is chosen by the device"},
    {"flash_attention", "not needed: attention is chosen by the device"},
    {"flash_attn*", "not needed: attention is chosen by the device"},
    {"sdp_attention", "not needed: attention is chosen by the device"},
    {"xformers_attention", "not needed: attention is chosen by the device"},
    {"device_map", "the device is model.device here"},
    {"use_cpu", "the device is model.device here (\"cpu\")"},
    {"no_cuda", "the device is model.device here (\"cpu\")"},
    {"trust_remote_code", "Python code of a checkpoint is never run"},
    {"use_cache", "not needed: nothing is cached while training"},
    {"overwrite_output_dir",
     "a folder that holds a run is never overwritten: add --resume, or choose another"},
    {"resume_from_checkpoint", "a run goes on with the flag --resume"},
    {"data_seed", "the order of rows, and which are held out, follow training.seed"},
    {"strict", "a wrong setting is always an error"},
    {"lora", kPeftSection},
    {"lora_config", kPeftSection},
    {"peft_config", kPeftSection},
    {"bnb_config", kQuantizationSection},
    {"quantization_config", kQuantizationSection},
    {"bitsandbytes", kQuantizationSection},
    {"training_args", kTrainingSection},
    {"training_arguments", kTrainingSection},
    {"sft_config", kTrainingSection},
};

bool is_named(std::string_view pattern, std::string_view key) {
    if (!pattern.ends_with('*')) return pattern == key;
    return key.starts_with(pattern.substr(0, pattern.size() - 1));
}

}  // namespace

std::string meaning_of_foreign_setting(const std::string& key, const Json& value) {
    // Our adapter is a folder, axolotl's a method.
    if (key == "adapter" && (value == "qlora" || value == "lora")) {
        return "quantization.load_in_4bit true is QLoRA, false is LoRA; model.adapter is a folder to go on "
               "from";
    }
    for (const Meaning& meaning : kMeanings) {
        if (is_named(meaning.key, key)) return std::string(meaning.sentence);
    }
    return "";
}

}  // namespace qlora::cli
