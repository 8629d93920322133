#include "qlora/ops/encoder_nodes.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "qlora/ops/gemm.h"
#include "saved_value.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::Tensor times(const at::Tensor& a, const at::Tensor& b) {
    return a.is_cuda() ? at::mm(a, b) : product(a, b);
}

struct Affine : Function<Affine> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                              const at::Tensor& bias) {
        ctx->save_for_backward({x, weight});
        return times(x, weight.t()).add_(bias);
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor g = grads[0].contiguous();
        at::Tensor d_x;
        if (ctx->needs_input_grad(0)) d_x = times(g, saved[1]);
        return {d_x, mm_to_fp32(g.t(), saved[0]), g.sum(0)};
    }
};

/// The gates of a step [1, 4 h], each [1, h].
struct Gates {
    explicit Gates(const at::Tensor& all) {
        const std::int64_t h = all.size(1) / 4;
        input = all.narrow(1, 0, h);
        forget = all.narrow(1, h, h);
        cell = all.narrow(1, 2 * h, h);
        output = all.narrow(1, 3 * h, h);
    }
    at::Tensor input, forget, cell, output;
};

struct LstmDirection : Function<LstmDirection> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& entered, const at::Tensor& weight,
                              const at::Tensor& bias, bool from_the_end) {
        const std::int64_t n = entered.size(0), h = weight.size(1);
        // Row 0 of states and cells is the start, row i + 1 what step i left.
        const at::Tensor states = at::zeros({n + 1, h}, entered.options());
        const at::Tensor cells = at::zeros({n + 1, h}, entered.options());
        const at::Tensor gates = at::empty({n, 4 * h}, entered.options());
        const at::Tensor out = at::empty({n, h}, entered.options());
        for (std::int64_t i = 0; i < n; ++i) {
            const std::int64_t token = from_the_end ? n - 1 - i : i;
            const at::Tensor sum =
                entered.narrow(0, token, 1) + (times(states.narrow(0, i, 1), weight.t()) + bias);
            const Gates raw(sum), gate(gates.narrow(0, i, 1));
            gate.input.copy_(at::sigmoid(raw.input));
            gate.forget.copy_(at::sigmoid(raw.forget));
            gate.cell.copy_(at::tanh(raw.cell));
            gate.output.copy_(at::sigmoid(raw.output));
            cells.narrow(0, i + 1, 1).copy_(gate.forget * cells.narrow(0, i, 1) + gate.input * gate.cell);
            states.narrow(0, i + 1, 1).copy_(gate.output * at::tanh(cells.narrow(0, i + 1, 1)));
            out.narrow(0, token, 1).copy_(states.narrow(0, i + 1, 1));
        }
        ctx->save_for_backward({states, cells, gates, weight});
        ctx->saved_data["from_the_end"] = from_the_end;
        return out;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor &states = saved[0], &cells = saved[1], &gates = saved[2], &weight = saved[3];
        const std::int64_t n = gates.size(0), h = weight.size(1);
        const bool from_the_end = ctx->saved_data["from_the_end"].toBool();
        const at::Tensor d_gates = at::empty_like(gates), d_entered = at::empty_like(gates);
        at::Tensor d_state = at::zeros({1, h}, gates.options()), d_cell = at::zeros({1, h}, gates.options());
        for (std::int64_t i = n - 1; i >= 0; --i) {
            const std::int64_t token = from_the_end ? n - 1 - i : i;
            const Gates gate(gates.narrow(0, i, 1)), d_gate(d_gates.narrow(0, i, 1));
            const at::Tensor d_out = grads[0].narrow(0, token, 1) + d_state;
            const at::Tensor squashed = at::tanh(cells.narrow(0, i + 1, 1));
            const auto of_sigmoid = [](const at::Tensor& g, const at::Tensor& y) { return g * y * (1 - y); };
            const auto of_tanh = [](const at::Tensor& g, const at::Tensor& y) { return g * (1 - y * y); };
            const at::Tensor d_this = of_tanh(d_out * gate.output, squashed) + d_cell;
            d_gate.output.copy_(of_sigmoid(d_out * squashed, gate.output));
            d_gate.input.copy_(of_sigmoid(d_this * gate.cell, gate.input));
            d_gate.forget.copy_(of_sigmoid(d_this * cells.narrow(0, i, 1), gate.forget));
            d_gate.cell.copy_(of_tanh(d_this * gate.input, gate.cell));
            d_cell = d_this * gate.forget;
            d_state = times(d_gates.narrow(0, i, 1), weight);
            d_entered.narrow(0, token, 1).copy_(d_gates.narrow(0, i, 1));
        }
        return {d_entered, mm_to_fp32(d_gates.t(), states.narrow(0, 0, n)), d_gates.sum(0), at::Tensor()};
    }
};

struct DroppedOut : Function<DroppedOut> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const DropoutSite& site) {
        save_value(ctx, "site", site);
        return apply_dropout(x, site);
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        return {apply_dropout(grads[0], saved_value<DropoutSite>(ctx, "site")), at::Tensor()};
    }
};

}  // namespace

at::Tensor affine(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    return Affine::apply(x, weight, bias);
}

at::Tensor lstm_direction(const at::Tensor& entered, const at::Tensor& weight_hh, const at::Tensor& bias_hh,
                          bool from_the_end) {
    return LstmDirection::apply(entered, weight_hh, bias_hh, from_the_end);
}

at::Tensor dropped_out(const at::Tensor& x, const DropoutSite& site) {
    if (site.p <= 0) return x;
    return DroppedOut::apply(x, site);
}

}  // namespace qlora::ops
