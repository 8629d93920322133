#include "head_norms.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>

#include <functional>

namespace qlora::ops {
namespace {

/// A norm and the heads [T, heads, size] whose rows, [T * heads, size], it goes over. One, but for heads with
/// weights of their own.
struct Part {
    Norm norm;
    std::function<at::Tensor(const at::Tensor& heads)> of;  ///< a view of heads [T, heads, head_dim]

    at::Tensor rows(const at::Tensor& heads) const {
        const at::Tensor mine = of(heads);
        return mine.reshape({-1, mine.size(-1)});
    }
    void set_rows(const at::Tensor& heads, const at::Tensor& rows) const {
        const at::Tensor mine = of(heads);
        mine.copy_(rows.view(mine.sizes()));
    }
};

std::vector<Part> parts_of(const Norm& norm, std::int64_t heads, bool whole_rows) {
    if (whole_rows) return {{norm, [](const at::Tensor& x) { return x.flatten(1); }}};
    if (norm.weight.dim() == 1) return {{norm, [](const at::Tensor& x) { return x; }}};
    std::vector<Part> out;
    for (std::int64_t head = 0; head < heads; ++head) {
        Norm own = norm;
        own.weight = norm.weight[head];
        if (norm.bias.defined()) own.bias = norm.bias[head];
        out.push_back({own, [head](const at::Tensor& x) { return x.select(1, head); }});
    }
    return out;
}

at::Tensor stacked(const std::vector<at::Tensor>& parts) {
    if (!parts.front().defined()) return {};
    return parts.size() == 1 ? parts.front() : at::stack(parts);
}

/// Of stacked statistics those of one part.
NormStatistics statistics_of(const NormStatistics& all, std::size_t part, std::size_t parts) {
    if (parts == 1) return all;
    const auto index = static_cast<std::int64_t>(part);
    return {.inverse = all.inverse[index], .mean = all.mean.defined() ? all.mean[index] : all.mean};
}

NormStatistics norm_in(const at::Tensor& heads, const at::Tensor& out, const std::vector<Part>& parts) {
    std::vector<at::Tensor> inverse, mean;
    for (const Part& part : parts) {
        const NormResult result = norm_forward(part.rows(heads), part.norm);
        part.set_rows(out, result.y);
        inverse.push_back(result.statistics.inverse);
        mean.push_back(result.statistics.mean);
    }
    return {.inverse = stacked(inverse), .mean = stacked(mean)};
}

struct Gradients {
    at::Tensor weight, bias;
};

Gradients norm_in_backward(const at::Tensor& d_heads, const at::Tensor& raw, const std::vector<Part>& parts,
                           const NormStatistics& statistics, bool wants_weight, bool wants_bias) {
    std::vector<at::Tensor> weight, bias;
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const NormStatistics own = statistics_of(statistics, i, parts.size());
        const at::Tensor dy = parts[i].rows(d_heads), x = parts[i].rows(raw);
        if (wants_weight) weight.push_back(norm_weight_gradient(dy, x, parts[i].norm, own));
        if (wants_bias) bias.push_back(norm_bias_gradient(dy));
        parts[i].set_rows(d_heads, norm_backward(dy, x, parts[i].norm, own));
    }
    return {.weight = wants_weight ? stacked(weight) : at::Tensor(),
            .bias = wants_bias ? stacked(bias) : at::Tensor()};
}

}  // namespace

NormedHeads norm_heads(const at::Tensor& qkv, const AttentionShape& shape, const HeadNorms& norms) {
    NormedHeads out{.qkv = qkv.clone(), .statistics = {}};
    const HeadsOfRows from(qkv, shape), to(out.qkv, shape);
    out.statistics.q = norm_in(from.q, to.q, parts_of(norms.q, shape.heads, norms.whole_rows));
    out.statistics.k = norm_in(from.k, to.k, parts_of(norms.k, shape.kv_heads, norms.whole_rows));
    return out;
}

HeadNormGradients norm_heads_backward(at::Tensor& d_qkv, const at::Tensor& raw, const AttentionShape& shape,
                                      const HeadNorms& norms, const HeadNormStatistics& statistics,
                                      WantedHeadNorms wanted) {
    const HeadsOfRows gradients(d_qkv, shape), from(raw, shape);
    const Gradients q =
        norm_in_backward(gradients.q, from.q, parts_of(norms.q, shape.heads, norms.whole_rows), statistics.q,
                         wanted.q_weight, wanted.q_bias);
    const Gradients k =
        norm_in_backward(gradients.k, from.k, parts_of(norms.k, shape.kv_heads, norms.whole_rows),
                         statistics.k, wanted.k_weight, wanted.k_bias);
    return {.q_weight = q.weight, .k_weight = k.weight, .q_bias = q.bias, .k_bias = k.bias};
}

}  // namespace qlora::ops
