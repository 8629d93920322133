#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include "qlora/ops/norm.h"
#include "saved_value.h"

/// A norm among what an autograd node saves: its tensors in the last places of the saved ones.
namespace qlora::ops {

/// What of a norm is no tensor; a node takes it as an argument of its own.
struct NormForm {
    explicit NormForm(const Norm& norm) : kind(norm.kind), eps(norm.eps) {}

    Norm with(const at::Tensor& weight, const std::optional<at::Tensor>& bias) const {
        return {.kind = kind, .weight = weight, .bias = bias.value_or(at::Tensor()), .eps = eps};
    }

    kernels::NormKind kind;
    double eps;
};

struct SavedNorm {
    Norm norm;
    NormStatistics statistics;
};

inline void save_with_norm(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list tensors,
                           const SavedNorm& saved) {
    tensors.insert(tensors.end(),
                   {saved.norm.weight, saved.norm.bias, saved.statistics.inverse, saved.statistics.mean});
    ctx->save_for_backward(std::move(tensors));
    save_value(ctx, "norm", NormForm(saved.norm));
}

/// Of ctx->get_saved_variables().
inline SavedNorm saved_norm(torch::autograd::AutogradContext* ctx,
                            const torch::autograd::variable_list& saved) {
    const auto last = saved.end();
    return {.norm = saved_value<NormForm>(ctx, "norm").with(last[-4], last[-3]),
            .statistics = {.inverse = last[-2], .mean = last[-1]}};
}

}  // namespace qlora::ops
