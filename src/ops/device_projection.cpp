#include "device_projection.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "column_scale.h"
#include "projection_parts.h"
#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops {
namespace {

const Extended& extended(const Projections& projections) {
    return std::get<Extended>(projections.weights);
}

/// Calls f(adapter, first rank, part's first column, part's columns) for each adapter.
template <class F>
void for_each_adapter(const Projections& projections, F&& f) {
    std::int64_t rank = 0;
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        if (!part.update.low_rank) return;
        f(*part.update.low_rank, rank, first, columns);
        rank += part.update.low_rank->a.size(0);
    });
}

bool has_dropout(const Projections& projections) {
    bool any = false;
    for_each_adapter(projections,
                     [&](const LowRank& adapter, auto...) { any = any || adapter.dropout.p > 0; });
    return any;
}

/// dropout(x) A^T of all adapters into `h` [T, appended]; `a` [appended, in] holds their A.
void low_rank_inputs(const Projections& projections, const at::Tensor& x, const at::Tensor& a, at::Tensor h) {
    if (!has_dropout(projections)) {
        at::mm_out(h, x, a.t());
        return;
    }
    h.zero_();
    for_each_adapter(projections, [&](const LowRank& adapter, std::int64_t rank, auto...) {
        const std::int64_t r = adapter.a.size(0);
        h.narrow(1, rank, r).copy_(at::mm(apply_dropout(x, adapter.dropout), a.narrow(0, rank, r).t()));
    });
}

/// (x | x A^T) [T, in + appended], in x's own memory where it has room.
at::Tensor extended_input(const Projections& projections, const RoomyRows& input, const at::Tensor& a) {
    const at::Tensor& x = input.rows();
    if (!a.defined()) return x;
    const std::int64_t rows = x.size(0), in = x.size(1), columns = in + a.size(0);
    at::Tensor wide = input.wide();
    if (!wide.defined() || wide.size(1) != columns) {
        wide = at::empty({rows, columns}, x.options());
        wide.narrow(1, 0, in).copy_(x);
    }
    low_rank_inputs(projections, wide.narrow(1, 0, in), a, wide.narrow(1, in, a.size(0)));
    return wide;
}

/// For a few rows, weights as they are stored and adapters apart; undefined where that is not possible.
at::Tensor product_from_storage(const Projections& projections, const at::Tensor& x) {
    at::Tensor y = stored_product(projections, x);
    if (!y.defined()) return y;
    for_each_adapter(projections,
                     [&](const LowRank& adapter, std::int64_t, std::int64_t first, std::int64_t columns) {
                         const at::Tensor h = at::mm(x, adapter.a.detach().to(x.scalar_type()).t());
                         y.narrow(1, first, columns)
                             .addmm_(h, adapter.b.detach().to(x.scalar_type()).t(), 1.0, adapter.scaling);
                     });
    return y;
}

/// g W [T, in] and scaling * g B [T, appended], which one product makes.
struct BaseGradient {
    at::Tensor x, low_rank;
};

BaseGradient base_gradient(const DeviceOperands& operands, const at::Tensor& g) {
    const at::Tensor wide = at::mm(g, operands.weight);
    if (!operands.a.defined()) return {.x = wide, .low_rank = {}};
    const std::int64_t appended = operands.a.size(0), in = wide.size(1) - appended;
    return {.x = wide.narrow(1, 0, in), .low_rank = wide.narrow(1, in, appended)};
}

/// What all parts sum up without their biases, from `residual` on where it is defined.
at::Tensor sums_of(const Projections& projections, const RoomyRows& x, const at::Tensor& residual) {
    at::Tensor y = product_from_storage(projections, x.rows());
    if (y.defined()) {
        if (residual.defined()) y.add_(residual);
        return y;
    }
    const DeviceOperands operands = extended(projections).operands();
    const at::Tensor wide = extended_input(projections, x, operands.a);
    return residual.defined() ? residual.clone().addmm_(wide, operands.weight.t())
                              : at::mm(wide, operands.weight.t());
}

void add_device_adapter_biases(const Projections& projections, at::Tensor& y) {
    for_each_adapter(projections,
                     [&](const LowRank& adapter, std::int64_t, std::int64_t first, std::int64_t columns) {
                         if (!adapter.bias.defined()) return;
                         const at::Tensor bias = adapter.bias.detach() * adapter.scaling;
                         y.narrow(1, first, columns).add_(bias.to(y.scalar_type()));
                     });
}

