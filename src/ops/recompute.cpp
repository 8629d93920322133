#include "qlora/ops/recompute.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "if_defined.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// Carries the segment in the saved data of a node.
struct SegmentHolder : torch::CustomClassHolder {
    explicit SegmentHolder(Segment value) : segment(std::move(value)) {}
    Segment segment;
};

struct Recomputed : Function<Recomputed> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                              const std::optional<at::Tensor>& further, Segment segment) {
        at::Tensor y = segment(x, further.value_or(at::Tensor()));
        ctx->save_for_backward({x, further.value_or(at::Tensor())});
        ctx->saved_data["segment"] =
            c10::IValue::make_capsule(c10::make_intrusive<SegmentHolder>(std::move(segment)));
        return y;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor x = saved[0].detach().requires_grad_();
        at::Tensor further;
        if (saved[1].defined()) further = saved[1].detach().requires_grad_(saved[1].requires_grad());
        const auto holder =
            c10::static_intrusive_pointer_cast<SegmentHolder>(ctx->saved_data["segment"].toCapsule());
        at::Tensor y;
        {
            const at::AutoGradMode with_gradients(true);
            y = holder->segment(x, further);
        }
        torch::autograd::backward({y}, {grads[0]});
        return {x.grad(), further.defined() ? further.grad() : at::Tensor(), at::Tensor()};
    }
};

}  // namespace

at::Tensor recomputed(Segment segment, const at::Tensor& x, const at::Tensor& further) {
    if (!at::GradMode::is_enabled()) return segment(x, further);
    TORCH_CHECK(x.requires_grad(), "recomputed: the input must require a gradient");
    return Recomputed::apply(x, if_defined(further), std::move(segment));
}

at::Tensor recomputed(std::function<at::Tensor(const at::Tensor&)> segment, const at::Tensor& x) {
    return recomputed([run = std::move(segment)](const at::Tensor& in, const at::Tensor&) { return run(in); },
                      x, {});
}

}  // namespace qlora::ops
