#include "qlora/ops/embedding_low_rank.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "qlora/ops/gemm.h"

namespace qlora::ops {
namespace {

at::Tensor multiplied(const at::Tensor& a, const at::Tensor& b) {
    return a.is_cuda() ? at::mm(a, b) : product(a, b);
}

/// scaling * scale * g [T, d], the gradient of what is added.
at::Tensor of_added_rows(const at::Tensor& g, double scaling, double scale) {
    at::Tensor out = g.to(at::kFloat);
    if (scale != 1.0) out = out * scale;
    return out * scaling;
}

/// The gradient of A [r, V] from that of its columns `ids` [T], rows of `of_columns` [T, r].
at::Tensor of_a(const at::Tensor& of_columns, const at::Tensor& ids, std::int64_t vocabulary) {
    const std::int64_t rank = of_columns.size(1);
    // A GPU's index_add_ adds in any order; its index_put_ sorts the places first.
    if (of_columns.is_cuda()) {
        return at::zeros({vocabulary, rank}, of_columns.options())
            .index_put_({ids}, of_columns, /*accumulate=*/true)
            .t();
    }
    return at::zeros({rank, vocabulary}, of_columns.options()).index_add_(1, ids, of_columns.t());
}

struct AddLowRank : torch::autograd::Function<AddLowRank> {
    static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& rows,
                              const at::Tensor& ids, const at::Tensor& a, const at::Tensor& b, double scaling,
                              std::int64_t padding_index, double scale) {
        const at::Tensor inner = a.index_select(1, ids).t().contiguous();
        at::Tensor added = multiplied(inner, b.detach().t()).mul_(scaling);
        if (scale != 1.0) added.mul_(scale);
        ctx->save_for_backward({ids, inner, b});
        ctx->saved_data["scaling"] = scaling;
        ctx->saved_data["padding_index"] = padding_index;
        ctx->saved_data["scale"] = scale;
        ctx->saved_data["vocabulary"] = a.size(1);
        return added.add_(rows).to(rows.scalar_type());
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                   const torch::autograd::variable_list& grads) {
        const torch::autograd::variable_list saved = ctx->get_saved_variables();
        const at::Tensor &ids = saved[0], &inner = saved[1], b = saved[2].detach();
        const at::Tensor g = of_added_rows(grads[0], ctx->saved_data["scaling"].toDouble(),
                                           ctx->saved_data["scale"].toDouble());
        const at::Tensor d_a = of_a(multiplied(g, b), ids, ctx->saved_data["vocabulary"].toInt());
        const std::int64_t padding_index = ctx->saved_data["padding_index"].toInt();
        if (padding_index >= 0) d_a.select(1, padding_index).zero_();
        const at::Tensor d_rows = ctx->needs_input_grad(0) ? grads[0] : at::Tensor();
        return {d_rows, {}, d_a, multiplied(g.t(), inner), {}, {}, {}};
    }
};

}  // namespace

at::Tensor add_embedding_low_rank(const at::Tensor& rows, const at::Tensor& ids,
                                  const EmbeddingLowRank& update, std::int64_t padding_index, double scale) {
    return AddLowRank::apply(rows, ids, update.a, update.b, update.scaling, padding_index, scale);
}

}  // namespace qlora::ops
