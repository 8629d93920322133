#include "qlora/ops/projection.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <numeric>

#include "column_scale.h"
#include "device_projection.h"
#include "projection_parts.h"
#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops {
namespace {

/// dropout(x) A^T [T, r]; `joint` holds x A^T of the adapters that share x.
at::Tensor low_rank_input(const LowRank& adapter, const at::Tensor& x, const at::Tensor& joint,
                          std::int64_t begin) {
    if (begin < 0) return product(apply_dropout(x, adapter.dropout), adapter.a.detach().t());
    return joint.narrow(1, begin, adapter.a.size(0));
}

/// out += scaling * h B^T
void add_low_rank(const LowRank& adapter, const at::Tensor& h, const at::Tensor& out) {
    product(h, {.b = adapter.b.detach().t(), .out = out, .start = out, .alpha = adapter.scaling});
}

void add_adapters(const Projections& projections, const at::Tensor& x, at::Tensor& y) {
    const SharedInput shared = adapters_of_x(projections);
    const at::Tensor joint = shared.a.defined() ? product(x, shared.a.t()) : at::Tensor();
    std::size_t index = 0;
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        const std::int64_t begin = shared.begins[index++];
        if (!part.update.low_rank) return;
        const LowRank& adapter = *part.update.low_rank;
        add_low_rank(adapter, low_rank_input(adapter, x, joint, begin), y.narrow(1, first, columns));
    });
}

void add_adapter_biases(const Projections& projections, at::Tensor& y) {
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        if (!part.update.low_rank || !part.update.low_rank->bias.defined()) return;
        y.narrow(1, first, columns).add_(part.update.low_rank->bias.detach(), part.update.low_rank->scaling);
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
        product(x, {.b = matrix_of(projections, part, first).t(),
                    .out = y.narrow(1, first, columns),
                    .start = residual.defined() ? residual.narrow(1, first, columns) : residual});
    });
    return y;
}

/// Those of the parts for which which(part) holds.
template <class Which>
void add_biases(const Projections& projections, at::Tensor& y, Which&& which) {
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        if (part.bias.defined() && which(part)) y.narrow(1, first, columns).add_(fp32(part.bias.detach()));
    });
}

constexpr auto kEveryPart = [](const Projection&) { return true; };

at::Tensor rounded(const at::Tensor& y, at::ScalarType dtype) {
    return y.to(dtype).to(at::kFloat);
}

/// What output scales multiply, and what the result starts from.
struct ScaledSums {
    at::Tensor sums;   ///< fp32 [T, sum of out]
    at::Tensor bias;   ///< fp32 [sum of out], added to the product with the factors; undefined: nothing
    at::Tensor start;  ///< the same of tensors like `sums`
};

/// x fp32; in the type `dtype` the base's result is rounded with its bias before anything else, as peft has
/// it.
ScaledSums scaled_sums(const Projections& projections, const at::Tensor& x, const at::Tensor& residual,
                       at::ScalarType dtype) {
    ScaledSums out{.sums = stored_product(projections, x), .bias = {}, .start = {}};
    const bool folds = is_folded(projections) && !out.sums.defined();
    if (!out.sums.defined()) out.sums = gemm_product(projections, x, {});
    if (dtype == at::kFloat) {
        add_biases(projections, out.sums, scales_bias);
        out.bias = joint_biases(projections, [](const Projection& part) { return !scales_bias(part); });
        out.start = residual;
    } else {
        add_biases(projections, out.sums, kEveryPart);
        out.sums = rounded(out.sums, dtype);
        const at::Tensor beside = joint_biases(projections, [](const Projection& part) {
            return part.update.output_scale && !scales_bias(part);
        });
        if (beside.defined()) {
            const at::Tensor base = rounded(out.sums - beside, dtype);
            out.start = out.sums.sub_(base);
            out.sums = base;
        }
    }
    if (!folds) add_adapters(projections, x, out.sums);
    add_adapter_biases(projections, out.sums);
    return out;
}

