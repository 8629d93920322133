#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>

#include "qlora/kernels/philox.h"
#include "qlora/ops/device.h"
#include "qlora/ops/projection.h"

namespace qlora::ops {

at::Tensor apply_dropout(const at::Tensor& x, const DropoutSite& site) {
    if (site.p <= 0) return x;
    const at::Tensor source = x.contiguous();
    at::Tensor out = at::empty_like(source);
    if (const kernels::KernelTable* device = device_kernels(source)) {
        device->dropout({.x = source.const_data_ptr(),
                         .n = source.numel(),
                         .seed = site.seed,
                         .step = site.step,
                         .site = site.site,
                         .p = static_cast<float>(site.p),
                         .y = out.mutable_data_ptr(),
                         .type = float_type(source.scalar_type())},
                        current_stream(source));
        return out;
    }
    const float* in = source.const_data_ptr<float>();
    float* to = out.mutable_data_ptr<float>();
    const float scale = 1.0F / (1.0F - static_cast<float>(site.p));
    const auto p = static_cast<float>(site.p);
    const std::int64_t n = source.numel();
    at::parallel_for(0, (n + 3) / 4, 1 << 12, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t quad = begin; quad < end; ++quad) {
            const auto words =
                kernels::dropout_words(site.seed, site.step, site.site, static_cast<std::uint64_t>(quad));
            for (std::int64_t i = 4 * quad; i < std::min(n, 4 * quad + 4); ++i) {
                to[i] = kernels::dropout_keeps(words.word[i % 4], p) ? in[i] * scale : 0.0F;
            }
        }
    });
    return out;
}

}  // namespace qlora::ops
