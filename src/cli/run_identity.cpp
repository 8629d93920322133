#include "run_identity.h"

#include <utility>

#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora::cli {

Json run_identity(const RunConfig& config, const std::map<std::string, std::string>& metadata,
                  const data::Dataset& train, const data::Dataset* eval, std::int64_t threads) {
    return {{"base", metadata.at(adapters::kBaseKey)},
            {"tokenizer", metadata.at(adapters::kTokenizerKey)},
            {"data", train.fingerprint},
            {"eval_data", eval != nullptr ? Json(eval->fingerprint) : Json(nullptr)},
            {"threads", threads},
            {"config", run_config_json(config)}};
}

void require_same_run(const Json& saved, const Json& identity, const RunConfig& config,
                      const std::filesystem::path& place) {
    if (!saved.is_object())
        throw CheckpointError(place.string() + ": its run_state.json has no identity of the run");
    FaultList faults;
    const std::pair<const char*, const char*> facts[] = {
        {"base", "the base model's tensors have changed"},
        {"tokenizer", "the tokenizer has changed"},
        {"data", "the training data have changed"},
        {"threads", "the number of threads has changed, which changes the order of sums"}};
    for (const auto& [key, message] : facts) {
        const Json before = saved.value(key, Json());
        if (before != identity.at(key)) {
            faults.add(key, std::string(message) + " (" + before.dump() + " then, " +
                                identity.at(key).dump() + " now)");
        }
    }
    if (saved.value("eval_data", Json()) != identity.at("eval_data")) {
        spdlog::warn(
            "the held-out data have changed: losses from before and after {} are not of the same rows",
            place.string());
    }
    const RunConfig before = parse_run_config(saved.value("config", Json()), place, place.string());
    for (const std::string& difference : resume_differences(before, config)) faults.add("", difference);
    faults.throw_if_any<ConfigError>("--resume: " + place.string() + " cannot go on");
}

}  // namespace qlora::cli
