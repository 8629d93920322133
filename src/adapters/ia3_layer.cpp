#include "ia3_layer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>

#include "qlora/kernels/philox.h"

namespace qlora::adapters {

Ia3Layer::Ia3Layer(std::int64_t in_features, std::int64_t out_features, bool is_feedforward)
    : is_feedforward_(is_feedforward),
      vector_(
          (is_feedforward ? at::ones({1, in_features}, at::kFloat) : at::ones({out_features, 1}, at::kFloat))
              .requires_grad_()) {}

void Ia3Layer::draw(std::uint64_t seed, std::uint32_t site) {
    const at::AutoGradMode no_gradients(false);
    kernels::PhiloxStream stream(seed, site);
    at::Tensor drawn = at::ones({vector_.numel()}, at::kFloat);
    for (std::int64_t i = 0; i < drawn.numel(); ++i) drawn.mutable_data_ptr<float>()[i] = stream.normal();
    vector_.copy_(drawn.view(vector_.sizes()));
}

ops::LinearUpdate Ia3Layer::update(const nn::ForwardContext& /*context*/) const {
    ops::LinearUpdate out;
    // As files hold it the vector is a matrix; a view carries its gradient there.
    const at::Tensor factors = vector_.view({-1});
    if (is_feedforward_) {
        out.input_scale = factors;
    } else {
        out.output_scale = ops::OutputScale{.value = factors};
    }
    return out;
}

}  // namespace qlora::adapters
