#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "qlora/core/fields.h"

namespace qlora::train {

/// transformers' names of schedules.
enum class LrSchedulerType {
    kLinear,
    kCosine,
    kCosineWithRestarts,
    kCosineWithMinLr,
    kCosineWarmupWithMinLr,
    kPolynomial,
    kInverseSqrt,
    kWarmupStableDecay,
    kConstant,
    kConstantWithWarmup
};
constexpr EnumTable<LrSchedulerType, 10> enum_table(LrSchedulerType) {
    return {{{"linear", LrSchedulerType::kLinear},
             {"cosine", LrSchedulerType::kCosine},
             {"cosine_with_restarts", LrSchedulerType::kCosineWithRestarts},
             {"cosine_with_min_lr", LrSchedulerType::kCosineWithMinLr},
             {"cosine_warmup_with_min_lr", LrSchedulerType::kCosineWarmupWithMinLr},
             {"polynomial", LrSchedulerType::kPolynomial},
             {"inverse_sqrt", LrSchedulerType::kInverseSqrt},
             {"warmup_stable_decay", LrSchedulerType::kWarmupStableDecay},
             {"constant", LrSchedulerType::kConstant},
             {"constant_with_warmup", LrSchedulerType::kConstantWithWarmup}}};
}
constexpr UnbuiltNames<2> unbuilt_names(LrSchedulerType) {
    return {{{"reduce_lr_on_plateau",
              "a rate that follows the losses is not there: it is known before the run; cosine_with_min_lr "
              "falls to a rate that you choose"},
             {"greedy",
              "a rate that follows the losses is not there: it is known before the run; take cosine or "
              "linear"}}};
}

/// Shapes of the warm-up and the decay of warmup_stable_decay.
enum class CurveType { kLinear, kCosine, kOneMinusSqrt };
constexpr EnumTable<CurveType, 3> enum_table(CurveType) {
    return {{{"linear", CurveType::kLinear},
             {"cosine", CurveType::kCosine},
             {"1-sqrt", CurveType::kOneMinusSqrt}}};
}

/// Keywords of the schedules, named as in transformers' optimization.py. Which of them a schedule takes and
/// needs, and their defaults, are in lr_scheduler.cpp.
struct LrSchedulerKwargs {
    std::optional<double> num_cycles, lr_end, power, min_lr, min_lr_rate, warmup_lr_rate, min_lr_ratio;
    std::optional<std::int64_t> timescale, num_decay_steps, num_stable_steps;
    std::optional<CurveType> warmup_type, decay_type;

    bool operator==(const LrSchedulerKwargs&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("num_cycles", self.num_cycles, {.min = 0, .min_excluded = true}, "waves, or restarts");
        visit("lr_end", self.lr_end, {.min = 0}, "rate at the end");
        visit("power", self.power, {.min = 0, .min_excluded = true}, "of the polynomial");
        visit("timescale", self.timescale, {.min = 1}, "steps");
        visit("min_lr", self.min_lr, {.min = 0}, "lowest rate");
        visit("min_lr_rate", self.min_lr_rate, {.min = 0, .max = 1}, "lowest rate as a share of the peak");
        visit("warmup_lr_rate", self.warmup_lr_rate, {.min = 0, .max = 1}, "first rate as a share");
        visit("num_decay_steps", self.num_decay_steps, {.min = 0}, "steps of the decay");
        visit("num_stable_steps", self.num_stable_steps, {.min = 0}, "steps at the peak");
        visit("warmup_type", self.warmup_type, {}, "shape of the warm-up");
        visit("decay_type", self.decay_type, {}, "shape of the decay");
        visit("min_lr_ratio", self.min_lr_ratio, {.min = 0, .max = 1}, "lowest rate as a share of the peak");
    }
};

enum class OptimizerType { kAdamwTorch, kAdamw8bit };
constexpr EnumTable<OptimizerType, 2> enum_table(OptimizerType) {
    return {{{"adamw_torch", OptimizerType::kAdamwTorch}, {"adamw_8bit", OptimizerType::kAdamw8bit}}};
}
constexpr EnumTable<OptimizerType, 7> enum_aliases(OptimizerType) {
    return {{{"adamw_torch_fused", OptimizerType::kAdamwTorch},
             {"adamw_hf", OptimizerType::kAdamwTorch},
             {"adamw_apex_fused", OptimizerType::kAdamwTorch},
             {"paged_adamw", OptimizerType::kAdamwTorch},
             {"paged_adamw_32bit", OptimizerType::kAdamwTorch},
             {"paged_adamw_8bit", OptimizerType::kAdamw8bit},
             {"adamw_bnb_8bit", OptimizerType::kAdamw8bit}}};
}

}  // namespace qlora::train

