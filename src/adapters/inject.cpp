#include "qlora/adapters/inject.h"

#include <algorithm>
#include <map>

#include "qlora/adapters/lora.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"

namespace qlora::adapters {
namespace {

bool contains(const std::vector<std::string>& list, const std::string& value) {
    return std::find(list.begin(), list.end(), value) != list.end();
}

/// Trains whole modules; what is left in `rest` afterwards names something that cannot be.
void train_whole_modules(models::CausalLM& model, Adaptation& adaptation) {
    std::vector<TrainableParameter>& out = adaptation.parameters;
    const std::vector<std::string>& wanted = adaptation.modules_to_save;
    if (contains(wanted, models::CausalLM::kEmbeddingPath)) {
        model.train_embedding();
        out.push_back({peft_key(models::CausalLM::kEmbeddingPath, "weight"), model.trained_embedding()});
    }
    for (nn::Linear* linear : model.linears()) {
        if (!contains(wanted, linear->path())) continue;
        linear->train_whole_module();
        out.push_back({peft_key(linear->path(), "weight"), linear->trained_weight()});
        if (linear->has_bias()) out.push_back({peft_key(linear->path(), "bias"), linear->bias(), false});
    }
    for (nn::RmsNorm* norm : model.norms()) {
        if (!contains(wanted, norm->path())) continue;
        norm->train_whole_module();
        out.push_back({peft_key(norm->path(), "weight"), norm->weight(), false});
    }
    if (contains(wanted, models::CausalLM::kHeadPath)) {
        model.train_head();
        out.push_back({peft_key(models::CausalLM::kHeadPath, "weight"), model.trained_head()});
    }
}

void train_biases(models::CausalLM& model, Adaptation& adaptation) {
    if (adaptation.config.bias == BiasTraining::kNone) return;
    for (nn::Linear* linear : model.linears()) {
        const bool adapted = linear->adapter() != nullptr;
        if (!linear->has_bias() || linear->trains_whole_module()) continue;
        if (adaptation.config.bias == BiasTraining::kLoraOnly && !adapted) continue;
        linear->train_bias();
        // PEFT wraps an adapted layer, so its own bias moves one level down.
        adaptation.parameters.push_back(
            {peft_key(linear->path(), adapted ? "base_layer.bias" : "bias"), linear->bias(), false});
    }
}

}  // namespace

std::int64_t Adaptation::trainable_elements() const {
    std::int64_t total = 0;
    for (const TrainableParameter& parameter : parameters) total += parameter.tensor.numel();
    return total;
}

std::vector<ModuleInfo> module_infos(const models::ModelConfig& config) {
    // An empty model costs nothing: its weights are undefined.
    models::CausalLM model(config, at::kFloat);
    std::vector<ModuleInfo> out;
    for (const char* container : {"model", "model.layers"}) out.push_back({.path = container});
    for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
        const std::string layer = "model.layers." + std::to_string(i);
        for (const char* rest : {"", ".self_attn", ".mlp"}) out.push_back({.path = layer + rest});
    }
    out.push_back({.path = models::CausalLM::kEmbeddingPath,
                   .is_embedding = true,
                   .in_features = config.vocab_size,
                   .out_features = config.hidden_size});
    for (const nn::Linear* linear : model.linears()) {
        out.push_back({.path = linear->path(),
                       .is_linear = true,
                       .in_features = linear->in_features(),
                       .out_features = linear->out_features()});
    }
    for (const nn::RmsNorm* norm : model.norms()) {
        out.push_back({.path = norm->path(), .is_norm = true, .in_features = norm->size(), .out_features = norm->size()});
    }
    out.push_back({.path = models::CausalLM::kHeadPath,
                   .is_linear = true,
                   .is_output_embedding = true,
                   .in_features = config.hidden_size,
                   .out_features = config.vocab_size});
    return out;
}

Adaptation inject(models::CausalLM& model, const LoraConfig& config, std::uint64_t seed) {
    MatchResult match = match_targets(config, module_infos(model.config()), model.config().model_type);
    Adaptation adaptation{.config = std::move(match.expanded),
                          .targets = std::move(match.targets),
                          .modules_to_save = std::move(match.modules_to_save),
                          .parameters = {},
                          .warnings = std::move(match.warnings)};
    std::map<std::string, const Target*> by_path;
    for (const Target& target : adaptation.targets) by_path[target.path] = &target;
    std::uint32_t site = 0;
    for (nn::Linear* linear : model.linears()) {
        const std::uint32_t here = site++;
        const auto found = by_path.find(linear->path());
        if (found == by_path.end()) continue;
        auto layer = std::make_unique<LoraLayer>(linear->in_features(), linear->out_features(), found->second->r,
                                                 found->second->scaling, config.lora_dropout, here);
        layer->initialize(config.init_lora_weights, seed);
        for (auto& [suffix, tensor] : layer->parameters()) {
            adaptation.parameters.push_back({peft_key(linear->path(), suffix), tensor});
        }
        linear->set_adapter(std::move(layer));
    }
    train_whole_modules(model, adaptation);
    train_biases(model, adaptation);
    return adaptation;
}

}  // namespace qlora::adapters
