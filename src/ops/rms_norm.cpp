#include "qlora/ops/rms_norm.h"

#include <torch/csrc/autograd/custom_function.h>

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct RmsNorm : Function<RmsNorm> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                              double eps) {
        const at::Tensor wide = x.to(at::kFloat);
        const at::Tensor inverse = at::rsqrt(wide.pow(2).mean(-1, true).add_(eps));  // [.., 1]
        ctx->save_for_backward({x, weight, inverse});
        return (wide * inverse).to(x.scalar_type()).mul(weight.to(x.scalar_type()));
    }
    /// With n = x * inverse and g = dy * weight: dx = inverse * (g - n * mean(g * n)).
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2];
        const at::Tensor dy = grads[0].to(at::kFloat);
        const at::Tensor normed = x.to(at::kFloat) * inverse;
        at::Tensor gx, gw;
        if (ctx->needs_input_grad(0)) {
            at::Tensor g = dy * weight.to(at::kFloat);
            const at::Tensor projection = (g * normed).mean(-1, true);
            gx = g.addcmul_(normed, projection, -1).mul_(inverse).to(x.scalar_type());
        }
        if (ctx->needs_input_grad(1)) {
            gw = (dy * normed.to(x.scalar_type()))
                     .reshape({-1, weight.size(0)})
                     .sum(0)
                     .to(weight.scalar_type());
        }
        return {gx, gw, at::Tensor()};
    }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
    return RmsNorm::apply(x, weight, eps);
}

}  // namespace qlora::ops
