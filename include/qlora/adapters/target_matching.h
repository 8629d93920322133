#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/adapters/lora_config.h"

namespace qlora::adapters {

/// One module of the model, containers (`model.layers.0.self_attn`) included: they have none of the four
/// flags.
struct ModuleInfo {
    std::string path;  ///< as in transformers: `model.layers.0.self_attn.q_proj`, `lm_head`
    bool is_linear = false;
    bool is_output_embedding = false;  ///< the head; it is linear too
    bool is_embedding = false;
    bool is_norm = false;
    std::int64_t in_features = 0;
    std::int64_t out_features = 0;
    std::string not_whole = {};  ///< why modules_to_save cannot name it; empty: it can
};

/// A matrix that is no module's weight in transformers: a router's, or that of all experts of a layer.
struct ParameterInfo {
    std::string path;  ///< "model.layers.0.mlp.experts.gate_up_proj"
    std::int64_t experts = 1;
    std::int64_t in_features = 0, out_features = 0;  ///< of one expert
};

/// Modules of transformers 4 in whose place a parameter stands in 5.
struct FormerLinears {
    std::string parameter;  ///< "gate_up_proj"
    NameList names;         ///< "gate_proj", "up_proj"
};

/// The modules of a model, and what its architecture says of adapters.
struct AdaptableModel {
    std::string model_type;
    std::vector<ModuleInfo> modules;
    std::vector<ParameterInfo> parameters = {};
    /// PEFT takes these names in target_modules for their parameters, and "all-linear" for all of them.
    std::vector<FormerLinears> former_linears = {};
    NameList default_targets;  ///< PEFT's choice for the type; empty: it has none
    /// PEFT sees linears that are not in `modules` (a vision tower's): short endings of names might match
    /// them.
    bool is_part = false;
    bool tied = false;  ///< embedding and head are one tensor
    /// Whether the method can adapt embedding and head.
    bool tables = false;
};

/// One adapted layer, or one adapted parameter.
struct Target {
    std::string path;
    bool is_parameter = false;
    bool is_embedding = false, is_head = false;
    std::int64_t r = 0;
    double lora_alpha = 0;
    double scaling = 0;  ///< lora_alpha / r, or lora_alpha / sqrt(r)
};

struct MatchResult {
    std::vector<Target> targets;               ///< in the order of the modules
    std::vector<std::string> modules_to_save;  ///< paths trained whole
    std::vector<std::string> warnings;
    bool shares_tables = false;  ///< the targets embedding and head have one pair of matrices
    LoraConfig expanded;  ///< what is saved: target_modules as names, also for null, "all-linear" and very
                          ///< long lists
};

/// Finds what a configuration adapts, with PEFT's meaning of every field. Stricter than PEFT where it would
/// pass a mistake silently: each name of a list must fit a module. Throws ConfigError with all faults.
MatchResult match_targets(const LoraConfig& config, const AdaptableModel& model);

}  // namespace qlora::adapters
