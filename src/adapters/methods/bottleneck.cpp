#include "bottleneck.h"

#include "../adapter_hub.h"
#include "../bottleneck_layer.h"
#include "qlora/core/log.h"

namespace qlora::adapters {
namespace {

Plan plan_bottleneck(const PeftConfig& given, const models::DecoderSpec& decoder) {
    BottleneckConfig config = completed(std::get<BottleneckConfig>(given));
    config.hidden_size = decoder.hidden_size;
    config.model_type = decoder.model_type;
    config.model_class = decoder.model_class;
    const std::int64_t width = bottleneck_width(config, decoder.hidden_size);
    Plan plan;
    std::map<std::string, std::int64_t> kinds;
    for (const BottleneckPlace& place : bottleneck_places(config, decoder)) {
        for (const BottleneckTensor& tensor : bottleneck_tensors(decoder.hidden_size, width)) {
            const bool is_zero =
                *config.init_weights == BottleneckInit::kMamAdapter && tensor.name == BottleneckTensor::kUp;
            plan.trained.push_back({.key = adapter_hub::key_of(place.module, tensor.name),
                                    .module = place.module,
                                    .name = tensor.name,
                                    .shape = tensor.sizes,
                                    .decays = tensor.sizes.size() == 2,
                                    .leaves_zero = is_zero});
        }
        plan.targets.push_back({.path = place.module});
        ++kinds[place.module.substr(place.module.rfind('.') + 1)];
        // Its inner values and, unless a norm reads it too, what it reads.
        const bool reads_stream = place.reads == models::Bottleneck::Reads::kStream;
        plan.kept_of_attention += width + (reads_stream ? 0 : decoder.hidden_size);
    }
    for (const auto& [kind, count] : kinds) {
        plan.text.push_back(fmt::format("{} x {} ({}, width {}, {}, scaling {:g})", count, kind,
                                        enum_name(config.config), width, enum_name(*config.non_linearity),
                                        config.scaling->value));
    }
    if (!adapter_hub::knows(decoder.model_type)) {
        plan.warnings.push_back("AdapterHub's adapters 1.3.0 has no interface for " + decoder.model_type +
                                ": it loads this adapter only with an AdapterModelInterface of yours");
    }
    plan.saved = plan.trained;
    plan.config = config;
    return plan;
}

std::unique_ptr<Adapter> attach_bottleneck(models::CausalLM& model, Plan& plan,
                                           const InjectOptions& options) {
    const auto& config = std::get<BottleneckConfig>(plan.config);
    const models::DecoderSpec& decoder = model.spec();
    models::Hooks hooks;
    for (const models::spec::Layer& layer : decoder.layers)
        hooks.bottlenecks.emplace_back(layer.branches.size());
    std::vector<nn::Parameter> parameters;
    std::uint32_t index = 0;
    for (const BottleneckPlace& place : bottleneck_places(config, decoder)) {
        const auto layer = std::make_shared<BottleneckLayer>(config, decoder.hidden_size, place.reads,
                                                             options.seed, index++);
        for (const at::Tensor& tensor : layer->tensors()) {
            const TrainedTensor& planned = plan.trained[parameters.size()];
            parameters.push_back({planned.key, tensor, planned.decays});
        }
        hooks.bottlenecks[place.layer][place.branch] = layer;
    }
    model.set_hooks(std::move(hooks));
    return std::make_unique<TrainedTensors>(std::move(parameters));
}

std::vector<SmallerSetting> smaller_bottleneck(const PeftConfig& given, const models::DecoderSpec& decoder) {
    BottleneckConfig config = completed(std::get<BottleneckConfig>(given));
    if (bottleneck_width(config, decoder.hidden_size) < 2) return {};
    config.reduction_factor->value *= 2;
    return {{fmt::format("peft.reduction_factor: {:g}", config.reduction_factor->value), config}};
}

}  // namespace

const Method kBottleneck = {
    .type = PeftType::kBottleneck,
    .plan = plan_bottleneck,
    .attach = attach_bottleneck,
    .merge = nullptr,
    .why_not = "BOTTLENECK adds networks with an activation between their linears, which no weight can hold",
    .finished = nullptr,
    .smaller = smaller_bottleneck};

}  // namespace qlora::adapters