/// Sums that output scales multiply, and what is added to them.
struct DeviceSums {
    at::Tensor sums, start;
};

/// W (x - dropped) from `residual` on, and W dropped + low_rank(x), each adapter with an x of its own.
DeviceSums device_dropped_sums(const Projections& projections, const at::Tensor& x,
                               const at::Tensor& residual) {
    const DeviceOperands operands = extended(projections).operands();
    const std::int64_t in = x.size(1), appended = operands.a.size(0);
    DeviceSums out{.sums = at::zeros({x.size(0), projections.out_features()}, x.options()), .start = {}};
    out.start = residual.defined() ? residual.clone() : at::zeros_like(out.sums);
    std::int64_t rank = 0;
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        const at::Tensor rows = operands.weight.narrow(0, first, columns), w = rows.narrow(1, 0, in);
        at::Tensor of_part = out.start.narrow(1, first, columns);
        if (!part.update.low_rank) {
            of_part.addmm_(x, w.t());
            return;
        }
        const LowRank& adapter = *part.update.low_rank;
        const std::int64_t r = adapter.a.size(0);
        const at::Tensor wide = at::zeros({x.size(0), in + appended}, x.options());
        const at::Tensor dropped = apply_dropout(x, adapter.dropout);
        wide.narrow(1, 0, in).copy_(dropped);
        wide.narrow(1, in + rank, r).copy_(at::mm(dropped, operands.a.narrow(0, rank, r).t()));
        rank += r;
        of_part.addmm_(x - dropped, w.t());
        out.sums.narrow(1, first, columns).copy_(at::mm(wide, rows.t()));
    });
    return out;
}

at::Tensor device_project_with_scales(const Projections& projections, const RoomyRows& x,
                                      const at::Tensor& residual, at::Tensor* kept) {
    DeviceSums found = drops_base(projections)
                           ? device_dropped_sums(projections, x.rows(), residual)
                           : DeviceSums{.sums = sums_of(projections, x, {}), .start = residual};
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        if (part.bias.defined() && scales_bias(part))
            found.sums.narrow(1, first, columns).add_(part.bias.detach().to(found.sums.scalar_type()));
    });
    add_device_adapter_biases(projections, found.sums);
    const bool keeps = kept != nullptr && projections.keeps_product();
    if (keeps) *kept = kept_product(projections, found.sums, found.sums.scalar_type());
    const at::Tensor bias =
        joint_biases(projections, [](const Projection& part) { return !scales_bias(part); });
    return scale_columns(found.sums, output_factors(projections), bias, found.start,
                         keeps ? at::Tensor() : found.sums);
}

/// Behind one adapter: g W [T, in] and scaling * g B [T, r].
BaseGradient behind_adapter(const DeviceOperands& operands, const at::Tensor& g, const LowRank& adapter,
                            std::int64_t rank, std::int64_t first) {
    const std::int64_t in = operands.a.size(1);
    const at::Tensor made = at::mm(g, operands.weight.narrow(0, first, g.size(1)));
    return {.x = made.narrow(1, 0, in), .low_rank = made.narrow(1, in + rank, adapter.a.size(0))};
}

/// Where each adapter's dropout lies between the products and x, for the base's product too.
at::Tensor dropped_backward(const Projections& projections, const DeviceOperands& operands,
                            const GroupGradient& g, at::Tensor& low_rank) {
    const std::int64_t in = operands.a.size(1);
    low_rank = at::zeros({g.results.size(0), operands.a.size(0)}, g.results.options());
    at::Tensor gx = at::mm(g.results, operands.weight.narrow(1, 0, in));
    for_each_adapter(projections, [&](const LowRank& adapter, std::int64_t rank, std::int64_t first,
                                      std::int64_t columns) {
        const std::int64_t r = adapter.a.size(0);
        const BaseGradient made =
            behind_adapter(operands, g.products.narrow(1, first, columns), adapter, rank, first);
        low_rank.narrow(1, rank, r).copy_(made.low_rank);
        at::Tensor through = at::addmm(made.x, made.low_rank, operands.a.narrow(0, rank, r));
        through.addmm_(g.results.narrow(1, first, columns),
                       operands.weight.narrow(0, first, columns).narrow(1, 0, in), 1.0, -1.0);
        gx.add_(apply_dropout(through, adapter.dropout));
    });
    return gx;
}

