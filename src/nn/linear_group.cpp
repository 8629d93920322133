#include "qlora/nn/linear_group.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "qlora/ops/device.h"

namespace qlora::nn {
namespace {

/// The linear's adapter, unless the whole linear is trained in its place.
const LinearAdapter* adapter_of(const Linear* linear) {
    return linear->trains_whole_module() ? nullptr : linear->adapter();
}

/// Calls f(rows, first row) on all threads for blocks of rows that stay in a core's second cache.
template <class F>
void for_each_block(const at::Tensor& matrix, F&& f) {
    constexpr std::int64_t kElements = 1 << 16, kLeastRows = 16;
    const std::int64_t total = matrix.size(0);
    const std::int64_t rows = std::max(kLeastRows, kElements / std::max<std::int64_t>(1, matrix.size(1)));
    // Blocks of equal size, not a small last one: products of very few rows use another loop.
    const std::int64_t count = (total + rows - 1) / rows;
    at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t block = begin; block < end; ++block) {
            const std::int64_t first = total * block / count, next = total * (block + 1) / count;
            f(matrix.narrow(0, first, next - first), first);
        }
    });
}

}  // namespace

LinearGroup::LinearGroup(std::vector<Linear*> linears) : linears_(std::move(linears)) {}

bool LinearGroup::trains_a_weight() const {
    return std::any_of(linears_.begin(), linears_.end(),
                       [](const Linear* linear) { return linear->trains_whole_module(); });
}

bool LinearGroup::folds() const {
    return std::all_of(linears_.begin(), linears_.end(), [](const Linear* linear) {
        return linear->weight().compute_dtype() == at::kFloat &&
               (linear->adapter() == nullptr || linear->adapter()->folds());
    });
}

void LinearGroup::keep_dense(bool keep) {
    keeps_ = keep;
    if (!holds_weights_) kept_ = at::Tensor();
}

bool LinearGroup::move_weights_together() {
    const bool all_can = std::all_of(linears_.begin(), linears_.end(),
                                     [](const Linear* linear) { return linear->weight().can_move(); });
    if (!runs_on_device() || !all_can || trains_a_weight()) return false;
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

ops::Projections LinearGroup::projections(const ForwardContext& context) const {
    ops::Projections out;
    for (const Linear* linear : linears_) {
        ops::Projection part{
            .weight = &linear->weight(), .trained_weight = linear->trained_weight(), .bias = linear->bias()};
        if (adapter_of(linear) != nullptr) part.adapter = adapter_of(linear)->low_rank(context);
        out.parts.push_back(std::move(part));
    }
    // Never with recomputation: its second pass has gradients on and must give the bits of the first.
    out.uses_stored_weights =
        !context.training && context.recomputation == Recomputation::kNone && !at::GradMode::is_enabled();
    if (runs_on_device()) {
        out.device_operands = [this] { return device_operands(); };
        out.device_a = [this] {
            update_adapters();
            return a_;
        };
        return out;
    }
    if (trains_a_weight()) return out;
    out.stacked = [this] { return stacked(); };
    out.folded = folds();
    return out;
}

std::vector<std::int64_t> LinearGroup::versions() const {
    std::vector<std::int64_t> out;
    for (const Linear* linear : linears_) {
        if (adapter_of(linear) == nullptr) continue;
        for (const auto& [name, tensor] : adapter_of(linear)->parameters()) out.push_back(tensor._version());
    }
    return out;
}

at::Tensor LinearGroup::stacked() const {
    if (!keeps_) return make_stacked();
    std::vector<std::int64_t> now = versions();
    if (!kept_.defined() || now != kept_versions_) {
        kept_ = at::Tensor();  // its memory serves the new one
        kept_ = make_stacked();
        kept_versions_ = std::move(now);
    }
    return kept_;
}

at::Tensor LinearGroup::make_stacked() const {
    const at::AutoGradMode no_gradients(false);
    const bool adds = folds();
    at::Tensor out = at::empty({out_features(), linears_.front()->in_features()}, at::kFloat);
    std::int64_t first = 0;
    for (const Linear* linear : linears_) {
        at::Tensor part = out.narrow(0, first, linear->out_features());
        first += linear->out_features();
        for_each_block(part, [&](at::Tensor rows, std::int64_t first_row) {
            linear->weight().dense_rows_into(first_row, rows);
            if (adds && linear->adapter() != nullptr) linear->adapter()->add_delta(rows, first_row);
        });
    }
    return out;
}

bool LinearGroup::runs_on_device() const {
    const Weight& weight = linears_.front()->weight();
    return weight.defined() && ops::device_kernels(weight.device()) != nullptr;
}

void LinearGroup::update_adapters() const {
    std::vector<std::int64_t> now = versions();
    if (now.empty() || (a_.defined() && now == adapter_versions_)) return;
    const at::AutoGradMode no_gradients(false);
    const Weight& weight = linears_.front()->weight();
    const at::TensorOptions options = at::TensorOptions(weight.device()).dtype(at::kFloat);
    at::Tensor a = at::zeros({appended_columns(), linears_.front()->in_features()}, options);
    columns_ = at::zeros({out_features(), appended_columns()}, options);
    std::int64_t first = 0, column = 0;
    for (const Linear* linear : linears_) {
        const std::int64_t out = linear->out_features();
        if (adapter_of(linear) != nullptr) {
            const ops::LowRank part = adapter_of(linear)->low_rank({});
            const std::int64_t r = part.a.size(0);
            a.narrow(0, column, r).copy_(part.a);
            columns_.narrow(0, first, out).narrow(1, column, r).copy_(part.b).mul_(part.scaling);
            column += r;
        }
        first += out;
    }
    a_ = a.to(weight.compute_dtype());
    adapter_versions_ = std::move(now);
}

std::int64_t LinearGroup::out_features() const {
    std::int64_t rows = 0;
    for (const Linear* linear : linears_) rows += linear->out_features();
    return rows;
}

std::int64_t LinearGroup::appended_columns() const {
    std::int64_t rank = 0;
    for (const Linear* linear : linears_) {
        if (adapter_of(linear) != nullptr) rank += adapter_of(linear)->low_rank({}).a.size(0);
    }
    return ops::appended_columns(rank);
}

std::vector<std::int64_t> LinearGroup::scratch_shape() const {
    return {out_features(), linears_.front()->in_features() + appended_columns()};
}

std::vector<at::Tensor> LinearGroup::scratch_inputs() const {
    if (columns_.defined()) return {columns_};
    return {};
}

void LinearGroup::write_scratch(at::Tensor& out) const {
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

ops::DeviceOperands LinearGroup::device_operands() const {
    const at::AutoGradMode no_gradients(false);
    update_adapters();
    // A weight that trains changes at every step, and no version counts that: it is written for each product.
    const bool keeps = (keeps_ || holds_weights_) && !trains_a_weight();
    if (!keeps && scratch_ != nullptr && !trains_a_weight()) {
        return {.weight = scratch_->acquire(*this), .a = a_};
    }
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
