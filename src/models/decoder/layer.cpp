#include "layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <map>
#include <string>

#include "qlora/ops/decoder_nodes.h"
#include "qlora/ops/device.h"

namespace qlora::models {
namespace {

std::unique_ptr<Block> make_block(const spec::Branch& branch) {
    return std::visit([](const auto& block) { return models::make_block(block); }, branch.block);
}

}  // namespace

at::Tensor Stream::settled() const {
    return pending.defined() ? value + pending : value;
}

Branch::Branch(const spec::Branch& branch, std::shared_ptr<nn::Norm> pre)
    : pre_(std::move(pre)),
      block_(make_block(branch)),
      post_(branch.post ? std::make_unique<nn::Norm>(make_norm(*branch.post)) : nullptr),
      multiplier_(branch.multiplier) {}

Branch::Entered Branch::enter(const Stream& stream, const LayerPass& pass) const {
    at::Tensor product, residual;
    if (pre_) {
        const ops::NormedProjection normed =
            ops::norm_project(stream.value, pre_->used(), block_->entry(pass), stream.pending);
        product = normed.y;
        residual = normed.residual;
    } else {
        residual = stream.settled();
        product = ops::project_residual(residual, {}, block_->entry(pass));
    }
    const at::Tensor inner = block_->inner(product, pass);
    if (block_->attends() && pass.rows.defined()) residual = residual.index_select(0, pass.rows);
    return {.inner = inner, .residual = residual};
}

Stream Branch::forward(const Stream& stream, const LayerPass& pass, ops::NodeOutput output) const {
    if (bottleneck_) return {.value = forward_through_bottleneck(stream, pass), .pending = {}};
    if (block_->runs_as_one(pass)) return forward_as_one(stream, pass, output);
    const auto [inner, residual] = enter(stream, pass);
    if (post_) {
        const at::Tensor out = block_->leave(inner, {}, 1.0, pass);
        return {.value = ops::norm_residual(out, post_->used(), residual, multiplier_), .pending = {}};
    }
    // On a device the next norm's kernel adds the residual; on the CPU the product's sums start from it.
    if (block_->attends() && ops::device_kernels(stream.value) != nullptr)
        return {.value = residual, .pending = block_->leave(inner, {}, multiplier_, pass)};
    return {.value = block_->leave(inner, residual, multiplier_, pass), .pending = {}};
}

Stream Branch::forward_as_one(const Stream& stream, const LayerPass& pass, ops::NodeOutput output) const {
    const at::Tensor hidden = stream.settled();
    if (!post_) {
        return {.value = block_->as_one(hidden, hidden, pre_.get(), multiplier_, output, pass),
                .pending = {}};
    }
    const at::Tensor out = block_->as_one(hidden, {}, pre_.get(), 1.0, ops::NodeOutput::kUsed, pass);
    return {.value = ops::norm_residual(out, post_->used(), hidden, multiplier_), .pending = {}};
}

at::Tensor Branch::forward_through_bottleneck(const Stream& stream, const LayerPass& pass) const {
    using Reads = Bottleneck::Reads;
    const Reads reads = bottleneck_->reads();
    const bool as_one = block_->runs_as_one(pass);
    const Entered entered = as_one ? Entered{.inner = {}, .residual = stream.settled()} : enter(stream, pass);
    const at::Tensor& residual = entered.residual;
    // start + the block's output
    const auto output = [&](const at::Tensor& start) {
        if (!as_one) return block_->leave(entered.inner, start, 1.0, pass);
        return block_->as_one(residual, start, pre_.get(), 1.0, ops::NodeOutput::kUsed, pass);
    };
    if (reads == Reads::kSum) {
        TORCH_CHECK(!post_ && multiplier_ == 1.0, "a bottleneck reads a sum that is normed or scaled");
        const at::Tensor sum = output(residual);
        return bottleneck_->added_to(sum, sum, pass.context);
    }
    // The stream's gradients meet in one order, whether or not the block runs as one node.
    const at::Tensor out = output({});
    const at::Tensor joining =
        bottleneck_->added_to(out, reads == Reads::kOutput ? out : residual, pass.context);
    if (post_) return ops::norm_residual(joining, post_->used(), residual, multiplier_);
    return joined(residual, joining);
}

at::Tensor Branch::joined(const at::Tensor& stream, const at::Tensor& joining) const {
    return stream + (multiplier_ == 1.0 ? joining : joining * multiplier_);
}

at::Tensor Branch::leave(const at::Tensor& inner, const at::Tensor& stream, const at::Tensor& sum,
                         const LayerPass& pass, ops::NodeOutput output) const {
    if (bottleneck_) {
        TORCH_CHECK(bottleneck_->reads() == Bottleneck::Reads::kOutput,
                    "a bottleneck beside other branches reads its block's output");
        const at::Tensor out =
            inner.defined() ? block_->leave(inner, {}, 1.0, pass)
                            : block_->as_one(stream, {}, pre_.get(), 1.0, ops::NodeOutput::kUsed, pass);
        return joined(sum, bottleneck_->added_to(out, out, pass.context));
    }
    if (inner.defined()) return block_->leave(inner, sum, multiplier_, pass);
    return block_->as_one(stream, sum, pre_.get(), multiplier_, output, pass);
}

Layer::Layer(const spec::Layer& layer) : parallel_(layer.parallel) {
    std::map<std::string, std::shared_ptr<nn::Norm>> norms;
    for (const spec::Branch& branch : layer.branches) {
        std::shared_ptr<nn::Norm> pre;
        if (branch.pre) {
            std::shared_ptr<nn::Norm>& known = norms[branch.pre->path];
            if (!known) known = std::make_shared<nn::Norm>(make_norm(*branch.pre));
            pre = known;
        }
        TORCH_CHECK(!parallel_ || !branch.post, "a parallel layer has no norms after its blocks");
        branches_.emplace_back(branch, std::move(pre));
    }
}

at::Tensor Layer::forward(const at::Tensor& x, const LayerPass& pass) const {
    // With whole layers recomputed, gradients are on in backward alone, where nothing reads the values that
    // leave the layer.
    const bool is_read =
        pass.context.recomputation != nn::Recomputation::kLayers || !at::GradMode::is_enabled();
    const ops::NodeOutput last = is_read ? ops::NodeOutput::kUsed : ops::NodeOutput::kGraphOnly;
    if (parallel_) return forward_in_parallel(x, pass, last);
    Stream stream{.value = x, .pending = {}};
    for (const Branch& branch : branches_) {
        const bool ends_layer = &branch == &branches_.back();
        stream = branch.forward(stream, pass, ends_layer ? last : ops::NodeOutput::kUsed);
    }
    return stream.settled();
}

at::Tensor Layer::forward_in_parallel(const at::Tensor& x, const LayerPass& pass,
                                      ops::NodeOutput output) const {
    // Each norm hands the stream on to the next, so that its gradient is summed on the way back.
    at::Tensor stream = x;
    std::vector<at::Tensor> inner;
    for (const Branch& branch : branches_) {
        if (branch.block().runs_as_one(pass)) {
            inner.emplace_back();
            continue;
        }
        Branch::Entered entered = branch.enter({.value = stream, .pending = {}}, pass);
        inner.push_back(std::move(entered.inner));
        stream = entered.residual;
    }
    at::Tensor sum = stream;
    for (std::size_t i = 0; i < branches_.size(); ++i) {
        const bool ends_layer = i + 1 == branches_.size();
        sum = branches_[i].leave(inner[i], stream, sum, pass, ends_layer ? output : ops::NodeOutput::kUsed);
    }
    return sum;
}

void Layer::set_bottlenecks(const BranchBottlenecks& bottlenecks) {
    TORCH_CHECK(bottlenecks.empty() || bottlenecks.size() == branches_.size(),
                "bottlenecks of another number of branches");
    for (std::size_t i = 0; i < branches_.size(); ++i)
        branches_[i].set_bottleneck(bottlenecks.empty() ? nullptr : bottlenecks[i]);
}

std::vector<nn::Linear*> Layer::linears() const {
    std::vector<nn::Linear*> out;
    for (const Branch& branch : branches_) {
        for (nn::Linear* linear : branch.block().linears()) out.push_back(linear);
    }
    return out;
}

std::vector<nn::Norm*> Layer::norms() const {
    std::vector<nn::Norm*> out;
    const auto add = [&](nn::Norm* norm) {
        if (norm != nullptr && std::find(out.begin(), out.end(), norm) == out.end()) out.push_back(norm);
    };
    for (const Branch& branch : branches_) {
        add(branch.pre());
        for (nn::Norm* norm : branch.block().norms()) add(norm);
        add(branch.post());
    }
    return out;
}

std::vector<nn::LinearGroup*> Layer::groups() const {
    std::vector<nn::LinearGroup*> out;
    for (const Branch& branch : branches_) {
        for (nn::LinearGroup* group : branch.block().groups()) out.push_back(group);
    }
    return out;
}

}  // namespace qlora::models
