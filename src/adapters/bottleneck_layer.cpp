#include "bottleneck_layer.h"

#include <ATen/ops/zeros.h>
#include <algorithm>
#include <cmath>

#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/kernels/philox.h"
#include "qlora/nn/move.h"
#include "qlora/ops/bottleneck.h"

namespace qlora::adapters {
namespace {

using Reads = models::Bottleneck::Reads;

/// Streams and dropout sites that no other method's tensors have.
constexpr std::uint64_t kFirstBottleneckStream = std::uint64_t{3} << 32;
constexpr std::uint32_t kFirstBottleneckSite = std::uint32_t{1} << 30;

/// "model.layers.0" of "model.layers.0.mlp.down_proj".
std::string layer_of(const std::string& path) {
    for (std::size_t begin = 0; begin < path.size();) {
        const std::size_t end = std::min(path.find('.', begin), path.size());
        const bool is_number = std::all_of(path.begin() + static_cast<std::ptrdiff_t>(begin),
                                           path.begin() + static_cast<std::ptrdiff_t>(end),
                                           [](unsigned char c) { return c >= '0' && c <= '9'; });
        if (is_number && end > begin) return path.substr(0, end);
        begin = end + 1;
    }
    throw Error(ExitCode::kInternal, path + " is in no layer");
}

const models::spec::Attention* attention_of(const models::spec::Branch& branch) {
    return std::get_if<models::spec::Attention>(&branch.block);
}

/// Why the networks cannot stand in such a layer; empty where they can.
std::string layer_fault(BottleneckKind kind, const models::spec::Layer& layer,
                        const std::string& model_type) {
    const auto attentions = std::count_if(layer.branches.begin(), layer.branches.end(),
                                          [](const auto& branch) { return attention_of(branch); });
    const std::string name(enum_name(kind));
    if (layer.branches.size() != 2 || attentions != 1)
        return "BOTTLENECK is built for layers of one attention and one MLP, which those of " + model_type +
               " are not; choose LORA or IA3";
    const models::spec::Branch& mlp = layer.branches[attention_of(layer.branches[0]) == nullptr ? 0 : 1];
    if (layer.parallel && kind == BottleneckKind::kPar) {
        return name + " reads the stream between attention and MLP, and the layers of " + model_type +
               " run both on one input, where AdapterHub has none either; choose seq_bn or double_seq_bn";
    }
    if (kind != BottleneckKind::kSeq && std::holds_alternative<models::spec::Experts>(mlp.block)) {
        return name + " needs the MLP's output by itself, and the experts of " + model_type +
               " add theirs to the stream at once; choose seq_bn";
    }
    if (kind != BottleneckKind::kSeq || layer.parallel || (!mlp.post && mlp.multiplier == 1.0)) return "";
    return name + " reads the residual stream with the MLP's output, and " + model_type +
           (mlp.post ? " norms" : " scales") +
           " that output before it joins the stream, where AdapterHub has no such reading either; choose "
           "double_seq_bn or par_bn";
}

/// Beside attention there is no stream behind the MLP alone: AdapterHub then reads its output.
Reads reads_of(BottleneckKind kind, const models::spec::Layer& layer) {
    const BottleneckPlaces places = places_of(kind);
    if (places.is_parallel) return Reads::kStream;
    return places.original_ln_before && !layer.parallel ? Reads::kSum : Reads::kOutput;
}

ops::BottleneckActivation activation_of(NonLinearity non_linearity) {
    switch (non_linearity) {
        case NonLinearity::kRelu:
            return ops::BottleneckActivation::kRelu;
        case NonLinearity::kSwish:
            return ops::BottleneckActivation::kSilu;
        case NonLinearity::kGelu:
            return ops::BottleneckActivation::kGelu;
        case NonLinearity::kGeluNew:
            return ops::BottleneckActivation::kGeluTanh;
        case NonLinearity::kTanh:
            return ops::BottleneckActivation::kTanh;
    }
    throw Error(ExitCode::kInternal, "an activation without a function");
}

void draw(at::Tensor& weight, BottleneckInit init, bool is_down, kernels::PhiloxStream stream) {
    if (init == BottleneckInit::kMamAdapter && !is_down) return;
    const float bound = 1.0F / std::sqrt(static_cast<float>(weight.size(1)));
    const auto next = [&]() -> float {
        if (init == BottleneckInit::kMamAdapter) return (2.0F * stream.uniform() - 1.0F) * bound;
        float normal = stream.normal();
        if (init == BottleneckInit::kBert) return 0.02F * normal;
        while (std::abs(normal) > 2.0F) normal = stream.normal();
        return 0.01F * normal;
    };
    float* data = weight.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < weight.numel(); ++i) data[i] = next();
}

}  // namespace

