#include <algorithm>
#include <map>
#include <set>

#include "../base_tensors.h"
#include "../embedding_lora.h"
#include "../target_parameters.h"
#include "lora.h"
#include "qlora/adapters/lora.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora::adapters {
namespace {

/// PEFT wraps an adapted layer, so its own bias moves one level down.
constexpr const char* kWrappedBias = "base_layer.bias";

/// A and B of what stands at `place` in the file.
void add_matrices(std::vector<TrainedTensor>& out, const std::string& place, const std::string& module,
                  std::vector<std::int64_t> a, std::vector<std::int64_t> b) {
    out.push_back({.key = peft_key(place, LoraLayer::kA),
                   .module = module,
                   .name = LoraLayer::kA,
                   .shape = std::move(a)});
    out.push_back({.key = peft_key(place, LoraLayer::kB),
                   .module = module,
                   .name = LoraLayer::kB,
                   .shape = std::move(b),
                   .raised = true,
                   .leaves_zero = true});
}

void add_row(std::vector<TrainedTensor>& out, const models::spec::Linear& linear, const char* name,
             bool decays) {
    out.push_back({.key = peft_key(linear.path, name),
                   .module = linear.path,
                   .name = name,
                   .shape = {linear.out},
                   .decays = decays,
                   .raised = true});
}

void add_embedding(std::vector<TrainedTensor>& out, const models::DecoderSpec& decoder, std::int64_t r) {
    const auto add = [&](const char* name, std::vector<std::int64_t> shape, bool leaves_zero) {
        out.push_back({.key = peft_key(decoder.embedding, name),
                       .module = decoder.embedding,
                       .name = name,
                       .shape = std::move(shape),
                       .of_embedding = true,
                       .leaves_zero = leaves_zero});
    };
    add(kEmbeddingA, {r, decoder.vocab_size}, true);
    add(kEmbeddingB, {decoder.hidden_size, r}, false);
}

std::vector<TrainedTensor> head_matrices(const models::spec::Linear& head, std::int64_t r) {
    std::vector<TrainedTensor> out;
    add_matrices(out, head.path, head.path, {r, head.in}, {head.out, r});
    return out;
}

std::vector<TrainedTensor> trained_tensors(const MatchResult& match, const models::DecoderSpec& decoder) {
    const std::set<std::string> whole(match.modules_to_save.begin(), match.modules_to_save.end());
    std::map<std::string, const Target*> adapted;
    for (const Target& target : match.targets) adapted[target.path] = &target;

    std::vector<TrainedTensor> out;
    const auto embedding = adapted.find(decoder.embedding);
    if (embedding != adapted.end()) add_embedding(out, decoder, embedding->second->r);
    for (const models::spec::Linear* linear : decoder.linears()) {
        const auto found = adapted.find(linear->path);
        if (found == adapted.end()) continue;
        const std::int64_t r = found->second->r;
        add_matrices(out, linear->path, linear->path, {r, linear->in}, {linear->out, r});
        if (match.expanded.lora_bias) add_row(out, *linear, LoraLayer::kBias, false);
        if (match.expanded.use_dora) add_row(out, *linear, LoraLayer::kMagnitude, true);
    }

    for (const RawParameter& parameter : raw_parameters(decoder)) {
        const auto found = adapted.find(parameter.info.path);
        if (found == adapted.end()) continue;
        const std::int64_t r = found->second->r;
        // PEFT wraps the module once for each of its parameters.
        const bool is_wrapped = !parameter.outer.empty() && adapted.contains(parameter.outer);
        const std::string wrapper = parameter.module + (is_wrapped ? ".base_layer" : "");
        add_matrices(out, wrapper, parameter.info.path, parameter.a_shape(r), parameter.b_shape(r));
    }

    const auto head = adapted.find(decoder.head.path);
    if (head != adapted.end() && !match.shares_tables) {
        for (TrainedTensor& tensor : head_matrices(decoder.head, head->second->r))
            out.push_back(std::move(tensor));
        if (match.expanded.lora_bias) add_row(out, decoder.head, LoraLayer::kBias, false);
    }

    add_whole_modules(out, whole, decoder);

    const BiasTraining bias = match.expanded.bias;
    for (const models::spec::Linear* linear : decoder.linears()) {
        const bool has_adapter = adapted.contains(linear->path);
        if (bias == BiasTraining::kNone || !linear->bias || whole.contains(linear->path)) continue;
        if (bias == BiasTraining::kLoraOnly && !has_adapter) continue;
        out.push_back(base_bias(linear->path, linear->out, has_adapter ? kWrappedBias : kBias));
    }
    if (bias != BiasTraining::kAll) return out;
    for (const models::spec::Norm* norm : decoder.norms()) {
        if (!norm->bias || whole.contains(norm->path)) continue;
        out.push_back(base_bias(norm->path, norm->size));
    }
    if (decoder.head.bias) {
        throw ConfigError("bias: \"all\" would train " + decoder.head.path +
                          ".bias too, which is not built yet; use lora_only or none");
    }
    return out;
}

/// Adapted modules by kind.
std::vector<std::string> text_of(const MatchResult& match) {
    std::map<std::string, std::int64_t> kinds;
    for (const Target& target : match.targets) {
        // A router's parameter is its module's "weight".
        const std::size_t last = target.path.rfind('.');
        const bool is_weight = target.is_parameter && target.path.ends_with(".weight");
        const std::string kind =
            target.path.substr((is_weight ? target.path.rfind('.', last - 1) : last) + 1);
        const char* further = match.expanded.use_dora ? ", DoRA" : "";
        if (target.is_head && match.shares_tables) further = ", shares the embedding's matrices";
        ++kinds[fmt::format("{} (r {}, scaling {:g}{})", kind, target.r, target.scaling, further)];
    }
    std::vector<std::string> out;
    for (const auto& [kind, count] : kinds) out.push_back(fmt::format("{} x {}", count, kind));
    return out;
}

}  // namespace

Plan plan_lora(const PeftConfig& config, const models::DecoderSpec& decoder) {
    AdaptableModel model = adaptable_model(decoder);
    model.tables = true;
    MatchResult match = match_targets(std::get<LoraConfig>(config), model);
    const LoraConfig& expanded = match.expanded;
    const bool has_parameters = std::any_of(match.targets.begin(), match.targets.end(),
                                            [](const Target& target) { return target.is_parameter; });
    if (has_parameters && (expanded.use_dora || expanded.lora_bias)) {
        throw ConfigError(std::string(expanded.use_dora ? "use_dora" : "lora_bias") +
                          " cannot be combined with adapters on experts or routers, as in PEFT; name other "
                          "target_modules, or leave them out with exclude_modules");
    }
    Plan plan;
    plan.trained = plan.saved = trained_tensors(match, decoder);
    if (match.shares_tables) {
        const std::int64_t r = plan.trained.front().shape.front();
        for (TrainedTensor& tensor : head_matrices(decoder.head, r)) plan.saved.push_back(std::move(tensor));
    }
    plan.text = text_of(match);
    if (match.expanded.use_dora) {
        std::set<std::string> scaled;
        for (const Target& target : match.targets) scaled.insert(target.path);
        add_kept_products(plan, scaled, decoder);
    }
    plan.config = std::move(match.expanded);
    plan.targets = std::move(match.targets);
    plan.modules_to_save = std::move(match.modules_to_save);
    plan.warnings = std::move(match.warnings);
    return plan;
}

}  // namespace qlora::adapters