namespace qlora {

/// An object of the keywords that are given; null means none.
template <>
struct FieldType<train::LrSchedulerKwargs> {
    static std::string kind() { return "an object"; }
    static bool fits(const Json& value) { return value.is_object() || value.is_null(); }
    static std::string read(const Json& value, const FieldRule& rule, train::LrSchedulerKwargs& out);
    static Json write(const train::LrSchedulerKwargs& value);
};

}  // namespace qlora

namespace qlora::train {

enum class GradientCheckpointing { kOff, kOn, kAuto };
constexpr EnumTable<GradientCheckpointing, 3> enum_table(GradientCheckpointing) {
    return {{{"false", GradientCheckpointing::kOff},
             {"true", GradientCheckpointing::kOn},
             {"auto", GradientCheckpointing::kAuto}}};
}

enum class CacheDequantized { kOff, kOn, kAuto };
constexpr EnumTable<CacheDequantized, 3> enum_table(CacheDequantized) {
    return {{{"false", CacheDequantized::kOff},
             {"true", CacheDequantized::kOn},
             {"auto", CacheDequantized::kAuto}}};
}

/// The `training` section, named as in transformers' TrainingArguments.
struct TrainingConfig {
    std::filesystem::path output_dir;
    double num_train_epochs = 1;
    std::int64_t max_steps = -1;
    std::int64_t per_device_train_batch_size = 1;
    std::int64_t gradient_accumulation_steps = 16;
    double learning_rate = 2e-4;
    LrSchedulerType lr_scheduler_type = LrSchedulerType::kCosine;
    LrSchedulerKwargs lr_scheduler_kwargs;
    double warmup_steps = 0.03;
    std::optional<double>
        warmup_ratio;  ///< null in a resolved configuration: warmup_steps has taken its value
    OptimizerType optim = OptimizerType::kAdamwTorch;
    double weight_decay = 0;
    std::optional<double> loraplus_lr_ratio;
    std::optional<double> loraplus_lr_embedding;
    double adam_beta1 = 0.9;
    double adam_beta2 = 0.999;
    double adam_epsilon = 1e-8;
    double max_grad_norm = 1.0;
    std::optional<double> router_aux_loss_coef;
    std::int64_t logging_steps = 10;
    std::optional<std::int64_t> eval_steps;
    std::optional<std::int64_t> save_steps;
    std::optional<std::int64_t> save_total_limit = 2;
    bool load_best_model_at_end = false;
    std::int64_t seed = 42;
    GradientCheckpointing gradient_checkpointing = GradientCheckpointing::kOff;
    CacheDequantized cache_dequantized = CacheDequantized::kAuto;
    bool full_determinism = false;
    std::int64_t max_nonfinite_steps = 3;
    bool log_rows = false;
    bool eval_on_start = true;
    std::int64_t sample_rows = 2;

    /// PEFT's default of create_loraplus_optimizer.
    double loraplus_embedding_rate() const { return loraplus_lr_embedding.value_or(1e-6); }