std::vector<BottleneckPlace> bottleneck_places(const BottleneckConfig& config,
                                               const models::DecoderSpec& decoder) {
    FaultList faults;
    const auto layers = static_cast<std::int64_t>(decoder.layers.size());
    const auto leaves_out = [&](std::int64_t layer) {
        return std::find(config.leave_out.begin(), config.leave_out.end(), layer) != config.leave_out.end();
    };
    for (const std::int64_t layer : config.leave_out) {
        if (layer < layers) continue;
        faults.add("leave_out", fmt::format("names layer {}, and the last one is {}", layer, layers - 1));
    }
    const BottleneckPlaces kinds = places_of(config.config);
    std::vector<BottleneckPlace> out;
    std::string reason;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
        if (leaves_out(layer)) continue;
        const models::spec::Layer& described = decoder.layers[static_cast<std::size_t>(layer)];
        if (reason.empty()) reason = layer_fault(config.config, described, decoder.model_type);
        for (std::size_t branch = 0; branch < described.branches.size(); ++branch) {
            const auto* attention = attention_of(described.branches[branch]);
            if (attention != nullptr && !kinds.mh_adapter) continue;
            std::string path;
            models::spec::for_each_linear(described.branches[branch].block,
                                          [&](const models::spec::Linear& linear) { path = linear.path; });
            out.push_back({.layer = static_cast<std::size_t>(layer),
                           .branch = branch,
                           .module = layer_of(path) +
                                     (attention != nullptr ? ".attention_adapters" : ".output_adapters"),
                           .reads = reads_of(config.config, described)});
        }
    }
    if (!reason.empty()) faults.add("config", reason);
    if (out.empty()) faults.add("leave_out", "names all layers, so nothing would train");
    faults.throw_if_any<ConfigError>("the peft section does not fit the model");
    return out;
}

std::int64_t bottleneck_width(const BottleneckConfig& config, std::int64_t hidden_size) {
    // Python's floor division, which a rounded quotient could miss by one.
    const double factor = config.reduction_factor->value, size = static_cast<double>(hidden_size);
    const double quotient = std::round((size - std::fmod(size, factor)) / factor);
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(quotient));
}

std::vector<BottleneckTensor> bottleneck_tensors(std::int64_t hidden_size, std::int64_t width) {
    return {{BottleneckTensor::kDown, {width, hidden_size}},
            {"adapter_down.0.bias", {width}},
            {BottleneckTensor::kUp, {hidden_size, width}},
            {"adapter_up.bias", {hidden_size}}};
}

BottleneckLayer::BottleneckLayer(const BottleneckConfig& config, std::int64_t hidden_size, Reads reads,
                                 std::uint64_t seed, std::uint32_t index)
    : non_linearity_(*config.non_linearity),
      scaling_(config.scaling->value),
      dropout_(config.dropout),
      reads_(reads),
      index_(index) {
    const std::int64_t width = bottleneck_width(config, hidden_size);
    for (const BottleneckTensor& described : bottleneck_tensors(hidden_size, width)) {
        at::Tensor values = at::zeros(described.sizes, at::kFloat);
        const bool is_down = described.name == BottleneckTensor::kDown;
        if (described.sizes.size() == 2) {
            draw(values, *config.init_weights, is_down,
                 kernels::PhiloxStream(seed, kFirstBottleneckStream + 2 * index + (is_down ? 0 : 1)));
        }
        tensors_.push_back(values.requires_grad_());
    }
}

at::Tensor BottleneckLayer::added_to(const at::Tensor& start, const at::Tensor& x,
                                     const nn::ForwardContext& context) const {
    const ops::BottleneckRule rule{.activation = activation_of(non_linearity_),
                                   .scaling = scaling_,
                                   .dropout = {.p = context.training ? dropout_ : 0.0,
                                               .seed = context.seed,
                                               .step = context.micro_step,
                                               .site = kFirstBottleneckSite + index_}};
    return ops::bottleneck(
        start, x, {.down = tensors_[0], .down_bias = tensors_[1], .up = tensors_[2], .up_bias = tensors_[3]},
        rule);
}

void BottleneckLayer::to(at::Device device) {
    for (at::Tensor& tensor : tensors_) nn::move_to(tensor, device);
}

}  // namespace qlora::adapters
