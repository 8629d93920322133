#include "qlora/nn/row_norms.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "qlora/nn/row_blocks.h"
#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"

namespace qlora::nn {
namespace {

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
    return ops::device_kernels(a) != nullptr ? at::mm(a, b) : ops::product(a, b);
}

at::Tensor squares_of(const at::Tensor& rows) {
    return rows.to(at::kDouble).square_().sum(1);
}

}  // namespace

at::Tensor RowNorms::products_with(const at::Tensor& a) const {
    const std::int64_t out = weight_.out_features(), in = weight_.in_features(), rank = a.size(0);
    const at::TensorOptions options = at::TensorOptions(weight_.device()).dtype(at::kFloat);
    const at::Tensor products = at::empty({out, rank}, options);
    const bool makes_squares = !squares_.defined();
    if (makes_squares) squares_ = at::empty({out}, options.dtype(at::kDouble));
    const auto add_squares = [&](const at::Tensor& rows, std::int64_t first) {
        if (makes_squares) squares_.narrow(0, first, rows.size(0)).copy_(squares_of(rows));
    };
    if (ops::device_kernels(weight_.device()) != nullptr) {
        constexpr std::int64_t kElements = 1 << 24;  // 64 MB
        const std::int64_t most = std::max<std::int64_t>(1, kElements / in);
        for (std::int64_t first = 0; first < out; first += most) {
            const at::Tensor rows = weight_.dense_rows(first, std::min(most, out - first));
            products.narrow(0, first, rows.size(0)).copy_(at::mm(rows, a.t()));
            add_squares(rows, first);
        }
        return products;
    }
    const at::Tensor low = a.contiguous();
    const ops::BlockFactor columns(out, rank, in,
                                   {.data = low.const_data_ptr<float>(), .stride = in, .transposed = true});
    float* const into = products.mutable_data_ptr<float>();
    for_each_row_block(out, in, [&](std::int64_t first, std::int64_t count) {
        at::Tensor rows = at::empty({count, in}, options);
        weight_.dense_rows_into(first, rows);
        const kernels::cpu::SgemmPart all{.first_row = 0, .rows = in, .first_column = 0, .columns = rank};
        columns.multiply(count, {.data = rows.const_data_ptr<float>(), .stride = in}, all, false,
                         into + first * rank, rank);
        add_squares(rows, first);
    });
    return products;
}

at::Tensor RowNorms::of(const at::Tensor& a, const at::Tensor& b, double scaling) const {
    const at::Device device = weight_.device();
    std::vector<std::int64_t> now = {a._version(), b._version()};
    if (norms_.defined() && norms_.device() == device && versions_ == now) return norms_;
    const at::AutoGradMode no_gradients(false);
    if (squares_.defined()) squares_ = squares_.to(device);
    const at::Tensor low = a.detach(), high = b.detach();
    const at::Tensor products = products_with(low);
    const at::Tensor through_gram = product(high, product(low, low.t()));
    const auto dot = [&](const at::Tensor& other) {
        return (high.to(at::kDouble) * other.to(at::kDouble)).sum(1);
    };
    const at::Tensor squared =
        squares_ + dot(products) * (2.0 * scaling) + dot(through_gram) * (scaling * scaling);
    norms_ = squared.clamp_min(0.0).sqrt().to(at::kFloat);
    versions_ = std::move(now);
    return norms_;
}

}  // namespace qlora::nn
