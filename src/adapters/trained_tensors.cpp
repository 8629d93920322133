#include "qlora/adapters/trained_tensors.h"

#include <algorithm>
#include <map>
#include <set>

#include "qlora/adapters/lora.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "target_parameters.h"

namespace qlora::adapters {
namespace {

constexpr const char* kWeight = "weight";
constexpr const char* kBias = "bias";
/// PEFT wraps an adapted layer, so its own bias moves one level down.
constexpr const char* kWrappedBias = "base_layer.bias";

TrainedTensor make(const std::string& module, const char* suffix, TrainedPart part,
                   std::vector<std::int64_t> shape, bool decays = true) {
    return {peft_key(module, suffix), module, part, std::move(shape), decays};
}

}  // namespace

std::vector<TrainedTensor> trained_tensors(const MatchResult& match, const models::DecoderSpec& decoder) {
    const std::set<std::string> whole(match.modules_to_save.begin(), match.modules_to_save.end());
    std::map<std::string, const Target*> adapted;
    for (const Target& target : match.targets) adapted[target.path] = &target;

    std::vector<TrainedTensor> out;
    for (const models::spec::Linear* linear : decoder.linears()) {
        const auto found = adapted.find(linear->path);
        if (found == adapted.end()) continue;
        const std::int64_t r = found->second->r;
        out.push_back(make(linear->path, LoraLayer::kA, TrainedPart::kLoraA, {r, linear->in}));
        out.push_back(make(linear->path, LoraLayer::kB, TrainedPart::kLoraB, {linear->out, r}));
    }

    for (const RawParameter& parameter : raw_parameters(decoder)) {
        const auto found = adapted.find(parameter.info.path);
        if (found == adapted.end()) continue;
        const std::int64_t r = found->second->r;
        // PEFT wraps the module once for each of its parameters.
        const bool is_wrapped = !parameter.outer.empty() && adapted.contains(parameter.outer);
        const std::string wrapper = parameter.module + (is_wrapped ? ".base_layer" : "");
        out.push_back({peft_key(wrapper, LoraLayer::kA), parameter.info.path, TrainedPart::kLoraA,
                       parameter.a_shape(r)});
        out.push_back({peft_key(wrapper, LoraLayer::kB), parameter.info.path, TrainedPart::kLoraB,
                       parameter.b_shape(r)});
    }

    const std::vector<std::int64_t> table{decoder.vocab_size, decoder.hidden_size};
    if (whole.contains(decoder.embedding)) {
        out.push_back(make(decoder.embedding, kWeight, TrainedPart::kWeight, table));
    }
    for (const models::spec::Linear* linear : decoder.linears()) {
        if (!whole.contains(linear->path)) continue;
        out.push_back(make(linear->path, kWeight, TrainedPart::kWeight, {linear->out, linear->in}));
        if (!linear->bias) continue;
        out.push_back(make(linear->path, kBias, TrainedPart::kBias, {linear->out}, false));
    }
    for (const models::spec::Norm* norm : decoder.norms()) {
        if (!whole.contains(norm->path)) continue;
        out.push_back(make(norm->path, kWeight, TrainedPart::kWeight, norm->shape(), false));
        if (!norm->bias) continue;
        out.push_back(make(norm->path, kBias, TrainedPart::kBias, {norm->size}, false));
    }
    if (whole.contains(decoder.head.path)) {
        out.push_back(make(decoder.head.path, kWeight, TrainedPart::kWeight, table));
    }

    const BiasTraining bias = match.expanded.bias;
    for (const models::spec::Linear* linear : decoder.linears()) {
        const bool has_adapter = adapted.contains(linear->path);
        if (bias == BiasTraining::kNone || !linear->bias || whole.contains(linear->path)) continue;
        if (bias == BiasTraining::kLoraOnly && !has_adapter) continue;
        out.push_back(
            make(linear->path, has_adapter ? kWrappedBias : kBias, TrainedPart::kBias, {linear->out}, false));
    }
    if (bias != BiasTraining::kAll) return out;
    for (const models::spec::Norm* norm : decoder.norms()) {
        if (!norm->bias || whole.contains(norm->path)) continue;
        out.push_back(make(norm->path, kBias, TrainedPart::kBias, {norm->size}, false));
    }
    if (decoder.head.bias) {
        throw ConfigError("bias: \"all\" would train " + decoder.head.path +
                          ".bias too, which is not built yet; use lora_only or none");
    }
    return out;
}

std::int64_t trained_elements(const std::vector<TrainedTensor>& tensors) {
    std::int64_t total = 0;
    for (const TrainedTensor& tensor : tensors) {
        std::int64_t elements = 1;
        for (const std::int64_t size : tensor.shape) elements *= size;
        total += elements;
    }
    return total;
}

}  // namespace qlora::adapters
