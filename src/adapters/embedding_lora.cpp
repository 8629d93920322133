#include "embedding_lora.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include "qlora/adapters/lora.h"
#include "qlora/kernels/philox.h"
#include "qlora/ops/gemm.h"

namespace qlora::adapters {
namespace {

void fill_normal(at::Tensor& tensor, std::uint64_t seed, std::uint64_t stream) {
    kernels::PhiloxStream values(seed, stream);
    float* data = tensor.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < tensor.numel(); ++i) data[i] = values.normal();
    tensor.unsafeGetTensorImpl()->bump_version();
}

}  // namespace

ops::EmbeddingLowRank make_embedding_lora(std::int64_t vocabulary, std::int64_t hidden, std::int64_t r,
                                          double scaling) {
    return {.a = at::zeros({r, vocabulary}, at::kFloat).requires_grad_(),
            .b = at::zeros({hidden, r}, at::kFloat).requires_grad_(),
            .scaling = scaling};
}

void initialize_embedding_lora(ops::EmbeddingLowRank& update, InitLoraWeights kind, bool is_shared,
                               std::uint64_t seed, std::uint32_t site) {
    const at::AutoGradMode no_gradients(false);
    if (is_shared && kind != InitLoraWeights::kRandom) {
        at::Tensor a = update.b.detach().t(), b = update.a.detach().t();
        initialize_lora(a, b, a.size(0), kind, seed, site);
        return;
    }
    if (kind == InitLoraWeights::kRandom) fill_normal(update.a, seed, 2 * std::uint64_t{site});
    fill_normal(update.b, seed, 2 * std::uint64_t{site} + 1);
}

ops::LinearUpdate SharedHeadLora::update(const nn::ForwardContext& context) const {
    const ops::DropoutSite dropout{.p = context.training ? dropout_ : 0.0,
                                   .seed = context.seed,
                                   .step = context.micro_step,
                                   .site = site_};
    return {.low_rank = ops::LowRank{
                .a = shared_.b.t(), .b = shared_.a.t(), .bias = {}, .scaling = scaling_, .dropout = dropout}};
}

void SharedHeadLora::add_delta(at::Tensor& rows, std::int64_t first) const {
    ops::product(shared_.a.detach().t().narrow(0, first, rows.size(0)),
                 {.b = shared_.b.detach().t(), .out = rows, .start = rows, .alpha = scaling_});
}

}  // namespace qlora::adapters
