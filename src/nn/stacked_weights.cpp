#include "qlora/nn/stacked_weights.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "grouped_linears.h"
#include "qlora/nn/row_blocks.h"

namespace qlora::nn {

bool StackedWeights::folds() const {
    return std::all_of(linears_.begin(), linears_.end(), [](const Linear* linear) {
        return linear->weight().compute_dtype() == at::kFloat &&
               (linear->adapter() == nullptr || linear->adapter()->folds());
    });
}

void StackedWeights::keep(bool keep) {
    keeps_ = keep;
    kept_ = at::Tensor();
}

at::Tensor StackedWeights::matrix() const {
    if (!keeps_) return make();
    std::vector<std::int64_t> now = adapter_versions(linears_);
    if (!kept_.defined() || now != kept_versions_) {
        kept_ = at::Tensor();  // its memory serves the new one
        kept_ = make();
        kept_versions_ = std::move(now);
    }
    return kept_;
}

at::Tensor StackedWeights::make() const {
    const at::AutoGradMode no_gradients(false);
    const bool adds = folds();
    at::Tensor out = at::empty({rows_of(linears_), linears_.front()->in_features()}, at::kFloat);
    std::int64_t first = 0;
    for (const Linear* linear : linears_) {
        at::Tensor part = out.narrow(0, first, linear->out_features());
        first += linear->out_features();
        for_each_row_block(part.size(0), part.size(1), [&](std::int64_t first_row, std::int64_t count) {
            at::Tensor rows = part.narrow(0, first_row, count);
            linear->weight().dense_rows_into(first_row, rows);
            if (adds && linear->adapter() != nullptr) linear->adapter()->add_delta(rows, first_row);
        });
    }
    return out;
}

}  // namespace qlora::nn
