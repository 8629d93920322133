#include "qlora/ops/embedding.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct Embedding : Function<Embedding> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& table, const at::Tensor& ids,
                              std::int64_t dtype, std::int64_t padding_index, double scale) {
        ctx->saved_data["padding_index"] = padding_index;
        ctx->saved_data["scale"] = scale;
        ctx->save_for_backward({ids});
        ctx->saved_data["rows"] = table.size(0);
        const at::Tensor rows = table.index_select(0, ids).to(static_cast<at::ScalarType>(dtype));
        // Not mul_, which rounds the scale to the dtype first.
        return scale == 1.0 ? rows : rows * scale;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const at::Tensor ids = ctx->get_saved_variables()[0];
        at::Tensor gradient = at::zeros({ctx->saved_data["rows"].toInt(), grads[0].size(1)},
                                        grads[0].options().dtype(at::kFloat));
        const double scale = ctx->saved_data["scale"].toDouble();
        const at::Tensor of_rows = scale == 1.0 ? grads[0] : grads[0] * scale;
        gradient.index_add_(0, ids, of_rows.to(at::kFloat));
        const std::int64_t padding_index = ctx->saved_data["padding_index"].toInt();
        if (padding_index >= 0) gradient.select(0, padding_index).zero_();
        return {gradient, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    }
};

}  // namespace

at::Tensor embedding(const at::Tensor& table, const at::Tensor& ids, at::ScalarType dtype,
                     std::int64_t padding_index, double scale) {
    return Embedding::apply(table, ids, static_cast<std::int64_t>(dtype), padding_index, scale);
}

}  // namespace qlora::ops
