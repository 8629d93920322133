#include "eval_request.h"

#include <algorithm>

#include "qlora/core/device_name.h"
#include "qlora/ops/device.h"
#include "qlora/train/run_folder.h"

namespace qlora::cli {
namespace {

namespace fs = std::filesystem;

bool sets(const EvalFlags& flags, const std::string& prefix) {
    return std::any_of(flags.overrides.begin(), flags.overrides.end(),
                       [&](const std::string& text) { return text.starts_with(prefix); });
}

/// Flags that stand for a setting must not contradict a --set of the same one.
void check_said_once(const EvalFlags& flags, FaultList& faults) {
    const auto once = [&](const char* flag, bool is_given, const std::string& setting) {
        if (is_given && sets(flags, setting + "="))
            faults.add(flag, "is given besides --set " + setting + ", which means the same; leave one out");
    };
    once("--model", flags.model.has_value(), "model.path");
    once("--device", flags.device.has_value(), "model.device");
    once("--data", flags.data.has_value(), "data.eval");
    once("--format", flags.format.has_value(), "data.format");
    once("--template", flags.template_name.has_value(), "data.template");
    once("--max-length", flags.max_length.has_value(), "data.max_length");
    if (flags.quantization && sets(flags, "quantization."))
        faults.add("--quantization", "is given besides --set quantization...; leave one out");
}

void check_needs(const EvalFlags& flags, FaultList& faults) {
    if (!flags.config) {
        if (!flags.model && !sets(flags, "model.path=")) faults.add("--model", "is needed (or --config)");
        if (!flags.data && !sets(flags, "data.eval=")) faults.add("--data", "is needed (or --config)");
        if (flags.base_only)
            faults.add("--base-only", "goes with --config only; leave --adapter out instead");
    } else if (flags.base_only && flags.adapter) {
        faults.add("--base-only", "measures without an adapter, but --adapter gives one; leave one out");
    }
    for (const auto& [flag, value] :
         {std::pair{"--generations", flags.generations.has_value()},
          std::pair{"--max-new-tokens", flags.max_new_tokens.has_value()},
          std::pair{"--prompts-per-batch", flags.prompts_per_batch.has_value()}}) {
        if (value && !flags.generate) faults.add(flag, "needs --generate, which makes answers");
    }
    if (flags.adapter && !fs::exists(*flags.adapter))
        faults.add("--adapter", "there is no " + *flags.adapter);
}

/// What a flag says instead of the file.
struct Choices {
    data::DataFormat format = data::DataFormat::kAuto;
    data::TemplateChoice template_;
    BaseQuantization quantization = BaseQuantization::kAuto;
};

Choices read_flags(const EvalFlags& flags) {
    FaultList faults;
    Choices out;
    check_needs(flags, faults);
    check_said_once(flags, faults);
    read_choice("--format", flags.format, out.format, faults);
    if (flags.template_name) {
        const std::string problem =
            FieldType<data::TemplateChoice>::read(*flags.template_name, {}, out.template_);
        if (!problem.empty()) faults.add("--template", problem);
    }
    read_choice("--quantization", flags.quantization, out.quantization, faults);
    if (flags.device && !parse_device_name(*flags.device))
        faults.add("--device", wrong_device_name(*flags.device));
    faults.throw_if_any<ConfigError>("command line");
    return out;
}

/// Without a run.json: settings of --set alone, each section read as in the file.
RunConfig settings_of_overrides(const EvalFlags& flags) {
    ReadState state;
    Json root = {{"model", Json::object()}, {"quantization", Json::object()}, {"data", Json::object()}};
    for (const std::string& text : flags.overrides)
        apply_override(text, {"model", "quantization", "data"}, root, state.faults);
    for (const char* setting : {"model.adapter", "data.train"}) {
        if (sets(flags, std::string(setting) + "="))
            state.faults.add(setting, "has no effect here; --adapter and --data say what is evaluated");
    }
    // Both are required in a file; here a flag says them.
    if (flags.model) root["model"]["path"] = *flags.model;
    root["data"]["train"] = "none";
    RunConfig settings;
    settings.file = "--set";
    read_fields(root["model"], "model", settings.model, state);
    read_fields(root["quantization"], "quantization", settings.quantization, state);
    read_fields(root["data"], "data", settings.data, state);
    state.faults.throw_if_any<ConfigError>("--set");
    return settings;
}

void apply_flags(const EvalFlags& flags, const Choices& choices, RunConfig& settings) {
    if (flags.model) settings.model.path = *flags.model;
    if (flags.device) settings.model.device = *flags.device;
    if (flags.format) settings.data.format = choices.format;
    if (flags.template_name) settings.data.template_ = choices.template_;
    if (flags.max_length) settings.data.max_length = *flags.max_length;
}

std::optional<fs::path> data_of(const EvalFlags& flags, const RunConfig& settings) {
    if (flags.data) return *flags.data;
    if (const fs::path* file = settings.data.eval_file()) return *file;
    if (settings.data.eval_part() != nullptr) {
        if (flags.config) return std::nullopt;
        throw ConfigError(
            "--set: data.eval: a part of the training files is meant, which only --config names; give a "
            "file");
    }
    throw ConfigError(settings.file.string() +
                      ": data.eval is not set, so there is nothing to evaluate on; set it or give --data");
}

std::optional<fs::path> adapter_of(const EvalFlags& flags, const RunConfig& settings) {
    if (flags.adapter) return *flags.adapter;
    if (!flags.config || flags.base_only) return std::nullopt;
    const fs::path adapter = train::RunPaths{settings.training.output_dir}.adapter();
    if (!fs::exists(adapter)) {
        throw ConfigError(
            adapter.string() +
            " does not exist: the run has not finished. Train first, or measure the base with --base-only");
    }
    return adapter;
}

}  // namespace

EvalRequest eval_request(const EvalFlags& flags) {
    const Choices choices = read_flags(flags);
    EvalRequest request;
    request.settings =
        flags.config ? load_run_config(*flags.config, flags.overrides) : settings_of_overrides(flags);
    apply_flags(flags, choices, request.settings);
    request.data = data_of(flags, request.settings);
    request.adapter = adapter_of(flags, request.settings);
    request.quantization = choices.quantization;
    // A run's own adapter was trained on what its file says, another one on what its metadata say.
    const bool is_set = sets(flags, "quantization.");
    if (is_set || (flags.config && !flags.quantization))
        request.settings_come_first = is_set || !flags.adapter;
    request.device =
        ops::select_device(request.settings.model.device, flags.device ? "--device" : "model.device");
    check_device(request.settings, request.device.is_cuda());
    return request;
}

}  // namespace qlora::cli
