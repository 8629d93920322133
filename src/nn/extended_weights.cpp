#include "qlora/nn/extended_weights.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "grouped_linears.h"

namespace qlora::nn {

void ExtendedWeights::keep(bool keep) {
    keeps_ = keep;
    if (!holds_weights_) kept_ = at::Tensor();
}

bool ExtendedWeights::move_together() {
    const bool all_can = std::all_of(linears_.begin(), linears_.end(),
                                     [](const Linear* linear) { return linear->weight().can_move(); });
    if (!all_can || trains_a_weight(linears_)) return false;
    const at::AutoGradMode no_gradients(false);
    const std::vector<std::int64_t> shape = scratch_shape();
    if (holds_weights_ && kept_.sizes() == shape) return true;
    const Weight& weight = linears_.front()->weight();
    kept_ = at::empty(shape, at::TensorOptions(weight.device()).dtype(weight.compute_dtype()));
    kept_versions_.clear();  // of the columns: they are written at the first use
    std::int64_t first = 0;
    for (Linear* linear : linears_) {
        const std::int64_t rows = linear->out_features();
        linear->weight().move_into(kept_.narrow(0, first, rows).narrow(1, 0, linear->in_features()));
        first += rows;
    }
    holds_weights_ = true;
    return true;
}

at::Tensor ExtendedWeights::a() const {
    update_adapters();
    return a_;
}

void ExtendedWeights::update_adapters() const {
    std::vector<std::int64_t> now = adapter_versions(linears_);
    if (now.empty() || (a_.defined() && now == adapter_versions_)) return;
    const at::AutoGradMode no_gradients(false);
    const Weight& weight = linears_.front()->weight();
    const at::TensorOptions options = at::TensorOptions(weight.device()).dtype(at::kFloat);
    at::Tensor a = at::zeros({appended_columns(), linears_.front()->in_features()}, options);
    columns_ = at::zeros({rows_of(linears_), appended_columns()}, options);
    std::int64_t first = 0, column = 0;
    for (const Linear* linear : linears_) {
        const std::int64_t out = linear->out_features();
        if (linear->used_adapter() != nullptr) {
            const std::optional<ops::LowRank> part = linear->used_adapter()->update({}).low_rank;
            if (part) {
                const std::int64_t r = part->a.size(0);
                a.narrow(0, column, r).copy_(part->a);
                columns_.narrow(0, first, out).narrow(1, column, r).copy_(part->b).mul_(part->scaling);
                column += r;
            }
        }
        first += out;
    }
    a_ = a.to(weight.compute_dtype());
    adapter_versions_ = std::move(now);
}

std::int64_t ExtendedWeights::appended_columns() const {
    std::int64_t rank = 0;
    for (const Linear* linear : linears_) {
        if (linear->used_adapter() == nullptr) continue;
        if (const std::optional<ops::LowRank> part = linear->used_adapter()->update({}).low_rank)
            rank += part->a.size(0);
    }
    return ops::appended_columns(rank);
}

std::vector<std::int64_t> ExtendedWeights::scratch_shape() const {
    return {rows_of(linears_), linears_.front()->in_features() + appended_columns()};
}

std::vector<at::Tensor> ExtendedWeights::scratch_inputs() const {
    if (columns_.defined()) return {columns_};
    return {};
}

void ExtendedWeights::write_scratch(at::Tensor& out) const {
    std::int64_t first = 0;
    for (const Linear* linear : linears_) {
        const std::int64_t rows = linear->out_features();
        at::Tensor part = out.narrow(0, first, rows);
        const at::Tensor columns = columns_.defined() ? columns_.narrow(0, first, rows) : columns_;
        first += rows;
        if (linear->trains_whole_module()) {
            part.narrow(1, 0, linear->in_features()).copy_(linear->trained_weight().detach());
            if (columns.defined()) part.narrow(1, linear->in_features(), columns.size(1)).copy_(columns);
        } else {
            linear->weight().write_extended(part, columns);
        }
    }
}

ops::DeviceOperands ExtendedWeights::operands() const {
    const at::AutoGradMode no_gradients(false);
    update_adapters();
    // A weight that trains changes at every step, and no version counts that: it is written for each product.
    const bool trains = trains_a_weight(linears_);
    const bool keeps = (keeps_ || holds_weights_) && !trains;
    if (!keeps && scratch_ != nullptr && !trains) return {.weight = scratch_->acquire(*this), .a = a_};
    if (keeps && kept_.defined()) {
        if (a_.defined() && kept_versions_ != adapter_versions_) {
            kept_.narrow(1, linears_.front()->in_features(), a_.size(0)).copy_(columns_);
            kept_versions_ = adapter_versions_;
        }
        return {.weight = kept_, .a = a_};
    }
    const Weight& weight = linears_.front()->weight();
    at::Tensor out =
        at::empty(scratch_shape(), at::TensorOptions(weight.device()).dtype(weight.compute_dtype()));
    write_scratch(out);
    if (keeps) {
        kept_ = out;
        kept_versions_ = adapter_versions_;
    }
    return {.weight = out, .a = a_};
}

}  // namespace qlora::nn
