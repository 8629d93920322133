#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "qlora/adapters/peft_config.h"
#include "qlora/core/fields.h"
#include "qlora/data/data_config.h"
#include "qlora/quant/quant_config.h"
#include "qlora/train/training_config.h"

namespace qlora::cli {

/// The `model` section.
struct ModelConfigSection {
    std::filesystem::path path;
    std::optional<std::filesystem::path> adapter;
    std::string device = "auto";
    std::optional<std::int64_t> threads;

    bool operator==(const ModelConfigSection&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("path", self.path, {.required = true, .free_on_resume = true},
              "Hugging Face folder of the base model");
        visit("adapter", self.adapter, {.free_on_resume = true},
              "adapter folder to go on from; its configuration is used");
        visit("device", self.device, {.free_on_resume = true},
              "auto (a GPU when there is one), cpu, cuda or cuda:N");
        visit("threads", self.threads, {.min = 1, .max = 4096, .free_on_resume = true},
              "CPU threads; null: one for each physical core, at most the CPU quota of a container");
    }
};

/// A run.json, checked and with all defaults filled in. Paths are absolute.
struct RunConfig {
    ModelConfigSection model;
    quant::QuantConfig quantization;
    adapters::PeftConfig peft;
    data::DataConfig data;
    train::TrainingConfig training;

    bool has_peft_section = false;
    std::set<std::string> given;  ///< full paths of the settings that were written down
    std::filesystem::path file;   ///< where it was read from

    /// The sections in the order of the documentation: `visit(name, section, is_required)`.
    template <class Self, class Visitor>
    static void sections(Self&& self, Visitor&& visit) {
        visit("model", self.model, true);
        visit("quantization", self.quantization, false);
        visit("peft", self.peft, false);
        visit("data", self.data, true);
        visit("training", self.training, true);
    }
};

/// Adds faults that only one program looks for, such as files that it needs, to those of the configuration.
using MoreChecks = std::function<void(const RunConfig& config, FaultList& faults)>;

/// Reads a run.json; `overrides` are the texts of `--set`, `section.key=value`. Relative paths, those of
/// overrides too, are relative to the file's folder. Throws ConfigError with all faults of file and
/// overrides.
RunConfig load_run_config(const std::filesystem::path& file, const std::vector<std::string>& overrides = {},
                          const MoreChecks& more_checks = {});

/// The same for a parsed text; `name` stands in messages.
RunConfig parse_run_config(Json root, const std::filesystem::path& folder, const std::string& name,
                           const std::vector<std::string>& overrides = {},
                           const MoreChecks& more_checks = {});

/// `quantization.key=value` texts alone, for programs without a run.json.
quant::QuantConfig quant_config_from_overrides(const std::vector<std::string>& overrides);

/// With `model.adapter`: takes its configuration. A `peft` section that differs from it is a ConfigError.
void adopt_adapter_config(RunConfig& config);

/// For a model whose weights are `stored` in 4 bits: takes their settings. One that was given and differs is
/// a ConfigError. Nothing for a dense model.
void adopt_stored_quantization(RunConfig& config, const std::optional<quant::QuantConfig>& stored);

/// Throws ConfigError for what the device cannot do; `is_gpu` is the device `auto` came to.
void check_device(const RunConfig& config, bool is_gpu);

/// The resolved configuration, keys in declared order; reading it gives the same configuration again.
Json run_config_json(const RunConfig& config);

/// Settings that a resumed run must not change and did, `training.seed: 42 in the run, 43 now`.
std::vector<std::string> resume_differences(const RunConfig& saved, const RunConfig& now);

/// The text of `--help-config`.
std::string config_help_text();

/// The same as Markdown tables, one for each section.
std::string config_table_markdown();

}  // namespace qlora::cli
