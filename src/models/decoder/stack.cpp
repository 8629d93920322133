#include "qlora/models/stack.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "block.h"
#include "qlora/ops/recompute.h"
#include "rotary_embedding.h"

namespace qlora::models {
namespace {

std::unique_ptr<Block> make_block(const spec::Branch& branch, bool ends_layer) {
    if (const auto* attention = std::get_if<spec::Attention>(&branch.block))
        return make_attention_block(*branch.pre, *attention);
    return make_mlp_block(*branch.pre, std::get<spec::Mlp>(branch.block), ends_layer);
}

std::vector<std::unique_ptr<RotaryEmbedding>> make_ropes(const DecoderSpec& decoder, at::ScalarType dtype) {
    std::vector<std::unique_ptr<RotaryEmbedding>> out(decoder.ropes.size());
    for (const std::size_t place : decoder.used_ropes())
        out.at(place) = std::make_unique<RotaryEmbedding>(decoder.ropes[place], dtype);
    return out;
}

}  // namespace

at::Tensor Stream::settled() const {
    return pending.defined() ? value + pending : value;
}

nn::Linear make_linear(const spec::Linear& linear) {
    return nn::Linear(linear.path, linear.in, linear.out, linear.bias);
}

std::vector<nn::Linear> make_linears(const std::vector<spec::Linear>& linears) {
    std::vector<nn::Linear> out;
    for (const spec::Linear& linear : linears) out.push_back(make_linear(linear));
    return out;
}

std::vector<nn::Linear*> pointers_to(std::vector<nn::Linear>& linears) {
    std::vector<nn::Linear*> out;
    for (nn::Linear& linear : linears) out.push_back(&linear);
    return out;
}

nn::Norm make_norm(const spec::Norm& norm) {
    return nn::Norm(norm.path, norm.size,
                    {.eps = norm.eps, .kind = norm.kind, .bias = norm.bias, .offset = norm.offset});
}

Stack::Stack(const DecoderSpec& decoder, at::ScalarType compute_dtype)
    : ropes_(make_ropes(decoder, compute_dtype)), norm_(make_norm(decoder.final_norm)) {
    for (const spec::Layer& layer : decoder.layers) {
        Layer& blocks = layers_.emplace_back();
        for (const spec::Branch& branch : layer.branches) {
            blocks.push_back(make_block(branch, &branch == &layer.branches.back()));
        }
    }
}

Stack::~Stack() = default;

at::Tensor Stack::forward(at::Tensor hidden, const TokenBatch& batch, const nn::ForwardContext& context,
                          const at::Tensor& rows, std::span<KvCache* const> caches) const {
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
    for (const std::unique_ptr<RotaryEmbedding>& rope : ropes_)
        pass.ropes.push_back(rope ? rope->table(batch, caches) : ops::RopeTable{});
    for (std::size_t i = 0; i < layers_.size(); ++i) {
        pass.layer = static_cast<std::int64_t>(i);
        if (i + 1 == layers_.size()) pass.rows = rows;
        const auto segment = [this, i, pass](const at::Tensor& x) {
            Stream stream{.value = x, .pending = {}};
            for (const std::unique_ptr<Block>& block : layers_[i]) stream = block->forward(stream, pass);
            return stream.settled();
        };
        hidden = recomputes ? ops::recomputed(segment, hidden) : segment(hidden);
    }
    return norm_.forward(hidden);
}

std::vector<nn::Linear*> Stack::linears() {
    std::vector<nn::Linear*> out;
    for (const Layer& layer : layers_) {
        for (const std::unique_ptr<Block>& block : layer) {
            for (nn::Linear* linear : block->linears()) out.push_back(linear);
        }
    }
    return out;
}

std::vector<nn::Norm*> Stack::norms() {
    std::vector<nn::Norm*> out;
    for (const Layer& layer : layers_) {
        for (const std::unique_ptr<Block>& block : layer) {
            for (nn::Norm* norm : block->norms()) out.push_back(norm);
        }
    }
    out.push_back(&norm_);
    return out;
}

std::vector<std::vector<nn::LinearGroup*>> Stack::groups() {
    std::vector<std::vector<nn::LinearGroup*>> out;
    for (const Layer& layer : layers_) {
        std::vector<nn::LinearGroup*>& groups = out.emplace_back();
        for (const std::unique_ptr<Block>& block : layer) {
            for (nn::LinearGroup* group : block->groups()) groups.push_back(group);
        }
    }
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
