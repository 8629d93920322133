#include "qlora/adapters/inject.h"

#include <algorithm>
#include <map>
#include <set>

#include "expert_lora.h"
#include "qlora/adapters/lora.h"
#include "qlora/adapters/trained_tensors.h"
#include "qlora/core/error.h"
#include "target_parameters.h"

namespace qlora::adapters {
namespace {

constexpr const char* kColumnsStay =
    "training a weight that is stored in columns (Conv1D) whole is not built yet; adapt it through "
    "target_modules";
constexpr const char* kParametersStay =
    "training experts or a router whole is not built yet; adapt them through target_parameters";
constexpr const char* kBiasStays = "training an output head that has a bias whole is not built yet";

/// The modules of a model by path.
struct Modules {
    explicit Modules(models::CausalLM& model) {
        for (nn::Linear* linear : model.linears()) linears[linear->path()] = linear;
        for (nn::Norm* norm : model.norms()) norms[norm->path()] = norm;
    }

    std::map<std::string, nn::Linear*> linears;
    std::map<std::string, nn::Norm*> norms;
    /// A and B of each adapted module or parameter.
    std::map<std::string, std::pair<at::Tensor, at::Tensor>> adapters;
};

/// Returns its A and B.
std::pair<at::Tensor, at::Tensor> add_adapter(nn::Linear& linear, const Target& target, double dropout,
                                              std::uint32_t site, InitLoraWeights start, std::uint64_t seed) {
    auto layer = std::make_unique<LoraLayer>(linear.in_features(), linear.out_features(), target.r,
                                             target.scaling, dropout, site);
    layer->initialize(start, seed);
    const std::pair<at::Tensor, at::Tensor> matrices = {layer->a(), layer->b()};
    linear.set_adapter(std::move(layer));
    return matrices;
}

void set_adapters(models::CausalLM& model, const MatchResult& match, std::uint64_t seed, Modules& modules) {
    const LoraConfig& config = match.expanded;
    std::map<std::string, const Target*> by_path;
    for (const Target& target : match.targets) by_path[target.path] = &target;
    std::map<std::string, std::uint32_t> sites;
    for (nn::Linear* linear : model.linears()) {
        const auto here = static_cast<std::uint32_t>(sites.size());
        sites[linear->path()] = here;
        const auto found = by_path.find(linear->path());
        if (found == by_path.end()) continue;
        modules.adapters[linear->path()] =
            add_adapter(*linear, *found->second, config.lora_dropout, here, config.init_lora_weights, seed);
    }
    for (const RawParameter& parameter : raw_parameters(model.spec())) {
        const auto found = by_path.find(parameter.info.path);
        if (found == by_path.end()) continue;
        const ParameterInfo& info = parameter.info;
        const std::uint32_t here = sites.at(parameter.parts.front().linear->path);
        if (info.experts == 1) {
            nn::Linear* linear = modules.linears.at(parameter.parts.front().linear->path);
            modules.adapters[info.path] =
                add_adapter(*linear, *found->second, 0.0, here, config.init_lora_weights, seed);
            continue;
        }
        auto all = std::make_shared<ExpertLora>(info.experts, info.in_features, info.out_features,
                                                found->second->r, found->second->scaling);
        all->initialize(config.init_lora_weights, seed, here);
        modules.adapters[info.path] = {all->a(), all->b()};
        for (const ParameterPart& part : parameter.parts) {
            modules.linears.at(part.linear->path)
                ->set_adapter(
                    std::make_unique<ExpertLoraPart>(all, part.expert, part.first_row, part.linear->out));
        }
    }
}

void train_whole_module(models::CausalLM& model, const std::string& path, const Modules& modules) {
    if (path == model.spec().embedding) return model.train_embedding();
    if (path == model.spec().head.path) return model.train_head();
    const auto norm = modules.norms.find(path);
    if (norm != modules.norms.end()) return norm->second->train_whole_module();
    modules.linears.at(path)->train_whole_module();
}

at::Tensor whole_weight(const models::CausalLM& model, const std::string& path, const Modules& modules) {
    if (path == model.spec().embedding) return model.trained_embedding();
    if (path == model.spec().head.path) return model.trained_head();
    const auto norm = modules.norms.find(path);
    return norm != modules.norms.end() ? norm->second->weight() : modules.linears.at(path)->trained_weight();
}

/// Makes the tensor a parameter, unless its module's other part did so already.
at::Tensor make_trainable(models::CausalLM& model, const TrainedTensor& tensor, const Modules& modules) {
    switch (tensor.part) {
        case TrainedPart::kLoraA:
            return modules.adapters.at(tensor.module).first;
        case TrainedPart::kLoraB:
            return modules.adapters.at(tensor.module).second;
        case TrainedPart::kWeight:
            train_whole_module(model, tensor.module, modules);
            return whole_weight(model, tensor.module, modules);
        case TrainedPart::kBias: {
            const auto norm = modules.norms.find(tensor.module);
            if (norm != modules.norms.end()) {
                norm->second->train_bias();
                return norm->second->bias();
            }
            nn::Linear& linear = *modules.linears.at(tensor.module);
            if (!linear.trains_whole_module()) linear.train_bias();
            return linear.bias();
        }
    }
    throw Error(ExitCode::kInternal, tensor.key + ": unknown part of a module");
}

/// As PEFT sets it by what it wraps: bitsandbytes' matrices are never in columns.
bool has_dense_columns(models::CausalLM& model, const std::vector<Target>& targets) {
    std::set<std::string> dense;
    for (const nn::Linear* linear : model.linears()) {
        if (!linear->weight().is_quantized()) dense.insert(linear->path());
    }
    std::set<std::string> in_columns;
    for (const models::spec::Linear* linear : model.spec().linears()) {
        if (linear->stored_in_columns && dense.contains(linear->path)) in_columns.insert(linear->path);
    }
    return std::any_of(targets.begin(), targets.end(),
                       [&](const Target& target) { return in_columns.contains(target.path); });
}

}  // namespace

std::int64_t Adaptation::trainable_elements() const {
    std::int64_t total = 0;
    for (const nn::TrainableParameter& parameter : parameters) total += parameter.tensor.numel();
    return total;
}

AdaptableModel adaptable_model(const models::DecoderSpec& decoder) {
    AdaptableModel model{.model_type = decoder.model_type,
                         .modules = {},
                         .default_targets = decoder.lora_targets,
                         .is_part = !decoder.foreign.empty()};
    std::vector<ModuleInfo>& out = model.modules;
    std::vector<const models::spec::Linear*> linears = decoder.linears();
    std::erase_if(linears, [](const models::spec::Linear* linear) {
        return linear->kind != models::spec::MatrixKind::kLinear;
    });
    std::set<std::string> containers;
    for (RawParameter& parameter : raw_parameters(decoder)) {
        if (containers.insert(parameter.module).second)
            out.push_back({.path = parameter.module, .not_whole = kParametersStay});
        model.parameters.push_back(std::move(parameter.info));
    }
    model.former_linears = former_linears(decoder);
    for (const models::spec::Linear* linear : linears) {
        for (std::size_t dot = linear->path.find('.'); dot != std::string::npos;
             dot = linear->path.find('.', dot + 1)) {
            const std::string container = linear->path.substr(0, dot);
            if (containers.insert(container).second) out.push_back({.path = container});
        }
    }
    out.push_back({.path = decoder.embedding,
                   .is_embedding = true,
                   .in_features = decoder.vocab_size,
                   .out_features = decoder.hidden_size});
    if (!decoder.positions.empty()) {
        out.push_back({.path = decoder.positions,
                       .is_embedding = true,
                       .in_features = decoder.max_position_embeddings,
                       .out_features = decoder.hidden_size,
                       .not_whole = "training learned positions is not built yet"});
    }
    for (const models::spec::Linear* linear : linears) {
        out.push_back({.path = linear->path,
                       .is_linear = true,
                       .in_features = linear->in,
                       .out_features = linear->out,
                       .not_whole = linear->stored_in_columns ? kColumnsStay : ""});
    }
    for (const models::spec::Norm* norm : decoder.norms()) {
        if (norm->apart) continue;  // a module a head
        out.push_back(
            {.path = norm->path, .is_norm = true, .in_features = norm->size, .out_features = norm->size});
    }
    out.push_back({.path = decoder.head.path,
                   .is_linear = true,
                   .is_output_embedding = true,
                   .in_features = decoder.head.in,
                   .out_features = decoder.head.out,
                   .not_whole = decoder.head.bias ? kBiasStays : ""});
    return model;
}

Adaptation inject(models::CausalLM& model, const LoraConfig& config, std::uint64_t seed) {
    MatchResult match = match_targets(config, adaptable_model(model.spec()));
    const std::vector<TrainedTensor> trained = trained_tensors(match, model.spec());
    Modules modules(model);
    set_adapters(model, match, seed, modules);
    Adaptation adaptation{.config = std::move(match.expanded),
                          .targets = std::move(match.targets),
                          .modules_to_save = std::move(match.modules_to_save),
                          .parameters = {},
                          .warnings = std::move(match.warnings)};
    adaptation.config.fan_in_fan_out = has_dense_columns(model, adaptation.targets);
    for (const TrainedTensor& tensor : trained) {
        adaptation.parameters.push_back({tensor.key, make_trainable(model, tensor, modules), tensor.decays});
    }
    return adaptation;
}

}  // namespace qlora::adapters
