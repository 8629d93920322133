#pragma once

#include <functional>

#include "qlora/ops/projection.h"

/// What forward and backward of a group of linears share.
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

/// Whether the stacked weights hold what the adapters add.
bool is_folded(const Projections& projections);

/// On the CPU: the fp32 weight of the part that begins with row `first` of the group's.
at::Tensor matrix_of(const Projections& projections, const Projection& part, std::int64_t first);

/// Whether output scales and dropout meet (LinearUpdate::drops_base): then in every part that is adapted.
bool drops_base(const Projections& projections);

/// x times the input scale, if the one part has any.
at::Tensor scaled_input(const Projections& projections, const at::Tensor& x);

/// The factors of all columns, fp32 [sum of out]; 1 where a part has none.
at::Tensor output_factors(const Projections& projections);
/// The biases of the parts for which which(part) holds, fp32 [sum of out], 0 elsewhere; undefined of none.
at::Tensor joint_biases(const Projections& projections, const std::function<bool(const Projection&)>& which);
bool scales_bias(const Projection& part);
/// What the group gives for an x of zeros, fp32 [sum of out]; undefined where that is nothing.
at::Tensor constant_of(const Projections& projections);
/// What `project` gives as `product`, of what the output scales multiplied [T, sum of out].
at::Tensor kept_product(const Projections& projections, const at::Tensor& sums, at::ScalarType dtype);

/// The adapters that see x itself, as one: their A one under the other, so that x is read once for all.
struct SharedInput {
    at::Tensor a;                      ///< [sum of r, in]
    std::vector<std::int64_t> begins;  ///< of each part's rows; -1: not among them
};
SharedInput adapters_of_x(const Projections& projections);

}  // namespace qlora::ops
