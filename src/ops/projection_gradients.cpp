#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "column_scale.h"
#include "device_projection.h"
#include "projection_parts.h"
#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops {
namespace {

/// scaling * g B [T, r] for the gradient g [T, out] of the part's output.
at::Tensor low_rank_gradient(const LowRank& adapter, const at::Tensor& g) {
    return product(g, adapter.b.detach(), adapter.scaling);
}

/// Those of all parts that share x, side by side [T, rank].
at::Tensor low_rank_gradients(const Projections& projections, const SharedInput& shared, const at::Tensor& g,
                              std::int64_t rank) {
    at::Tensor joint = at::empty({g.size(0), rank}, g.options());
    std::size_t index = 0;
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        const std::int64_t begin = shared.begins[index++];
        if (begin < 0) return;
        const LowRank& adapter = *part.update.low_rank;
        product(g.narrow(1, first, columns), {.b = adapter.b.detach(),
                                              .out = joint.narrow(1, begin, adapter.a.size(0)),
                                              .alpha = adapter.scaling});
    });
    return joint;
}

/// Sum over tokens, for the gradient of a bias.
at::Tensor sum_rows(const at::Tensor& gradient, const at::Tensor& bias) {
    return gradient.sum(0).to(bias.scalar_type());
}

}  // namespace

ProjectionGradients::ProjectionGradients(const Projections& projections, at::Tensor g, at::Tensor product)
    : projections_(projections), g_(std::move(g)), behind_(g_) {
    if (!projections.scales_outputs()) return;
    behind_ = at::empty(g_.sizes(), g_.options());
    std::int64_t place = 0;
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        const at::Tensor of_part = g_.narrow(1, first, columns), scaled = behind_.narrow(1, first, columns);
        if (!part.update.output_scale) {
            scaled.copy_(of_part);
            return;
        }
        const OutputScale& scale = *part.update.output_scale;
        const at::Tensor factor = scale.factor();
        if (!product.defined() || !scale.value.requires_grad()) {
            scale_columns(of_part, factor, {}, {}, scaled);
            return;
        }
        const at::Tensor sums = column_products(of_part, product.narrow(1, place, columns), factor, scaled);
        scales_.push_back(scale.norm.defined() ? sums / scale.norm : sums);
        place += columns;
    });
}

ProjectionGradients ProjectionGradients::weighted(const at::Tensor& weights, at::Tensor product) const {
    ProjectionGradients out(projections_, weighted_rows(g_, weights), std::move(product));
    if (low_rank_.defined()) out.low_rank_ = weighted_rows(low_rank_, weights);
    return out;
}

at::Tensor ProjectionGradients::of_input() {
    const at::Tensor& scale = projections_.parts.front().update.input_scale;
    if (!scale.defined()) return of_read_input();
    scaled_input_ = of_read_input();
    return scale_columns(scaled_input_, scale.detach());
}

at::Tensor ProjectionGradients::of_read_input() {
    if (device_kernels(g_) != nullptr) {
        return device_project_backward(projections_, {.results = g_, .products = behind_}, low_rank_);
    }
    const bool drops = drops_base(projections_);
    const at::Tensor wide = fp32(behind_), direct = drops ? fp32(g_) : wide;
    const LibTorchSums sums(g_.scalar_type() != at::kFloat);
    const Projections projections = drops ? with_weights_made(projections_) : projections_;
    at::Tensor gx = at::empty({wide.size(0), projections.in_features()}, wide.options());
    if (const auto* stacked = std::get_if<Stacked>(&projections.weights)) {
        std::vector<RightFactor> rights = {{.b = stacked->matrix(), .out = gx}};
        // The adapter of the one part sees the whole of g: g B comes with the same product.
        const std::optional<LowRank>& adapter = projections.parts.front().update.low_rank;
        if (projections.parts.size() == 1 && adapter && adapter->dropout.p <= 0) {
            low_rank_ = at::empty({wide.size(0), adapter->a.size(0)}, wide.options());
            rights.push_back({.b = adapter->b.detach(), .out = low_rank_, .alpha = adapter->scaling});
        }
        products(direct, rights);
    } else {
        for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
            product(direct.narrow(1, first, columns), {.b = matrix_of(projections, part, first),
                                                       .out = gx,
                                                       .start = first > 0 ? gx : at::Tensor()});
        });
    }
    if (is_folded(projections)) return gx.to(g_.scalar_type());
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        if (!part.update.low_rank) return;
        const LowRank& adapter = *part.update.low_rank;
        const at::Tensor behind = wide.narrow(1, first, columns), gh = low_rank_gradient(adapter, behind);
        if (adapter.dropout.p <= 0) {
            product(gh, {.b = adapter.a.detach(), .out = gx, .start = gx});
            return;
        }
        at::Tensor through = product(gh, adapter.a.detach());
        if (part.update.drops_base()) {
            product(behind - direct.narrow(1, first, columns),
                    {.b = matrix_of(projections, part, first), .out = through, .start = through});
        }
        gx.add_(apply_dropout(through, adapter.dropout));
    });
    return gx.to(g_.scalar_type());
}

