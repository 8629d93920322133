#pragma once

#include "qlora/ops/projection.h"

namespace qlora::ops {

/// Calls f(part, first column, columns) for each part.
template <class F>
void for_each_part(const Projections& projections, F&& f) {
    std::int64_t first = 0;
    for (const Projection& part : projections.parts) {
        const std::int64_t columns = part.out_features();
        f(part, first, columns);
        first += columns;
    }
}

/// x W^T of all parts from their stored weights; undefined unless every part can and x is short enough.
at::Tensor stored_product(const Projections& projections, const at::Tensor& x);

/// The same with the stacked weights made now, for two products.
Projections with_weights_made(Projections projections);

}  // namespace qlora::ops
