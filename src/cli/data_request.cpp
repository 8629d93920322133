#include "data_request.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "qlora/ops/device.h"

namespace qlora::cli {
namespace {

namespace fs = std::filesystem;

bool sets_one_of(const std::string& override_text, const std::vector<std::string>& prefixes) {
    return std::any_of(prefixes.begin(), prefixes.end(),
                       [&](const std::string& prefix) { return override_text.starts_with(prefix); });
}

/// A flag that stands for a setting, as --set of it.
class FlagSettings {
  public:
    explicit FlagSettings(const DataFlags& flags) : flags_(flags) {}

    void add(const char* flag, const std::string& setting, const Json& value) {
        for (const std::string& text : flags_.overrides)
            if (sets_one_of(text, {setting + "="}))
                faults_.add(flag,
                            "is given besides --set " + setting + ", which means the same; leave one out");
        overrides_.push_back(setting + "=" + value.dump());
    }
    FaultList& faults() { return faults_; }
    const std::vector<std::string>& overrides() const { return overrides_; }

  private:
    const DataFlags& flags_;
    FaultList faults_;
    std::vector<std::string> overrides_;
};

bool is_set(const DataFlags& flags, const std::string& setting) {
    return std::any_of(flags.overrides.begin(), flags.overrides.end(),
                       [&](const std::string& text) { return text.starts_with(setting + "="); });
}

bool sets_quantization(const DataFlags& flags) {
    return std::any_of(flags.overrides.begin(), flags.overrides.end(),
                       [](const std::string& text) { return text.starts_with("quantization."); });
}

void check_scoring(const DataFlags& flags, FaultList& faults) {
    for (const auto& [flag, is_given] : {std::pair{"--score-rows", flags.score_rows.has_value()},
                                         std::pair{"--adapter", flags.adapter.has_value()},
                                         std::pair{"--quantization", flags.quantization.has_value()},
                                         std::pair{"--device", flags.device.has_value()},
                                         std::pair{"--tokens-per-batch", flags.tokens_per_batch.has_value()}})
        if (is_given && !flags.score) faults.add(flag, "needs --score, which runs the model");
    if (flags.quantization && sets_quantization(flags))
        faults.add("--quantization", "is given besides --set quantization...; leave one out");
    if (flags.adapter && !fs::exists(*flags.adapter))
        faults.add("--adapter", "there is no " + *flags.adapter);
}

void check_without_file(const DataFlags& flags, FaultList& faults) {
    if (!flags.model && !is_set(flags, "model.path")) faults.add("--model", "is needed (or --config)");
    if (flags.data.empty() && !is_set(flags, "data.train")) faults.add("--data", "is needed (or --config)");
    for (const std::string& text : flags.overrides) {
        if (sets_one_of(text, {"model.path=", "model.threads=", "data.", "training.seed="})) continue;
        if (flags.score && sets_one_of(text, {"model.adapter=", "model.device=", "quantization."})) continue;
        faults.add("--set " + text.substr(0, text.find('=')), "changes nothing about how rows are read");
    }
}

std::string absolute(const std::string& path) {
    return fs::absolute(path).string();
}

ModelRequest scoring_request(const DataFlags& flags, BaseQuantization quantization, const RunConfig& config) {
    ModelRequest out{.settings = config, .adapter = config.model.adapter, .quantization = quantization};
    // As a run: what the file says counts, also of an adapter that the run would go on from.
    if (sets_quantization(flags) || (flags.config && !flags.quantization)) out.settings_come_first = true;
    out.device = ops::select_device(config.model.device, flags.device ? "--device" : "model.device");
    check_device(out.settings, out.device.is_cuda());
    return out;
}

RunConfig settings_of(const DataFlags& flags, const std::vector<std::string>& overrides) {
    if (flags.config) return load_run_config(*flags.config, overrides);
    // A run needs an output folder; nothing is written to it here.
    const Json root = {
        {"model", Json::object()}, {"data", Json::object()}, {"training", {{"output_dir", "."}}}};
    RunConfig out = parse_run_config(root, fs::current_path(), "command line", overrides);
    out.file = "--set";
    return out;
}

}  // namespace

DataRequest data_request(const DataFlags& flags) {
    FlagSettings settings(flags);
    BaseQuantization quantization = BaseQuantization::kAuto;
    if (!flags.config) check_without_file(flags, settings.faults());
    check_scoring(flags, settings.faults());
    read_choice("--quantization", flags.quantization, quantization, settings.faults());
    if (flags.model) settings.add("--model", "model.path", absolute(*flags.model));
    if (flags.adapter) settings.add("--adapter", "model.adapter", absolute(*flags.adapter));
    if (flags.device) settings.add("--device", "model.device", *flags.device);
    if (!flags.data.empty()) {
        Json files = Json::array();
        for (const std::string& file : flags.data) files.push_back(absolute(file));
        settings.add("--data", "data.train", files);
    }
    if (flags.eval) settings.add("--eval", "data.eval", absolute(*flags.eval));
    const bool is_same = flags.output && flags.html && absolute(*flags.output) == absolute(*flags.html);
    if (is_same) settings.faults().add("--html", "is the same file as --output");
    settings.faults().throw_if_any<ConfigError>("command line");

    std::vector<std::string> overrides = flags.overrides;
    overrides.insert(overrides.end(), settings.overrides().begin(), settings.overrides().end());
    DataRequest out{.config = settings_of(flags, overrides), .scoring = {}};
    if (flags.score) out.scoring = scoring_request(flags, quantization, out.config);
    return out;
}

}  // namespace qlora::cli
