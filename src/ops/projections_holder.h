#pragma once

#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>

#include "qlora/ops/projection.h"
#include "saved_value.h"

/// What autograd nodes with projections share.
namespace qlora::ops {

using ProjectionsHolder = ValueHolder<Projections>;
using Holder = c10::intrusive_ptr<ProjectionsHolder>;

inline Holder hold(Projections projections) {
    return c10::make_intrusive<ProjectionsHolder>(std::move(projections));
}

inline void save(torch::autograd::AutogradContext* ctx, const Holder& holder,
                 const char* key = "projections") {
    ctx->saved_data[key] = c10::IValue::make_capsule(holder);
}

inline const Projections& saved_projections(torch::autograd::AutogradContext* ctx,
                                            const char* key = "projections") {
    return saved_value<Projections>(ctx, key);
}

/// The gradient of y where multiplier * y was added to something that has the gradient g.
inline at::Tensor scaled(const at::Tensor& g, double multiplier) {
    return multiplier == 1.0 ? g : g * multiplier;
}

/// What a node's backward returns, in the order of its arguments: gradients of the fixed ones, gradients of
/// the parameters, and an undefined tensor for each trailing argument, which has none.
inline torch::autograd::variable_list gradients(torch::autograd::variable_list fixed,
                                                torch::autograd::variable_list parameters,
                                                std::size_t trailing) {
    fixed.insert(fixed.end(), std::make_move_iterator(parameters.begin()),
                 std::make_move_iterator(parameters.end()));
    fixed.resize(fixed.size() + trailing);
    return fixed;
}

}  // namespace qlora::ops
