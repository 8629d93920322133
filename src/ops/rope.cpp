#include "qlora/ops/rope.h"

#include <torch/csrc/autograd/custom_function.h>

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// direction +1: forward; -1: the transposed rotation. Each product is rounded to the dtype, as transformers
/// does.
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, int direction) {
    const std::int64_t half = x.size(-1) / 2;
    const at::Tensor first = x.narrow(-1, 0, half), second = x.narrow(-1, half, half);
    const at::Tensor c = cos.unsqueeze(1), s = sin.unsqueeze(1);
    at::Tensor y = at::empty(x.sizes(), x.options());
    at::Tensor y_first = y.narrow(-1, 0, half), y_second = y.narrow(-1, half, half);
    at::mul_out(y_first, first, c);
    at::mul_out(y_second, second, c);
    if (direction > 0) {
        y_first.sub_(second * s);
        y_second.add_(first * s);
    } else {
        y_first.add_(second * s);
        y_second.sub_(first * s);
    }
    return y;
}

struct Rope : Function<Rope> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cos,
                              const at::Tensor& sin) {
        ctx->save_for_backward({cos, sin});
        return rotate(x, cos, sin, +1);
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        return {rotate(grads[0], saved[0], saved[1], -1), at::Tensor(), at::Tensor()};
    }
};

}  // namespace

RopeTable rope_table(const at::Tensor& positions, const at::Tensor& inverse_frequency, at::ScalarType dtype) {
    const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * inverse_frequency.unsqueeze(0);
    return {.cos = angles.cos().to(dtype), .sin = angles.sin().to(dtype)};
}

at::Tensor rope(const at::Tensor& x, const RopeTable& table) {
    return Rope::apply(x, table.cos, table.sin);
}

}  // namespace qlora::ops
