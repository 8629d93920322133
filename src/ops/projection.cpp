#include "qlora/ops/projection.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <numeric>

#include "device_projection.h"
#include "projection_parts.h"
#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops {
namespace {

at::Tensor weight_of(const Projection& part) {
    return part.trained_weight.defined() ? part.trained_weight.detach() : part.weight->dense();
}

/// The adapters that see x itself, as one: their A one under the other, so that x is read once for all.
struct SharedInput {
    at::Tensor a;                      ///< [sum of r, in]
    std::vector<std::int64_t> begins;  ///< of each part's rows; -1: not among them
};

SharedInput adapters_of_x(const Projections& projections) {
    SharedInput shared;
    std::vector<at::Tensor> a;
    std::int64_t rank = 0;
    for (const Projection& part : projections.parts) {
        const bool joins = part.update.low_rank && part.update.low_rank->dropout.p <= 0;
        shared.begins.push_back(joins ? rank : -1);
        if (!joins) continue;
        a.push_back(part.update.low_rank->a.detach());
        rank += a.back().size(0);
    }
    if (a.size() == 1) shared.a = a.front();
    if (a.size() > 1) shared.a = at::cat(a, 0);
    return shared;
}

/// dropout(x) A^T [T, r]; `joint` holds x A^T of the adapters that share x.
at::Tensor low_rank_input(const LowRank& adapter, const at::Tensor& x, const at::Tensor& joint,
                          std::int64_t begin) {
    if (begin < 0) return product(apply_dropout(x, adapter.dropout), adapter.a.detach().t());
    return joint.narrow(1, begin, adapter.a.size(0));
}

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
        product(g.narrow(1, first, columns), {.b = part.update.low_rank->b.detach(),
                                              .out = joint.narrow(1, begin, part.update.low_rank->a.size(0)),
                                              .alpha = part.update.low_rank->scaling});
    });
    return joint;
}

void add_adapters(const Projections& projections, const at::Tensor& x, at::Tensor& y) {
    const SharedInput shared = adapters_of_x(projections);
    const at::Tensor joint = shared.a.defined() ? product(x, shared.a.t()) : at::Tensor();
    std::size_t index = 0;
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        const std::int64_t begin = shared.begins[index++];
        if (!part.update.low_rank) return;
        const at::Tensor h = low_rank_input(*part.update.low_rank, x, joint, begin);
        const at::Tensor out = y.narrow(1, first, columns);
        product(h, {.b = part.update.low_rank->b.detach().t(),
                    .out = out,
                    .start = out,
                    .alpha = part.update.low_rank->scaling});
    });
}

/// x W^T, from `residual` on where it is defined.
at::Tensor gemm_product(const Projections& projections, const at::Tensor& x, const at::Tensor& residual) {
    at::Tensor y = at::empty({x.size(0), projections.out_features()}, x.options());
    if (const auto* stacked = std::get_if<Stacked>(&projections.weights)) {
        product(x, {.b = stacked->matrix().t(), .out = y, .start = residual});
        return y;
    }
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        product(x, {.b = weight_of(part).t(),
                    .out = y.narrow(1, first, columns),
                    .start = residual.defined() ? residual.narrow(1, first, columns) : residual});
    });
    return y;
}

bool is_folded(const Projections& projections) {
    const auto* stacked = std::get_if<Stacked>(&projections.weights);
    return stacked != nullptr && stacked->folded;
}

void add_biases(const Projections& projections, at::Tensor& y) {
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        if (part.bias.defined()) y.narrow(1, first, columns).add_(fp32(part.bias.detach()));
    });
}

/// Sum over tokens, for the gradient of a bias.
at::Tensor sum_rows(const at::Tensor& gradient, const at::Tensor& bias) {
    return gradient.sum(0).to(bias.scalar_type());
}

}  // namespace

at::Tensor weighted_rows(const at::Tensor& values, const at::Tensor& weights) {
    return (values * weights.unsqueeze(1)).to(values.scalar_type());
}

at::Tensor stored_product(const Projections& projections, const at::Tensor& x) {
    if (!projections.from_storage || x.size(0) > kFewRows) return {};
    std::vector<at::Tensor> products;
    for (const Projection& part : projections.parts) {
        if (part.trained_weight.defined()) return {};
        products.push_back(part.weight->multiply_few(x));
        if (!products.back().defined()) return {};
    }
    return products.size() == 1 ? products.front() : at::cat(products, 1);
}

Projections with_weights_made(Projections projections) {
    if (auto* stacked = std::get_if<Stacked>(&projections.weights)) {
        stacked->matrix = [made = stacked->matrix()] { return made; };
    }
    return projections;
}

std::int64_t Projection::out_features() const {
    return trained_weight.defined() ? trained_weight.size(0) : weight->out_features();
}

std::int64_t Projections::out_features() const {
    return std::accumulate(
        parts.begin(), parts.end(), std::int64_t{0},
        [](std::int64_t sum, const Projection& part) { return sum + part.out_features(); });
}

std::int64_t Projections::in_features() const {
    const Projection& part = parts.front();
    return part.trained_weight.defined() ? part.trained_weight.size(1) : part.weight->in_features();
}

std::vector<at::Tensor> Projections::parameters() const {
    std::vector<at::Tensor> out;
    for (const Projection& part : parts) {
        if (part.trained_weight.defined()) out.push_back(part.trained_weight);
        if (part.bias.defined() && part.bias.requires_grad()) out.push_back(part.bias);
        if (part.update.low_rank) out.insert(out.end(), {part.update.low_rank->a, part.update.low_rank->b});
    }
    return out;
}

