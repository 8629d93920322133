#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <algorithm>

#include "../cross_entropy_backends.h"
#include "../head_low_rank.h"
#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops::on_device {
namespace {

/// Calls f(rows of the head, first row, rows): all at once where it is stored in `dtype`, else as many rows
/// as a conversion may take.
template <class F>
void for_each_panel(const FrozenWeight& head, at::ScalarType dtype, F&& f) {
    const std::int64_t total = head.out_features();
    const std::int64_t rows =
        head.stores(dtype) ? total : std::max<std::int64_t>(256, kHeadPanelBytes / (4 * head.in_features()));
    for (std::int64_t first = 0; first < total; first += rows) {
        const std::int64_t count = std::min(rows, total - first);
        f(head.rows_as(first, count, dtype), first, count);
    }
}

/// x W^T + bias.
void products_into(at::Tensor logits, const at::Tensor& hidden, const FrozenWeight& head,
                   const LogitRule& rule) {
    for_each_panel(head, hidden.scalar_type(), [&](const at::Tensor& panel, std::int64_t first, auto count) {
        at::Tensor columns = logits.narrow(1, first, count);
        if (rule.bias.defined()) {
            const at::Tensor bias = rule.bias.narrow(0, first, count).to(hidden.scalar_type());
            at::addmm_out(columns, bias, hidden, panel.t());
        } else {
            at::mm_out(columns, hidden, panel.t());
        }
    });
}

/// Calls f(products of the chunk, with the adapter's if there is one, first row, rows) for each chunk.
template <class F>
void for_each_chunk(const at::Tensor& hidden, const FrozenWeight& head, const LogitRule& rule,
                    const std::optional<HeadLowRank>& low_rank, F&& f) {
    const std::int64_t rows = hidden.size(0);
    const at::Tensor buffer =
        at::empty({std::min(rows, kDeviceLogitsRows), head.out_features()}, hidden.options());
    for (std::int64_t first = 0; first < rows; first += kDeviceLogitsRows) {
        const std::int64_t count = std::min(kDeviceLogitsRows, rows - first);
        const at::Tensor logits = buffer.narrow(0, 0, count);
        products_into(logits, hidden.narrow(0, first, count), head, rule);
        if (low_rank) low_rank->add_to(logits, first);
        f(logits, first, count);
    }
}

}  // namespace

at::Tensor head_logits(const at::Tensor& hidden, const FrozenWeight& head, const LogitRule& rule) {
    at::Tensor logits = at::empty({hidden.size(0), head.out_features()}, hidden.options());
    products_into(logits, hidden, head, rule);
    if (const auto low_rank = low_rank_of(rule, hidden)) low_rank->add_to(logits, 0);
    if (rule.scale != 1.0) logits = logits * rule.scale;
    if (rule.softcap != 0.0) logits = (logits / rule.softcap).tanh_() * rule.softcap;
    return logits.to(at::kFloat);
}

HeadLoss head_loss(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                   const LogitRule& rule, WantedGradients wanted) {
    const kernels::KernelTable& device = *device_kernels(hidden);
    const at::Tensor losses = at::empty({hidden.size(0)}, hidden.options().dtype(at::kDouble));
    HeadLoss out;
    if (wanted.hidden) out.gradient_hidden = at::empty(hidden.sizes(), hidden.options());
    if (wanted.head) {
        out.gradient_head =
            at::zeros({head.out_features(), head.in_features()}, hidden.options().dtype(at::kFloat));
    }
    std::optional<HeadLowRank> low_rank = low_rank_of(rule, hidden);
    const auto chunk = [&](const at::Tensor& logits, std::int64_t first, std::int64_t count) {
        device.softmax_cross_entropy({.logits = logits.mutable_data_ptr(),
                                      .targets = targets.const_data_ptr<std::int64_t>() + first,
                                      .rows = count,
                                      .columns = logits.size(1),
                                      .losses = losses.mutable_data_ptr<double>() + first,
                                      .type = float_type(logits.scalar_type()),
                                      .curve = rule.curve()},
                                     current_stream(hidden));
        if (wanted.hidden) {
            at::Tensor rows = out.gradient_hidden.narrow(0, first, count);
            if (head.stores(hidden.scalar_type())) {
                at::mm_out(rows, logits, head.rows_as(0, head.out_features(), hidden.scalar_type()));
            } else {
                at::Tensor sum = at::zeros(rows.sizes(), rows.options().dtype(at::kFloat));
                for_each_panel(head, hidden.scalar_type(), [&](const at::Tensor& panel, auto begin, auto n) {
                    sum.add_(mm_to_fp32(logits.narrow(1, begin, n), panel));
                });
                rows.copy_(sum);
            }
        }
        if (wanted.head) out.gradient_head.add_(mm_to_fp32(logits.t(), hidden.narrow(0, first, count)));
        if (wanted.low_rank) low_rank->take_gradient(logits, first);
    };
    for_each_chunk(hidden, head, rule, low_rank, chunk);
    if (wanted.low_rank) low_rank->finish(out);
    out.loss = losses.sum().to(at::kFloat);
    return out;
}

TokenScores score_tokens(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                         const LogitRule& rule) {
    const kernels::KernelTable& device = *device_kernels(hidden);
    TokenScores scores{.logprobs = at::empty({hidden.size(0)}, hidden.options().dtype(at::kFloat)),
                       .correct = at::empty({hidden.size(0)}, hidden.options().dtype(at::kBool))};
    const auto chunk = [&](const at::Tensor& logits, std::int64_t first, std::int64_t count) {
        device.score_rows({.logits = logits.const_data_ptr(),
                           .targets = targets.const_data_ptr<std::int64_t>() + first,
                           .rows = count,
                           .columns = logits.size(1),
                           .logprobs = scores.logprobs.mutable_data_ptr<float>() + first,
                           .correct = scores.correct.mutable_data_ptr<bool>() + first,
                           .type = float_type(logits.scalar_type()),
                           .curve = rule.curve()},
                          current_stream(hidden));
    };
    for_each_chunk(hidden, head, rule, low_rank_of(rule, hidden), chunk);
    return scores;
}

}  // namespace qlora::ops::on_device