/// The same where the base's share of what is scaled is made of the dropped x.
ScaledSums dropped_sums(const Projections& given, const at::Tensor& x, const at::Tensor& residual,
                        at::ScalarType dtype) {
    const Projections projections = with_weights_made(given);
    at::Tensor start = gemm_product(projections, x, dtype == at::kFloat ? residual : at::Tensor());
    add_biases(projections, start, kEveryPart);
    if (dtype != at::kFloat) start = rounded(start, dtype);
    at::Tensor sums = at::zeros_like(start);
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        if (!part.update.low_rank) return;
        const LowRank& adapter = *part.update.low_rank;
        const at::Tensor dropped = apply_dropout(x, adapter.dropout),
                         of_part = sums.narrow(1, first, columns);
        product(dropped, {.b = matrix_of(projections, part, first).t(), .out = of_part, .start = {}});
        start.narrow(1, first, columns).sub_(of_part);
        add_low_rank(adapter, product(dropped, adapter.a.detach().t()), of_part);
    });
    add_adapter_biases(projections, sums);
    return {.sums = sums, .bias = {}, .start = start};
}

at::Tensor project_with_scales(const Projections& projections, const at::Tensor& x,
                               const at::Tensor& residual, at::Tensor* kept) {
    const at::ScalarType dtype = x.scalar_type();
    const ScaledSums found = drops_base(projections) ? dropped_sums(projections, fp32(x), residual, dtype)
                                                     : scaled_sums(projections, fp32(x), residual, dtype);
    const bool keeps = kept != nullptr && projections.keeps_product();
    if (keeps) *kept = kept_product(projections, found.sums, dtype);
    const at::Tensor y = scale_columns(found.sums, output_factors(projections), found.bias, found.start,
                                       keeps ? at::Tensor() : found.sums)
                             .to(dtype);
    return dtype != at::kFloat && residual.defined() ? residual + y : y;
}

}  // namespace

at::Tensor OutputScale::factor() const {
    return norm.defined() ? value.detach() / norm : value.detach();
}

at::Tensor weighted_rows(const at::Tensor& values, const at::Tensor& weights) {
    return (values * weights.unsqueeze(1)).to(values.scalar_type());
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

bool Projections::scales_outputs() const {
    return std::any_of(parts.begin(), parts.end(),
                       [](const Projection& part) { return part.update.output_scale.has_value(); });
}

bool Projections::keeps_product() const {
    return std::any_of(parts.begin(), parts.end(), [](const Projection& part) {
        return part.update.output_scale && part.update.output_scale->value.requires_grad();
    });
}

std::vector<at::Tensor> Projections::parameters() const {
    std::vector<at::Tensor> out;
    const auto add_trained = [&](const at::Tensor& tensor) {
        if (tensor.defined() && tensor.requires_grad()) out.push_back(tensor);
    };
    for (const Projection& part : parts) {
        if (part.trained_weight.defined()) out.push_back(part.trained_weight);
        add_trained(part.bias);
        if (const std::optional<LowRank>& adapter = part.update.low_rank) {
            out.insert(out.end(), {adapter->a, adapter->b});
            if (adapter->bias.defined()) out.push_back(adapter->bias);
        }
        add_trained(part.update.input_scale);
        if (part.update.output_scale) add_trained(part.update.output_scale->value);
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
                   double multiplier, at::Tensor* kept) {
    if (multiplier != 1.0) {
        // Not in place: mul_ would round the multiplier to 16 bits first.
        const at::Tensor y = project(projections, input, {}, 1.0, kept) * multiplier;
        return residual.defined() ? y.add_(residual) : y;
    }
    const at::Tensor x = scaled_input(projections, input.rows());
    if (device_kernels(x) != nullptr) {
        return device_project(projections, x.is_same(input.rows()) ? input : RoomyRows(x), residual, kept);
    }
    const bool rounds = x.scalar_type() != at::kFloat;
    const LibTorchSums sums(rounds);
    if (projections.scales_outputs()) return project_with_scales(projections, x, residual, kept);
    const at::Tensor wide = fp32(x);
    const at::Tensor start = rounds ? at::Tensor() : residual;
    at::Tensor y = stored_product(projections, wide);
    const bool folds = is_folded(projections) && !y.defined();
    if (y.defined()) {
        if (start.defined()) y.add_(start);
    } else {
        y = gemm_product(projections, wide, start);
    }
    add_biases(projections, y, kEveryPart);
    if (rounds) y = rounded(y, x.scalar_type());
    if (!folds) add_adapters(projections, wide, y);
    add_adapter_biases(projections, y);
    if (!rounds) return y;
    y = y.to(x.scalar_type());
    return residual.defined() ? residual + y : y;
}

}  // namespace qlora::ops