    bool operator==(const TrainingConfig&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("output_dir", self.output_dir, {.required = true, .free_on_resume = true}, "folder of the run");
        visit("num_train_epochs", self.num_train_epochs,
              {.min = 0, .max = 1e6, .min_excluded = true, .free_on_resume = true},
              "passes over the data, whole or not (0.5, 2.5); the steps are rounded up");
        visit("max_steps", self.max_steps, {.min = -1, .free_on_resume = true},
              "optimizer steps; -1: as many as the epochs have");
        visit("per_device_train_batch_size", self.per_device_train_batch_size, {.min = 1},
              "rows per micro-batch");
        visit("gradient_accumulation_steps", self.gradient_accumulation_steps, {.min = 1},
              "micro-batches per optimizer step");
        visit("learning_rate", self.learning_rate,
              {.min = 0, .min_excluded = true, .default_text = "by peft_type"}, "peak learning rate");
        visit("lr_scheduler_type", self.lr_scheduler_type, {},
              "course of the learning rate, as in transformers");
        visit("lr_scheduler_kwargs", self.lr_scheduler_kwargs, {},
              "keywords of the schedule, as in transformers, such as {\"min_lr\": 1e-5} of "
              "cosine_with_min_lr");
        visit("warmup_steps", self.warmup_steps, {.min = 0, .default_text = "0.03 (0 for constant)"},
              "steps of linear warm-up; below 1 a share of all steps");
        visit("warmup_ratio", self.warmup_ratio, {.min = 0, .max = 1, .max_excluded = true},
              "older name for a warmup_steps below 1");
        visit("optim", self.optim, {},
              "optimizer; adamw_8bit keeps the moments of tensors with 4096 and more values in 8 bits; the "
              "names adamw_torch_fused, adamw_hf, paged_adamw and paged_adamw_32bit mean adamw_torch, "
              "paged_adamw_8bit and adamw_bnb_8bit mean adamw_8bit");
        visit("weight_decay", self.weight_decay, {.min = 0}, "decoupled decay of the adapter matrices");
        visit("loraplus_lr_ratio", self.loraplus_lr_ratio, {.min = 0, .min_excluded = true},
              "LoRA+: lora_B and trained biases and norms learn this many times faster than lora_A (its "
              "authors take 16); null: all learn alike");
        visit("loraplus_lr_embedding", self.loraplus_lr_embedding, {.min = 0, .min_excluded = true},
              "LoRA+: peak learning rate of LoRA on an embedding; null: 1e-6, as in PEFT");
        visit("adam_beta1", self.adam_beta1, {.min = 0, .max = 1, .max_excluded = true},
              "decay of the first moment");
        visit("adam_beta2", self.adam_beta2, {.min = 0, .max = 1, .max_excluded = true},
              "decay of the second moment");
        visit("adam_epsilon", self.adam_epsilon, {.min = 0, .min_excluded = true},
              "added to the denominator");
        visit("max_grad_norm", self.max_grad_norm, {.min = 0}, "gradients are clipped to this norm; 0 = off");
        visit("router_aux_loss_coef", self.router_aux_loss_coef, {.min = 0},
              "share of a loss that wants the routers of experts to choose evenly; 0: none; null: as "
              "output_router_logits and router_aux_loss_coef in the model's config.json say");
        visit("logging_steps", self.logging_steps, {.min = 1, .free_on_resume = true},
              "steps between log lines");
        visit("eval_steps", self.eval_steps, {.min = 1, .free_on_resume = true},
              "steps between evaluations; null: at the end of each epoch");
        visit("save_steps", self.save_steps, {.min = 1, .free_on_resume = true},
              "steps between checkpoints; null: at the end of each epoch");
        visit("save_total_limit", self.save_total_limit, {.min = 1, .free_on_resume = true},
              "checkpoints kept, the best besides; null: all");
        visit("load_best_model_at_end", self.load_best_model_at_end, {.free_on_resume = true},
              "the result is the checkpoint with the lowest held-out loss");
        visit("seed", self.seed, {.min = 0}, "of the data order, the initialisation and the dropout");
        visit("gradient_checkpointing", self.gradient_checkpointing, {.free_on_resume = true},
              "recompute activations in the backward pass: less memory, slower, same numbers; auto: as much "
              "as the memory demands");
        visit("cache_dequantized", self.cache_dequantized, {.free_on_resume = true},
              "keep the frozen weights in the form that products read besides: faster, more memory, same "
              "numbers; auto: when a quarter of the free memory holds them");
        visit("full_determinism", self.full_determinism, {},
              "bit-equal reruns and resumes on a GPU too, at some cost (the CPU always is)");
        visit("max_nonfinite_steps", self.max_nonfinite_steps, {.min = 1, .free_on_resume = true},
              "steps in a row without a finite loss before the run stops");
        visit("log_rows", self.log_rows, {.free_on_resume = true},
              "each log line lists the data rows of its steps");
        visit("eval_on_start", self.eval_on_start, {.free_on_resume = true},
              "held-out loss before the first step");
        visit("sample_rows", self.sample_rows, {.min = 0, .free_on_resume = true},
              "held-out rows whose generated answer is shown at each evaluation");
    }
};

}  // namespace qlora::train