RoomyRows RoomyRows::holding(const at::Tensor& x) const {
    if (!wide_.defined()) return {x};
    TORCH_CHECK(x.is_same(rows_), "rows with room are written where the room is");
    return *this;
}

RoomyRows projection_input(const Projections& projections, const at::Tensor& like, std::int64_t columns) {
    const auto* extended = std::get_if<Extended>(&projections.weights);
    if (device_kernels(like) == nullptr || extended == nullptr) return {at::Tensor()};
    const at::Tensor a = extended->a();
    const std::int64_t appended = a.defined() ? a.size(0) : 0;
    const at::Tensor wide = at::empty({like.size(0), columns + appended}, like.options());
    return {wide.narrow(1, 0, columns), wide};
}

at::Tensor project(const Projections& projections, const RoomyRows& input, const at::Tensor& residual,
                   double multiplier) {
    if (multiplier != 1.0) {
        // Not in place: mul_ would round the multiplier to 16 bits first.
        const at::Tensor y = project(projections, input) * multiplier;
        return residual.defined() ? y.add_(residual) : y;
    }
    const at::Tensor& x = input.rows();
    if (device_kernels(x) != nullptr) return device_project(projections, input, residual);
    const at::Tensor wide = fp32(x);
    const bool rounds = x.scalar_type() != at::kFloat;
    const LibTorchSums sums(rounds);
    const at::Tensor start = rounds ? at::Tensor() : residual;
    at::Tensor y = stored_product(projections, wide);
    const bool folds = is_folded(projections) && !y.defined();
    if (y.defined()) {
        if (start.defined()) y.add_(start);
    } else {
        y = gemm_product(projections, wide, start);
    }
    add_biases(projections, y);
    if (rounds) y = y.to(x.scalar_type()).to(at::kFloat);
    if (!folds) add_adapters(projections, wide, y);
    if (!rounds) return y;
    y = y.to(x.scalar_type());
    return residual.defined() ? residual + y : y;
}

ProjectionGradients::ProjectionGradients(const Projections& projections, at::Tensor g)
    : projections_(projections), g_(std::move(g)) {}

ProjectionGradients ProjectionGradients::weighted(const at::Tensor& weights) const {
    ProjectionGradients out(projections_, weighted_rows(g_, weights));
    if (low_rank_.defined()) out.low_rank_ = weighted_rows(low_rank_, weights);
    return out;
}

at::Tensor ProjectionGradients::of_input() {
    if (device_kernels(g_) != nullptr) return device_project_backward(projections_, g_, low_rank_);
    const at::Tensor wide = fp32(g_);
    const LibTorchSums sums(g_.scalar_type() != at::kFloat);
    at::Tensor gx = at::empty({wide.size(0), projections_.in_features()}, wide.options());
    if (const auto* stacked = std::get_if<Stacked>(&projections_.weights)) {
        std::vector<RightFactor> rights = {{.b = stacked->matrix(), .out = gx}};
        // The adapter of the one part sees the whole of g: g B comes with the same product.
        const std::optional<LowRank>& adapter = projections_.parts.front().update.low_rank;
        if (projections_.parts.size() == 1 && adapter && adapter->dropout.p <= 0) {
            low_rank_ = at::empty({wide.size(0), adapter->a.size(0)}, wide.options());
            rights.push_back({.b = adapter->b.detach(), .out = low_rank_, .alpha = adapter->scaling});
        }
        products(wide, rights);
    } else {
        for_each_part(projections_, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
            product(wide.narrow(1, first, columns),
                    {.b = weight_of(part), .out = gx, .start = first > 0 ? gx : at::Tensor()});
        });
    }
    if (!is_folded(projections_)) {
        for_each_part(projections_, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
            if (!part.update.low_rank) return;
            const LowRank& adapter = *part.update.low_rank;
            const at::Tensor gh = low_rank_gradient(adapter, wide.narrow(1, first, columns));
            if (adapter.dropout.p > 0) {
                gx.add_(apply_dropout(product(gh, adapter.a.detach()), adapter.dropout));
            } else {
                product(gh, {.b = adapter.a.detach(), .out = gx, .start = gx});
            }
        });
    }
    return gx.to(g_.scalar_type());
}

std::vector<at::Tensor> ProjectionGradients::of_parameters(const at::Tensor& x) const {
    if (device_kernels(x) != nullptr) return device_parameter_gradients(projections_, x, g_, low_rank_);
    const at::Tensor wide = fp32(x), wide_g = fp32(g_);
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
    std::vector<at::Tensor> out;
    std::size_t index = 0;
    for_each_part(projections_, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        const at::Tensor part_g = wide_g.narrow(1, first, columns);
        const std::int64_t begin = shared.begins[index++];
        if (part.trained_weight.defined()) out.push_back(product(part_g.t(), wide));
        if (part.bias.defined() && part.bias.requires_grad()) out.push_back(sum_rows(part_g, part.bias));
        if (!part.update.low_rank) return;
        const LowRank& adapter = *part.update.low_rank;
        if (begin >= 0) {
            const std::int64_t rank = adapter.a.size(0);
            out.push_back(joint_ga.narrow(0, begin, rank));
            out.push_back(product(part_g.t(), joint_h.narrow(1, begin, rank), adapter.scaling));
            return;
        }
        const at::Tensor dropped = apply_dropout(wide, adapter.dropout);
        out.push_back(product(low_rank_gradient(adapter, part_g).t(), dropped));
        out.push_back(product(part_g.t(), product(dropped, adapter.a.detach().t()), adapter.scaling));
    });
    return out;
}

}  // namespace qlora::ops
