#pragma once

#include <memory>
#include <vector>

#include "block.h"
#include "qlora/models/hooks.h"

namespace qlora::models {

/// The residual stream [T, hidden] between two blocks. On a device a block may leave what it adds in
/// `pending`: the kernel of the next norm adds it on its way.
struct Stream {
    at::Tensor value;
    at::Tensor pending;

    at::Tensor settled() const;
};

/// A way from the residual stream and back to it, as spec::Branch describes it.
class Branch {
  public:
    /// `pre` may be shared with another branch of its layer.
    Branch(const spec::Branch& branch, std::shared_ptr<nn::Norm> pre);

    /// `output`: whether the values of the result are read.
    Stream forward(const Stream& stream, const LayerPass& pass, ops::NodeOutput output) const;

    // The same in two halves, for a layer whose branches all read its input.
    struct Entered {
        at::Tensor inner;     ///< undefined where the block runs as one node
        at::Tensor residual;  ///< the stream that goes on, of LayerPass::rows alone behind an attention
    };
    Entered enter(const Stream& stream, const LayerPass& pass) const;
    /// sum + multiplier * block(stream).
    at::Tensor leave(const at::Tensor& inner, const at::Tensor& stream, const at::Tensor& sum,
                     const LayerPass& pass, ops::NodeOutput output) const;

    void set_bottleneck(std::shared_ptr<Bottleneck> bottleneck) { bottleneck_ = std::move(bottleneck); }

    Block& block() const { return *block_; }
    nn::Norm* pre() const { return pre_.get(); }
    nn::Norm* post() const { return post_.get(); }

  private:
    Stream forward_as_one(const Stream& stream, const LayerPass& pass, ops::NodeOutput output) const;
    at::Tensor forward_through_bottleneck(const Stream& stream, const LayerPass& pass) const;
    /// stream + multiplier * joining
    at::Tensor joined(const at::Tensor& stream, const at::Tensor& joining) const;

    std::shared_ptr<nn::Norm> pre_;
    std::unique_ptr<Block> block_;
    std::unique_ptr<nn::Norm> post_;
    double multiplier_;
    std::shared_ptr<Bottleneck> bottleneck_;  ///< null: none
};

class Layer {
  public:
    explicit Layer(const spec::Layer& layer);

    /// x [T, hidden] -> [T or R, hidden], R as in LayerPass::rows.
    at::Tensor forward(const at::Tensor& x, const LayerPass& pass) const;

    /// Of each branch, or none.
    void set_bottlenecks(const BranchBottlenecks& bottlenecks);

    std::vector<nn::Linear*> linears() const;  ///< in the order of the checkpoint
    std::vector<nn::Norm*> norms() const;      ///< each once
    std::vector<nn::LinearGroup*> groups() const;

  private:
    at::Tensor forward_in_parallel(const at::Tensor& x, const LayerPass& pass, ops::NodeOutput output) const;

    std::vector<Branch> branches_;
    bool parallel_;
};

}  // namespace qlora::models