/// scaling * g B of all adapters by the products that make the gradient of x too: the same bits.
at::Tensor low_rank_of(const Projections& projections, const at::Tensor& g) {
    const DeviceOperands operands = extended(projections).operands();
    if (!drops_base(projections)) return base_gradient(operands, g).low_rank;
    at::Tensor out = at::zeros({g.size(0), operands.a.size(0)}, g.options());
    for_each_adapter(projections, [&](const LowRank& adapter, std::int64_t rank, std::int64_t first,
                                      std::int64_t columns) {
        const at::Tensor part = g.narrow(1, first, columns);
        out.narrow(1, rank, adapter.a.size(0))
            .copy_(behind_adapter(operands, part, adapter, rank, first).low_rank);
    });
    return out;
}

}  // namespace

at::Tensor device_project(const Projections& projections, const RoomyRows& x, const at::Tensor& residual,
                          at::Tensor* kept) {
    if (projections.scales_outputs()) return device_project_with_scales(projections, x, residual, kept);
    at::Tensor y = sums_of(projections, x, residual);
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        if (part.bias.defined()) y.narrow(1, first, columns).add_(part.bias.detach().to(y.scalar_type()));
    });
    add_device_adapter_biases(projections, y);
    return y;
}

at::Tensor device_project_backward(const Projections& projections, const GroupGradient& g,
                                   at::Tensor& low_rank) {
    const DeviceOperands operands = extended(projections).operands();
    if (drops_base(projections)) return dropped_backward(projections, operands, g, low_rank);
    const BaseGradient base = base_gradient(operands, g.products);
    if (!operands.a.defined()) return base.x;
    low_rank = base.low_rank;
    if (!has_dropout(projections)) return at::addmm(base.x, low_rank, operands.a);
    at::Tensor gx = base.x.contiguous();
    for_each_adapter(projections, [&](const LowRank& adapter, std::int64_t rank, auto...) {
        const std::int64_t r = adapter.a.size(0);
        const at::Tensor through = at::mm(low_rank.narrow(1, rank, r), operands.a.narrow(0, rank, r));
        gx.add_(apply_dropout(through, adapter.dropout));
    });
    return gx;
}

std::vector<std::vector<at::Tensor>> device_parameter_gradients(const Projections& projections,
                                                                const at::Tensor& x, const GroupGradient& g,
                                                                at::Tensor low_rank) {
    const at::Tensor a = extended(projections).a();
    at::Tensor h, joint_ga;
    if (a.defined()) {
        if (!low_rank.defined()) low_rank = low_rank_of(projections, g.products);
        h = at::empty({x.size(0), a.size(0)}, x.options());
        low_rank_inputs(projections, x, a, h);
        if (!has_dropout(projections)) joint_ga = mm_to_fp32(low_rank.t(), x);
    }
    std::vector<std::vector<at::Tensor>> out;
    std::int64_t rank = 0;
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        const at::Tensor part_g = g.products.narrow(1, first, columns);
        std::vector<at::Tensor>& of_part = out.emplace_back();
        if (part.trained_weight.defined()) of_part.push_back(mm_to_fp32(part_g.t(), x));
        if (part.bias.defined() && part.bias.requires_grad()) {
            const at::Tensor of_result = scales_bias(part) ? part_g : g.results.narrow(1, first, columns);
            of_part.push_back(of_result.sum(0, false, at::kFloat).to(part.bias.scalar_type()));
        }
        if (!part.update.low_rank) return;
        const LowRank& adapter = *part.update.low_rank;
        const std::int64_t r = adapter.a.size(0);
        of_part.push_back(joint_ga.defined() ? joint_ga.narrow(0, rank, r)
                                             : mm_to_fp32(low_rank.narrow(1, rank, r).t(),
                                                          apply_dropout(x, adapter.dropout)));
        of_part.push_back(mm_to_fp32(part_g.t(), h.narrow(1, rank, r)).mul_(adapter.scaling));
        if (adapter.bias.defined()) of_part.push_back(part_g.sum(0, false, at::kFloat).mul_(adapter.scaling));
        rank += r;
    });
    return out;
}

}  // namespace qlora::ops
