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

std::map<std::string, at::Tensor> add_adapter(nn::Linear& linear, const Target& target,
                                              const LoraConfig& config, double dropout, std::uint32_t site,
                                              std::uint64_t seed) {
    const LoraExtras extras{.bias = config.lora_bias,
                            .dora_base = config.use_dora ? &linear.weight() : nullptr};
    auto layer = std::make_unique<LoraLayer>(linear.in_features(), linear.out_features(), target.r,
                                             target.scaling, dropout, site, extras);
    layer->initialize(config.init_lora_weights, seed);
    std::map<std::string, at::Tensor> tensors;
    for (auto& [name, tensor] : layer->parameters()) tensors[name] = tensor;
    linear.set_adapter(std::move(layer));
    return tensors;
}

LoraTensors set_adapters(models::CausalLM& model, const Plan& plan, std::uint64_t seed,
                         const BaseModules& modules) {
    const auto& config = std::get<LoraConfig>(plan.config);
    LoraTensors tensors;
    std::map<std::string, const Target*> by_path;
    for (const Target& target : plan.targets) by_path[target.path] = &target;
    std::map<std::string, std::uint32_t> sites;
    for (nn::Linear* linear : model.linears()) {
        const auto here = static_cast<std::uint32_t>(sites.size());
        sites[linear->path()] = here;
        const auto found = by_path.find(linear->path());
        if (found == by_path.end()) continue;
        tensors[linear->path()] =
            add_adapter(*linear, *found->second, config, config.lora_dropout, here, seed);
    }
    for (const RawParameter& parameter : raw_parameters(model.spec())) {
        const auto found = by_path.find(parameter.info.path);
        if (found == by_path.end()) continue;
        const ParameterInfo& info = parameter.info;
        const std::uint32_t here = sites.at(parameter.parts.front().linear->path);
        if (info.experts == 1) {
            nn::Linear& linear = modules.linear(parameter.parts.front().linear->path);
            tensors[info.path] = add_adapter(linear, *found->second, config, 0.0, here, seed);
            continue;
        }
        auto all = std::make_shared<ExpertLora>(info.experts, info.in_features, info.out_features,
                                                found->second->r, found->second->scaling);
        all->initialize(config.init_lora_weights, seed, here);
        tensors[info.path] = {{LoraLayer::kA, all->a()}, {LoraLayer::kB, all->b()}};
        for (const ParameterPart& part : parameter.parts) {
            modules.linear(part.linear->path)
                .set_adapter(
                    std::make_unique<ExpertLoraPart>(all, part.expert, part.first_row, part.linear->out));
        }
    }
    return tensors;
}

std::unique_ptr<Adapter> attach_lora(models::CausalLM& model, Plan& plan, const InjectOptions& options) {
    BaseModules modules(model);
    LoraTensors tensors = set_adapters(model, plan, options.seed, modules);
    attach_tables(model, plan, options, tensors);
    // PEFT sets it by the last module that it wraps, and a head is never in columns.
    const bool ends_in_columns = plan.targets.empty() || !plan.targets.back().is_head;
    std::get<LoraConfig>(plan.config).fan_in_fan_out =
        ends_in_columns && modules.any_dense_in_columns(plan.targets);
    std::vector<nn::Parameter> parameters;
    const bool is_shared = shares_tables(plan, options);
    for (const TrainedTensor& tensor : is_shared ? plan.trained : plan.saved) {
        const auto value = [&] {
            if (tensor.part != TrainedPart::kAdapter) return modules.train(tensor);
            return tensors.at(tensor.module).at(tensor.name);
        };
        parameters.push_back({tensor.key, value(), tensor.decays});
    }
    if (is_shared) return shared_tables_adapter(plan, std::move(parameters));
    return std::make_unique<TrainedTensors>(std::move(parameters));
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
