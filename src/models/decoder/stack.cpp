#include "qlora/models/stack.h"

#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "layer.h"
#include "qlora/ops/recompute.h"
#include "rotary_embedding.h"

namespace qlora::models {
namespace {

std::vector<std::unique_ptr<RotaryEmbedding>> make_ropes(const DecoderSpec& decoder, at::ScalarType dtype) {
    std::vector<std::unique_ptr<RotaryEmbedding>> out(decoder.ropes.size());
    for (const std::size_t place : decoder.used_ropes())
        out.at(place) = std::make_unique<RotaryEmbedding>(decoder.ropes[place], dtype);
    return out;
}

}  // namespace

Stack::Stack(const DecoderSpec& decoder, at::ScalarType compute_dtype)
    : ropes_(make_ropes(decoder, compute_dtype)), norm_(make_norm(decoder.final_norm)) {
    for (const spec::Layer& layer : decoder.layers) layers_.push_back(std::make_unique<Layer>(layer));
}

Stack::~Stack() = default;

at::Tensor Stack::forward(at::Tensor hidden, const TokenBatch& batch, const nn::ForwardContext& context,
                          const at::Tensor& rows, std::span<KvCache* const> caches,
                          std::span<const at::Tensor> prefix) const {
    const bool recomputes = context.recomputation == nn::Recomputation::kLayers && at::GradMode::is_enabled();
    // A layer that runs again has no parameters among its arguments: without this it would get no backward
    // pass.
    if (recomputes && !hidden.requires_grad()) hidden.requires_grad_();
    LayerPass pass{.context = context,
                   .ropes = {},
                   .offsets = ops::SequenceOffsets(batch.offsets),
                   .rows = {},
                   .caches = caches};
    pass.offsets.device = batch.device_offsets;
    const std::int64_t before = prefix.empty() ? 0 : prefix.front().size(1);
    if (before > 0) {
        pass.prefix.keys = std::make_shared<const ops::PrefixedKeys>(pass.offsets, before, hidden.device());
    }
    for (const std::unique_ptr<RotaryEmbedding>& rope : ropes_)
        pass.ropes.push_back(rope ? rope->table(batch, caches, before) : ops::RopeTable{});
    // The routers of the last layer, too, are judged by all tokens.
    const bool needs_all_rows = context.router_balance != nullptr;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
        pass.layer = static_cast<std::int64_t>(i);
        if (i + 1 == layers_.size() && !needs_all_rows) pass.rows = rows;
        const auto segment = [this, i, pass](const at::Tensor& x, const at::Tensor& keys_values) {
            if (!keys_values.defined()) return layers_[i]->forward(x, pass);
            LayerPass with_prefix = pass;
            with_prefix.prefix.keys_values = keys_values;
            return layers_[i]->forward(x, with_prefix);
        };
        const at::Tensor keys_values = before > 0 ? prefix[i] : at::Tensor();
        hidden = recomputes ? ops::recomputed(segment, hidden, keys_values) : segment(hidden, keys_values);
    }
    if (needs_all_rows && rows.defined()) hidden = hidden.index_select(0, rows);
    return norm_.forward(hidden);
}

void Stack::set_bottlenecks(const std::vector<BranchBottlenecks>& bottlenecks) {
    TORCH_CHECK(bottlenecks.empty() || bottlenecks.size() == layers_.size(),
                "bottlenecks of another number of layers");
    for (std::size_t i = 0; i < layers_.size(); ++i)
        layers_[i]->set_bottlenecks(bottlenecks.empty() ? BranchBottlenecks{} : bottlenecks[i]);
}

std::vector<nn::Linear*> Stack::linears() {
    std::vector<nn::Linear*> out;
    for (const std::unique_ptr<Layer>& layer : layers_) {
        for (nn::Linear* linear : layer->linears()) out.push_back(linear);
    }
    return out;
}

std::vector<nn::Norm*> Stack::norms() {
    std::vector<nn::Norm*> out;
    for (const std::unique_ptr<Layer>& layer : layers_) {
        for (nn::Norm* norm : layer->norms()) out.push_back(norm);
    }
    out.push_back(&norm_);
    return out;
}

std::vector<std::vector<nn::LinearGroup*>> Stack::groups() {
    std::vector<std::vector<nn::LinearGroup*>> out;
    for (const std::unique_ptr<Layer>& layer : layers_) out.push_back(layer->groups());
    return out;
}

void Stack::to(at::Device device) {
    for (nn::Linear* linear : linears()) linear->to(device);
    for (nn::Norm* norm : norms()) norm->to(device);
    for (const std::unique_ptr<RotaryEmbedding>& rope : ropes_) {
        if (rope) rope->to(device);
    }
}

}  // namespace qlora::models
