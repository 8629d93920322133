#include "data_request.h"

#include <algorithm>
#include <filesystem>

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

void check_without_file(const DataFlags& flags, FaultList& faults) {
    if (!flags.model && !is_set(flags, "model.path")) faults.add("--model", "is needed (or --config)");
    if (flags.data.empty() && !is_set(flags, "data.train")) faults.add("--data", "is needed (or --config)");
    for (const std::string& text : flags.overrides) {
        if (sets_one_of(text, {"model.path=", "model.threads=", "data.", "training.seed="})) continue;
        faults.add("--set " + text.substr(0, text.find('=')), "changes nothing about how rows are read");
    }
}

std::string absolute(const std::string& path) {
    return fs::absolute(path).string();
}

}  // namespace

RunConfig data_request(const DataFlags& flags) {
    FlagSettings settings(flags);
    if (!flags.config) check_without_file(flags, settings.faults());
    if (flags.model) settings.add("--model", "model.path", absolute(*flags.model));
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
    if (flags.config) return load_run_config(*flags.config, overrides);
    // A run needs an output folder; nothing is written to it here.
    const Json root = {
        {"model", Json::object()}, {"data", Json::object()}, {"training", {{"output_dir", "."}}}};
    return parse_run_config(root, fs::current_path(), "command line", overrides);
}

}  // namespace qlora::cli
