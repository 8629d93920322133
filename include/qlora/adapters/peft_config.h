#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "qlora/adapters/bottleneck_config.h"
#include "qlora/adapters/ia3_config.h"
#include "qlora/adapters/lora_config.h"
#include "qlora/adapters/prefix_tuning_config.h"
#include "qlora/adapters/prompt_encoder_config.h"
#include "qlora/adapters/prompt_tuning_config.h"

namespace qlora::adapters {

/// The `peft` section of run.json and `adapter_config.json`: `peft_type` chooses; LoRA where it is missing.
using PeftConfig = std::variant<LoraConfig, Ia3Config, PromptTuningConfig, PromptEncoderConfig,
                                PrefixTuningConfig, BottleneckConfig>;

PeftType type_of(const PeftConfig& config);
/// base_model_name_or_path of whichever configuration it is.
std::optional<std::string>& base_name(PeftConfig& config);
/// Names the base where the configuration does not, and its tokenizer where PEFT wants one.
void name_base(PeftConfig& config, const std::string& base);
/// Its modules_to_save; null where the method has none.
std::optional<NameList>* modules_to_save(PeftConfig& config);
/// The learning rate of a run that names none.
double default_learning_rate(const PeftConfig& config);

/// Combinations that PEFT or we refuse, and regular expressions that do not compile. `path` goes before each
/// place.
void check_config(const PeftConfig& config, const std::string& path, FaultList& faults);

/// Reads the content of an `adapter_config.json`. A field this version does not know is logged and passed
/// over while it switches nothing on, else refused. Throws CheckpointError with all faults; `name` is the
/// file's.
PeftConfig parse_adapter_config(const Json& json, const std::string& name);
PeftConfig read_adapter_config(const std::filesystem::path& file);

/// The content of `adapter_config.json` as PEFT's save_pretrained writes it (of bottlenecks AdapterHub's
/// save_adapter): all of its fields, sorted, two blanks of indentation; only the entries of rank_pattern and
/// alpha_pattern keep their order, since it decides.
std::string adapter_config_text(const PeftConfig& config);

/// One line for each setting that makes `ours` and `theirs` different adapters, `r: 16 against 8`. The order
/// of name lists and the base's name do not count.
std::vector<std::string> differences(const PeftConfig& ours, const PeftConfig& theirs);

}  // namespace qlora::adapters