std::vector<at::Tensor> ProjectionGradients::of_parameters(const at::Tensor& x) {
    const at::Tensor& scale = projections_.parts.front().update.input_scale;
    const bool trains_input_scale = scale.defined() && scale.requires_grad();
    if (trains_input_scale && !scaled_input_.defined()) scaled_input_ = of_read_input();
    // A linear with a scale of its input has no gradient that needs the scaled one.
    std::vector<std::vector<at::Tensor>> of_parts = of_matrices_and_biases(x);
    if (trains_input_scale) of_parts.front().push_back(column_products(scaled_input_, x));
    std::vector<at::Tensor> out;
    std::size_t place = 0;
    for (std::size_t i = 0; i < of_parts.size(); ++i) {
        out.insert(out.end(), of_parts[i].begin(), of_parts[i].end());
        const std::optional<OutputScale>& output_scale = projections_.parts[i].update.output_scale;
        if (!output_scale || !output_scale->value.requires_grad()) continue;
        out.push_back(scales_.empty() ? at::Tensor() : scales_[place++]);
    }
    return out;
}

std::vector<std::vector<at::Tensor>> ProjectionGradients::of_matrices_and_biases(const at::Tensor& x) const {
    const GroupGradient g{.results = g_, .products = behind_};
    if (device_kernels(x) != nullptr) return device_parameter_gradients(projections_, x, g, low_rank_);
    const at::Tensor wide = fp32(x), wide_g = fp32(behind_);
    const at::Tensor results = g_.is_same(behind_) ? wide_g : fp32(g_);
    const LibTorchSums sums(x.scalar_type() != at::kFloat);
    const SharedInput shared = adapters_of_x(projections_);
    at::Tensor joint_h, joint_ga;  // x A^T and the gradients of the A that share x
    if (shared.a.defined()) {
        joint_h = product(wide, shared.a.t());
        const at::Tensor joint_gh = low_rank_.defined()
                                        ? low_rank_
                                        : low_rank_gradients(projections_, shared, wide_g, joint_h.size(1));
        joint_ga = product(joint_gh.t(), wide);
    }
    std::vector<std::vector<at::Tensor>> out;
    for_each_part(projections_, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        const at::Tensor part_g = wide_g.narrow(1, first, columns);
        const std::int64_t begin = shared.begins[out.size()];
        std::vector<at::Tensor>& of_part = out.emplace_back();
        if (part.trained_weight.defined()) of_part.push_back(product(part_g.t(), wide));
        if (part.bias.defined() && part.bias.requires_grad()) {
            of_part.push_back(
                sum_rows(scales_bias(part) ? part_g : results.narrow(1, first, columns), part.bias));
        }
        if (!part.update.low_rank) return;
        const LowRank& adapter = *part.update.low_rank;
        if (begin >= 0) {
            const std::int64_t rank = adapter.a.size(0);
            of_part.push_back(joint_ga.narrow(0, begin, rank));
            of_part.push_back(product(part_g.t(), joint_h.narrow(1, begin, rank), adapter.scaling));
        } else {
            const at::Tensor dropped = apply_dropout(wide, adapter.dropout);
            of_part.push_back(product(low_rank_gradient(adapter, part_g).t(), dropped));
            of_part.push_back(product(part_g.t(), product(dropped, adapter.a.detach().t()), adapter.scaling));
        }
        if (adapter.bias.defined()) of_part.push_back(sum_rows(part_g, adapter.bias).mul_(adapter.scaling));
    });
    return out;
}

}  // namespace qlora::ops
