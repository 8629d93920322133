#include "qlora/ops/embedding.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// Rows `ids` of a table, in `dtype`.
at::Tensor rows_of_table(const at::Tensor& table, const at::Tensor& ids, at::ScalarType dtype, double scale) {
    const at::Tensor rows = table.index_select(0, ids).to(dtype);
    // Not mul_, which rounds the scale to the dtype first.
    return scale == 1.0 ? rows : rows * scale;
}

/// The gradient of a table of so many rows, of which the places were `ids`.
at::Tensor table_gradient(std::int64_t rows, const at::Tensor& ids, const at::Tensor& of_places) {
    at::Tensor gradient = at::zeros({rows, of_places.size(1)}, of_places.options().dtype(at::kFloat));
    return gradient.index_add_(0, ids, of_places.to(at::kFloat));
}

struct Embedding : Function<Embedding> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& table, const at::Tensor& ids,
                              std::int64_t dtype, std::int64_t padding_index, double scale) {
        ctx->saved_data["padding_index"] = padding_index;
        ctx->saved_data["scale"] = scale;
        ctx->save_for_backward({ids});
        ctx->saved_data["rows"] = table.size(0);
        return rows_of_table(table, ids, static_cast<at::ScalarType>(dtype), scale);
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const at::Tensor ids = ctx->get_saved_variables()[0];
        const double scale = ctx->saved_data["scale"].toDouble();
        at::Tensor gradient =
            table_gradient(ctx->saved_data["rows"].toInt(), ids, scale == 1.0 ? grads[0] : grads[0] * scale);
        const std::int64_t padding_index = ctx->saved_data["padding_index"].toInt();
        if (padding_index >= 0) gradient.select(0, padding_index).zero_();
        return {gradient, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    }
};

/// Some of the places of `hidden` [T, d] hold further rows instead: those whose id is not below `first`.
struct PutFurtherRows : Function<PutFurtherRows> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& rows,
                              const at::Tensor& ids, std::int64_t first, double scale) {
        const at::Tensor is_further = ids.ge(first);
        // Any row will do where none is wanted. Those of a device take turns, so that no sum is long.
        const at::Tensor others = at::arange(ids.size(0), ids.options()).remainder_(rows.size(0));
        const at::Tensor places = at::where(is_further, ids - first, others);
        ctx->save_for_backward({is_further, places});
        ctx->saved_data["rows"] = rows.size(0);
        ctx->saved_data["scale"] = scale;
        return at::where(is_further.unsqueeze(1), rows_of_table(rows, places, hidden.scalar_type(), scale),
                         hidden);
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor is_further = saved[0].unsqueeze(1), &places = saved[1];
        at::Tensor d_hidden, d_rows;
        if (ctx->needs_input_grad(0)) d_hidden = grads[0].masked_fill(is_further, 0.0);
        if (ctx->needs_input_grad(1)) {
            const double scale = ctx->saved_data["scale"].toDouble();
            const at::Tensor of_places = (scale == 1.0 ? grads[0] : grads[0] * scale).to(at::kFloat);
            const at::Tensor counted = of_places.masked_fill(is_further.logical_not(), 0.0);
            const std::int64_t rows = ctx->saved_data["rows"].toInt();
            // A GPU's index_add_ adds in any order; its index_put_ sorts the places first.
            d_rows = counted.is_cuda() ? at::zeros({rows, counted.size(1)}, counted.options())
                                             .index_put_({places}, counted, /*accumulate=*/true)
                                       : table_gradient(rows, places, counted);
        }
        return {d_hidden, d_rows, at::Tensor(), at::Tensor(), at::Tensor()};
    }
};

}  // namespace

at::Tensor embedding(const at::Tensor& table, const at::Tensor& ids, at::ScalarType dtype,
                     std::int64_t padding_index, double scale, const FurtherRows& further) {
    const auto of_table = [&](const at::Tensor& own) {
        return Embedding::apply(table, own, static_cast<std::int64_t>(dtype), padding_index, scale);
    };
    if (!further.rows.defined()) return of_table(ids);
    const std::int64_t first = table.size(0);
    // What a further row replaces is a row of the table too, which then gets a gradient of zeros.
    return PutFurtherRows::apply(of_table(ids.clamp_max(first - 1)), further.rows, ids, first, further.scale);
}

}  // namespace qlora::ops
