#include "qlora/ops/recompute.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

using Segment = std::function<at::Tensor(const at::Tensor&)>;

/// Carries the segment in the saved data of a node.
struct SegmentHolder : torch::CustomClassHolder {
    explicit SegmentHolder(Segment value) : segment(std::move(value)) {}
    Segment segment;
};

struct Recomputed : Function<Recomputed> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, Segment segment) {
        at::Tensor y = segment(x);
        ctx->save_for_backward({x});
        ctx->saved_data["segment"] =
            c10::IValue::make_capsule(c10::make_intrusive<SegmentHolder>(std::move(segment)));
        return y;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const at::Tensor x = ctx->get_saved_variables()[0].detach().requires_grad_();
        const auto holder =
            c10::static_intrusive_pointer_cast<SegmentHolder>(ctx->saved_data["segment"].toCapsule());
        at::Tensor y;
        {
            const at::AutoGradMode with_gradients(true);
            y = holder->segment(x);
        }
        torch::autograd::backward({y}, {grads[0]});
        return {x.grad(), at::Tensor()};
    }
};

}  // namespace

at::Tensor recomputed(Segment segment, const at::Tensor& x) {
    if (!at::GradMode::is_enabled()) return segment(x);
    TORCH_CHECK(x.requires_grad(), "recomputed: the input must require a gradient");
    return Recomputed::apply(x, std::move(segment));
}

}  // namespace qlora::ops
