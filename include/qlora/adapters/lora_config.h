#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "qlora/adapters/method_fields.h"

namespace qlora::adapters {

/// Which biases of the base train: none, all, or those of adapted layers.
enum class BiasTraining { kNone, kAll, kLoraOnly };
constexpr EnumTable<BiasTraining, 3> enum_table(BiasTraining) {
    return {
        {{"none", BiasTraining::kNone}, {"all", BiasTraining::kAll}, {"lora_only", BiasTraining::kLoraOnly}}};
}

/// kDefault: A uniform in +-1/sqrt(in), B zero. kRandom: B uniform in +-1/sqrt(r) besides (debugging).
/// kGaussian: A normal with standard deviation 1/r, B zero.
enum class InitLoraWeights { kDefault, kRandom, kGaussian };
constexpr EnumTable<InitLoraWeights, 3> enum_table(InitLoraWeights) {
    return {{{"true", InitLoraWeights::kDefault},
             {"false", InitLoraWeights::kRandom},
             {"gaussian", InitLoraWeights::kGaussian}}};
}

/// PEFT's LoraConfig: the `peft` section of run.json and `adapter_config.json`.
struct LoraConfig {
    static constexpr const char* kTagName = "peft_type";
    static constexpr PeftType kTag = PeftType::kLora;
    /// Of a run that names none: what QLoRA's authors took.
    static constexpr double kLearningRate = 2e-4;

    PeftType peft_type = kTag;
    std::optional<TaskType> task_type = TaskType::kCausalLm;
    std::optional<std::string> base_model_name_or_path;
    std::int64_t r = 8;
    double lora_alpha = 8;
    double lora_dropout = 0.0;
    ModuleNames target_modules;
    std::optional<NameList> target_parameters;
    ModuleNames exclude_modules;
    std::optional<NameList> modules_to_save;
    LayerIndices layers_to_transform;
    ModuleNames layers_pattern;
    NamePatterns<std::int64_t> rank_pattern;
    NamePatterns<double> alpha_pattern;
    bool use_rslora = false;
    bool use_dora = false;
    bool lora_bias = false;
    bool ensure_weight_tying = false;
    InitLoraWeights init_lora_weights = InitLoraWeights::kDefault;
    BiasTraining bias = BiasTraining::kNone;
    /// Whether an adapted weight of the base is stored in columns: written as PEFT does, read from no file.
    bool fan_in_fan_out = false;

    bool operator==(const LoraConfig&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit);
};

/// Combinations that PEFT or we refuse, and regular expressions that do not compile. `path` goes before each
/// place.
void check_config(const LoraConfig& config, const std::string& path, FaultList& faults);

template <class Self, class Visitor>
void LoraConfig::fields(Self& self, Visitor& visit) {
    visit("r", self.r, {.min = 1}, "rank");
    visit("lora_alpha", self.lora_alpha, {.min = 0, .min_excluded = true},
          "the update is scaled by lora_alpha / r (by lora_alpha / sqrt(r) with use_rslora)");
    visit("lora_dropout", self.lora_dropout, {.min = 0, .max = 1, .max_excluded = true},
          "dropout on the adapter's input");
    visit(
        "target_modules", self.target_modules, {},
        "adapted layers: names, a regular expression for the whole path, or all-linear; null: PEFT's "
        "choice for the architecture, where it has one. Embedding (embed_tokens) and head (lm_head) by name");
    visit("target_parameters", self.target_parameters, {},
          "adapted parameters that are no linear layer's, by the endings of their names: those of experts "
          "(mlp.experts.gate_up_proj, mlp.experts.down_proj) and of a router (mlp.gate.weight)");
    visit("exclude_modules", self.exclude_modules, {}, "left out, matched like target_modules");
    visit("modules_to_save", self.modules_to_save, {}, "modules trained and saved whole");
    visit("layers_to_transform", self.layers_to_transform, {.min = 0},
          "adapt only the layers with these numbers");
    visit("layers_pattern", self.layers_pattern, {}, "name of the layer list, where it is not the first one");
    visit("rank_pattern", self.rank_pattern, {.min = 1},
          "name or regular expression -> r; the first match wins");
    visit("alpha_pattern", self.alpha_pattern, {.min = 0, .min_excluded = true},
          "name or regular expression -> lora_alpha; the first match wins");
    visit("use_rslora", self.use_rslora, {}, "rank-stabilised scaling");
    visit("use_dora", self.use_dora, {},
          "DoRA: the norms of an adapted weight's rows train apart from their directions");
    visit("lora_bias", self.lora_bias, {}, "a trained bias on B, scaled with it");
    visit("ensure_weight_tying", self.ensure_weight_tying, {},
          "LoRA on a tied embedding or head is on both, which share its matrices");
    visit("init_lora_weights", self.init_lora_weights, {},
          "start of A and B; false starts with a random update");
    visit("bias", self.bias, {}, "which biases of the base train too");
    method_fields(self, visit);

    const Json none = nullptr;
    constexpr const char* kRewritesBase = "this initialisation rewrites the base weights and is not built";
    visit.fixed("trainable_token_indices", none, "training single token rows is not built yet");
    visit.fixed("layer_replication", none, "stacking layers is not built");
    visit.fixed("megatron_config", none, "Megatron models are not supported");
    visit.fixed("megatron_core", "megatron.core", "Megatron models are not supported");
    visit.fixed("loftq_config", Json::object(), kRewritesBase);
    visit.fixed("eva_config", none, "EVA's initialisation from data is not built");
    visit.fixed("corda_config", none, kRewritesBase);
    visit.fixed("lora_ga_config", none, kRewritesBase);
    visit.fixed("velora_config", none, "compressed activations are not built");
    visit.fixed("kasa_config", none, "KaSA rewrites the base weights and is not built");
    visit.fixed("monteclora_config", none, "Bayesian LoRA is not built");
    visit.fixed("alora_invocation_tokens", none, "adapters that start after certain tokens are not built");
    visit.fixed("use_qalora", false, "QA-LoRA works on GPTQ bases only, which are not supported");
    visit.fixed("qalora_group_size", 16, "QA-LoRA works on GPTQ bases only, which are not supported");
    visit.fixed("use_bdlora", none, "block-diagonal LoRA is not built");
    visit.fixed("arrow_config", none, "routing between adapters is not built");
    visit.ignored("fan_in_fan_out", "the model says which weights are stored in columns (GPT-2's Conv1D)");
    visit.ignored("runtime_config", "settings of a Python process; PEFT does not save it either");
}

}  // namespace qlora::adapters
