#include "lora.h"

#include <algorithm>
#include <map>
#include <set>

#include "../base_modules.h"
#include "../expert_lora.h"
#include "../target_parameters.h"
#include "qlora/adapters/lora.h"

namespace qlora::adapters {
namespace {

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

/// A and B of each adapted module or parameter.
using Matrices = std::map<std::string, std::pair<at::Tensor, at::Tensor>>;

Matrices set_adapters(models::CausalLM& model, const Plan& plan, std::uint64_t seed,
                      const BaseModules& modules) {
    const auto& config = std::get<LoraConfig>(plan.config);
    Matrices matrices;
    std::map<std::string, const Target*> by_path;
    for (const Target& target : plan.targets) by_path[target.path] = &target;
    std::map<std::string, std::uint32_t> sites;
    for (nn::Linear* linear : model.linears()) {
        const auto here = static_cast<std::uint32_t>(sites.size());
        sites[linear->path()] = here;
        const auto found = by_path.find(linear->path());
        if (found == by_path.end()) continue;
        matrices[linear->path()] =
            add_adapter(*linear, *found->second, config.lora_dropout, here, config.init_lora_weights, seed);
    }
    for (const RawParameter& parameter : raw_parameters(model.spec())) {
        const auto found = by_path.find(parameter.info.path);
        if (found == by_path.end()) continue;
        const ParameterInfo& info = parameter.info;
        const std::uint32_t here = sites.at(parameter.parts.front().linear->path);
        if (info.experts == 1) {
            nn::Linear& linear = modules.linear(parameter.parts.front().linear->path);
            matrices[info.path] =
                add_adapter(linear, *found->second, 0.0, here, config.init_lora_weights, seed);
            continue;
        }
        auto all = std::make_shared<ExpertLora>(info.experts, info.in_features, info.out_features,
                                                found->second->r, found->second->scaling);
        all->initialize(config.init_lora_weights, seed, here);
        matrices[info.path] = {all->a(), all->b()};
        for (const ParameterPart& part : parameter.parts) {
            modules.linear(part.linear->path)
                .set_adapter(
                    std::make_unique<ExpertLoraPart>(all, part.expert, part.first_row, part.linear->out));
        }
    }
    return matrices;
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

class Lora final : public Adapter {
  public:
    explicit Lora(std::vector<nn::Parameter> parameters) : parameters_(std::move(parameters)) {}
    std::vector<nn::Parameter> parameters() const override { return parameters_; }

  private:
    std::vector<nn::Parameter> parameters_;
};

std::unique_ptr<Adapter> attach_lora(models::CausalLM& model, Plan& plan, std::uint64_t seed) {
    BaseModules modules(model);
    const Matrices matrices = set_adapters(model, plan, seed, modules);
    std::get<LoraConfig>(plan.config).fan_in_fan_out = has_dense_columns(model, plan.targets);
    std::vector<nn::Parameter> parameters;
    for (const TrainedTensor& tensor : plan.trained) {
        const auto value = [&] {
            if (tensor.part != TrainedPart::kAdapter) return modules.train(tensor);
            const auto& [a, b] = matrices.at(tensor.module);
            return tensor.name == LoraLayer::kA ? a : b;
        };
        parameters.push_back({tensor.key, value(), tensor.decays});
    }
    return std::make_unique<Lora>(std::move(parameters));
}

/// The names of the linears that queries and values come from; one name where one linear holds both.
NameList query_and_value(const models::DecoderSpec& model) {
    const auto name_of = [](const models::spec::Linear& linear) {
        return linear.path.substr(linear.path.rfind('.') + 1);
    };
    for (const models::spec::Layer& layer : model.layers) {
        for (const models::spec::Branch& branch : layer.branches) {
            const auto* attention = std::get_if<models::spec::Attention>(&branch.block);
            if (attention == nullptr) continue;
            NameList out = {name_of(attention->entry.front())};
            if (attention->entry.size() > 1) out.push_back(name_of(attention->entry.back()));
            return out;
        }
    }
    return {};
}

std::vector<SmallerSetting> smaller_lora(const PeftConfig& config, const models::DecoderSpec& decoder) {
    const auto& lora = std::get<LoraConfig>(config);
    std::vector<SmallerSetting> out;
    if (lora.r > 1) {
        LoraConfig smaller = lora;
        smaller.r /= 2;
        out.push_back({"peft.r: " + std::to_string(smaller.r), smaller});
    }
    LoraConfig fewer = lora;
    const NameList targets = query_and_value(decoder);
    fewer.target_modules = targets;
    std::string names;
    for (const std::string& name : targets) names += (names.empty() ? "" : ", ") + Json(name).dump();
    out.push_back({"peft.target_modules: [" + names + "]", fewer});
    return out;
}

}  // namespace

const Method kLora = {.type = PeftType::kLora,
                      .plan = plan_lora,
                      .attach = attach_lora,
                      .merge = merge_lora,
                      .why_not = {},
                      .finished = finished_lora,
                      .smaller = smaller_lora};

}  // namespace qlora::adapters
