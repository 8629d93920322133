#include "run_identity.h"

#include "compute_dtype.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/core/log.h"
#include "qlora/data/prompt_template.h"
#include "qlora/ops/gemm.h"

namespace qlora::cli {
namespace {

std::string hash_of(const std::string& text) {
    Xxh3 hash;
    hash.update(text);
    return hash.hex();
}

/// Of what config.json says about the model, whatever the order; not of notes about the file itself.
std::string architecture_fingerprint(const std::filesystem::path& model) {
    Json config = read_json_file(model / "config.json");
    for (const char* note : {"_name_or_path", "transformers_version", "architectures", "use_cache"}) {
        config.erase(note);
    }
    return hash_of(nlohmann::json(config).dump());
}

Json chat_template_fingerprint(const RunConfig& config) {
    const data::TemplateChoice& choice = config.data.template_;
    if (!choice.file.empty()) return hash_file(choice.file);
    if (choice.name != data::TemplateName::kAuto) return Json();
    const auto text = data::read_chat_template(config.model.path);
    const auto for_tools = data::read_tool_template(config.model.path);
    if (!text) return Json();
    return hash_of(for_tools ? *text + *for_tools : *text);
}

Json adapter_fingerprint(const RunConfig& config) {
    if (!config.model.adapter) return nullptr;
    return hash_file(adapters::adapter_weights_file(*config.model.adapter));
}

bool depends_on_threads(const RunFacts& facts) {
    return facts.device.is_cpu() &&
           ops::sums_depend_on_threads(compute_dtype(facts.config.quantization, facts.device));
}

/// Of the held-out rows; those of the training files count by their numbers too.
Json held_out_fingerprint(const RunFacts& facts) {
    if (facts.eval == nullptr) return nullptr;
    if (facts.config.data.eval_part() == nullptr) return facts.eval->fingerprint;
    std::string text = facts.eval->fingerprint;
    for (const data::Example& example : facts.eval->examples)
        text.append(" ").append(std::to_string(example.row));
    return hash_of(text);
}

struct Fact {
    const char* key;
    const char* message;
};

constexpr Fact kFacts[] = {
    {"base", "the base model's tensors have changed"},
    {"architecture", "the base model's config.json has changed"},
    {"tokenizer", "the tokenizer has changed"},
    {"chat_template", "the chat template has changed"},
    {"adapter", "the adapter that the run began with has changed"},
    {"data", "the training data have changed"},
    {"device", "the kind of device has changed, and with it the order of sums"},
};

}  // namespace

Json run_identity(const RunFacts& facts) {
    return {{"base", facts.metadata.at(adapters::kBaseKey)},
            {"architecture", architecture_fingerprint(facts.config.model.path)},
            {"tokenizer", facts.metadata.at(adapters::kTokenizerKey)},
            {"chat_template", chat_template_fingerprint(facts.config)},
            {"adapter", adapter_fingerprint(facts.config)},
            {"data", facts.train.fingerprint},
            {"eval_data", held_out_fingerprint(facts)},
            {"device", facts.device.is_cuda() ? "cuda" : "cpu"},
            {"threads", depends_on_threads(facts) ? Json(facts.threads) : Json(nullptr)},
            {"config", run_config_json(facts.config)}};
}

void require_same_run(const Json& saved, const Json& identity, const RunConfig& config,
                      const std::filesystem::path& place) {
    if (!saved.is_object())
        throw CheckpointError(place.string() + ": its run_state.json has no identity of the run");
    FaultList faults;
    for (const auto& [key, message] : kFacts) {
        const Json& now = identity.at(key);
        const Json before = saved.value(key, now);
        if (before == now) continue;
        faults.add(key, std::string(message) + " (" + before.dump() + " then, " + now.dump() + " now)");
    }
    const Json before_threads = saved.value("threads", Json()), &threads = identity.at("threads");
    if (!before_threads.is_null() && !threads.is_null() && before_threads != threads) {
        faults.add("threads",
                   "the number of threads has changed, which changes the order of sums in this compute dtype "
                   "or on this processor (" +
                       before_threads.dump() + " then, " + threads.dump() + " now): set model.threads to " +
                       before_threads.dump());
    }
    RunConfig before = parse_run_config(saved.value("config", Json()), place, place.string());
    if (saved.value("eval_data", Json()) != identity.at("eval_data")) {
        if (before.data.eval_part() != nullptr && before.data.eval == config.data.eval) {
            faults.add("data.eval", "other rows are held out of the training files, so others are trained");
        } else if (before.data.eval_part() == nullptr && config.data.eval_part() == nullptr) {
            spdlog::warn(
                "the held-out data have changed: losses from before and after {} are not of the same rows",
                place.string());
        }
    }
    auto& dtype = before.quantization.bnb_4bit_compute_dtype;
    // An earlier version did not save what it came to.
    if (dtype == quant::ComputeDtype::kAuto) dtype = config.quantization.bnb_4bit_compute_dtype;
    for (const std::string& difference : resume_differences(before, config)) faults.add("", difference);
    faults.throw_if_any<ConfigError>("--resume: " + place.string() + " cannot go on");
}

}  // namespace qlora::cli
