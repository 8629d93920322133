#include "device_projection.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

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

}  // namespace

at::Tensor device_project(const Projections& projections, const RoomyRows& x, const at::Tensor& residual) {
    at::Tensor y = product_from_storage(projections, x.rows());
    if (y.defined()) {
        if (residual.defined()) y.add_(residual);
    } else {
        const DeviceOperands operands = extended(projections).operands();
        const at::Tensor wide = extended_input(projections, x, operands.a);
        y = residual.defined() ? residual.clone().addmm_(wide, operands.weight.t())
                               : at::mm(wide, operands.weight.t());
    }
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        if (part.bias.defined()) y.narrow(1, first, columns).add_(part.bias.detach().to(y.scalar_type()));
    });
    return y;
}

at::Tensor device_project_backward(const Projections& projections, const at::Tensor& g,
                                   at::Tensor& low_rank) {
    const DeviceOperands operands = extended(projections).operands();
    const BaseGradient base = base_gradient(operands, g);
    if (!operands.a.defined()) return base.x;
    low_rank = base.low_rank;
    const at::Tensor& gh = low_rank;
    if (!has_dropout(projections)) return at::addmm(base.x, gh, operands.a);
    at::Tensor gx = base.x.contiguous();
    for_each_adapter(projections, [&](const LowRank& adapter, std::int64_t rank, auto...) {
        const std::int64_t r = adapter.a.size(0);
        const at::Tensor through = at::mm(gh.narrow(1, rank, r), operands.a.narrow(0, rank, r));
        gx.add_(apply_dropout(through, adapter.dropout));
    });
    return gx;
}

std::vector<at::Tensor> device_parameter_gradients(const Projections& projections, const at::Tensor& x,
                                                   const at::Tensor& g, at::Tensor low_rank) {
    const at::Tensor a = extended(projections).a();
    at::Tensor h, joint_ga;
    if (a.defined()) {
        // The same product as when the gradient of x is wanted: the same bits.
        if (!low_rank.defined()) low_rank = base_gradient(extended(projections).operands(), g).low_rank;
        h = at::empty({x.size(0), a.size(0)}, x.options());
        low_rank_inputs(projections, x, a, h);
        if (!has_dropout(projections)) joint_ga = mm_to_fp32(low_rank.t(), x);
    }
    std::vector<at::Tensor> out;
    std::int64_t rank = 0;
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        const at::Tensor part_g = g.narrow(1, first, columns);
        if (part.trained_weight.defined()) out.push_back(mm_to_fp32(part_g.t(), x));
        if (part.bias.defined() && part.bias.requires_grad()) {
            out.push_back(part_g.sum(0, false, at::kFloat).to(part.bias.scalar_type()));
        }
        if (!part.update.low_rank) return;
        const LowRank& adapter = *part.update.low_rank;
        const std::int64_t r = adapter.a.size(0);
        out.push_back(joint_ga.defined()
                          ? joint_ga.narrow(0, rank, r)
                          : mm_to_fp32(low_rank.narrow(1, rank, r).t(), apply_dropout(x, adapter.dropout)));
        out.push_back(mm_to_fp32(part_g.t(), h.narrow(1, rank, r)).mul_(adapter.scaling));
        rank += r;
    });
    return out;
}

}  // namespace qlora::ops
