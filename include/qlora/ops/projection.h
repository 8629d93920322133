#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <variant>
#include <vector>

#include "qlora/ops/frozen_weight.h"

namespace qlora::ops {

/// Counter of one dropout mask: the same numbers give the same mask on every device and under recomputation.
struct DropoutSite {
    double p = 0.0;          ///< 0 = off
    std::uint64_t seed = 0;  ///< of the run
    std::uint32_t step = 0;  ///< micro-batch since the start of the run
    std::uint32_t site = 0;  ///< of the adapter in the model
};

/// x scaled by 1 / (1 - p) where kept, else 0; x [T, in] fp32, on a device also fp16 and bf16. No gradient of
/// its own.
at::Tensor apply_dropout(const at::Tensor& x, const DropoutSite& site);

/// scaling * ((dropout(x) A^T) B^T + bias), A [r, in] and B [out, r] fp32 (Hu et al. 2021, equation 3; peft's
/// lora.Linear.forward).
struct LowRank {
    at::Tensor a, b;
    at::Tensor bias = {};  ///< [out] fp32 or undefined (peft's lora_bias)
    double scaling = 1.0;
    DropoutSite dropout;
};

/// A factor on each output, [out] fp32: value / norm, which leaves the layer's own bias alone (DoRA's
/// magnitude over the norms of rows, which are constants; Liu et al. 2024), or, without `norm`, value alone,
/// which scales the bias too (IA3).
struct OutputScale {
    at::Tensor value;
    at::Tensor norm = {};

    at::Tensor factor() const;
    bool scales_bias() const { return !norm.defined(); }
};

/// All that an adapter may make of a linear: scale * (W (input_scale x) + low_rank(x)) + bias. Under an
/// output scale what a low rank's dropout drops is dropped for W too, as peft does: y = W (x - dropped) +
/// bias + scale * (W dropped + low_rank(x)), dropped = dropout(x).
struct LinearUpdate {
    std::optional<LowRank> low_rank = {};
    at::Tensor input_scale = {};  ///< [in] fp32 (IA3); only where no other linear shares the input
    std::optional<OutputScale> output_scale = {};

    bool drops_base() const { return output_scale && low_rank && low_rank->dropout.p > 0; }
};

/// One linear layer as products see it.
struct Projection {
    const FrozenWeight* weight = nullptr;
    at::Tensor trained_weight;  ///< fp32 [out, in] in the place of `weight` (modules_to_save), else undefined
    at::Tensor bias;            ///< [out] or undefined
    LinearUpdate update = {};

    std::int64_t out_features() const;
};

/// What a device multiplies with, in the compute dtype.
struct DeviceOperands {
    at::Tensor weight;  ///< [sum of out, in + appended]: each part's rows are W | scaling * B in its columns
    at::Tensor a;       ///< [appended, in]: the parts' A one under the other; undefined without adapters
};

/// Columns that adapters of this rank in all take behind W: a multiple of 8, so that rows stay aligned.
constexpr std::int64_t appended_columns(std::int64_t rank) {
    return (rank + 7) / 8 * 8;
}

/// Each weight by itself: on the CPU where one of them trains.
struct Apart {};

/// On the CPU: all weights one under the other, so that one product serves all.
struct Stacked {
    std::function<at::Tensor()> matrix;  ///< fp32 [sum of out, in]; called once in each pass
    /// Whether it holds W + scaling * B A, so that adapters need no products of their own.
    bool folded = false;
};

/// On a device: weights and adapters as operands of one product.
struct Extended {
    /// Its weight may be a scratch that the next call of any group writes over.
    std::function<DeviceOperands()> operands;
    std::function<at::Tensor()> a;  ///< the operands' `a` alone
};

/// Linear layers of one input, their outputs side by side: y [T, sum of out], of each part what LinearUpdate
/// says.
/// Everything that `parts` point to must outlive backward.
struct Projections {
    std::vector<Projection> parts;
    std::variant<Apart, Stacked, Extended> weights;
    /// Without gradients and for at most kFewRows rows, weights are multiplied as they are stored and
    /// adapters apart: generation reads an eighth of the bytes. The same sums in another order.
    bool from_storage = false;

    std::int64_t out_features() const;
    std::int64_t in_features() const;
    bool scales_outputs() const;
    /// Whether an output scale trains: backward reads the products that it scaled.
    bool keeps_product() const;
    /// What requires a gradient, in the order of ProjectionGradients::of_parameters.
    std::vector<at::Tensor> parameters() const;
};

/// x [T, in] of a product and, if `projection_input` gave the memory, room behind each row for x A^T of the
/// adapters. Any other tensor is x without room, whatever its strides are: what lies between its rows belongs
/// to somebody else.
class RoomyRows {
  public:
    RoomyRows(at::Tensor x) : rows_(std::move(x)) {}  // NOLINT(google-explicit-constructor)

    const at::Tensor& rows() const { return rows_; }
    /// (x | room) [T, in + appended], contiguous; undefined without room.
    const at::Tensor& wide() const { return wide_; }
    /// The same room with `x`, which was written to `rows()`; without room, x alone.
    RoomyRows holding(const at::Tensor& x) const;

  private:
    friend RoomyRows projection_input(const Projections& projections, const at::Tensor& like,
                                      std::int64_t columns);
    RoomyRows(at::Tensor rows, at::Tensor wide) : rows_(std::move(rows)), wide_(std::move(wide)) {}

    at::Tensor rows_, wide_;
};

/// Memory for an x of `columns` with as many rows as `like`, with room for what adapters append: saves
/// `project` a copy. Its rows() are undefined where no kernels of a device run.
RoomyRows projection_input(const Projections& projections, const at::Tensor& like, std::int64_t columns);

/// y in x's dtype. Sums in fp32; in bf16 the base's result is rounded before the adapter's is added in fp32
/// and the sum rounded, as peft does, while a device makes both in one product. In fp32 and on a device
/// `residual` [T, sum of out], if defined, is where the sums start; in bf16 on the CPU it is added to the
/// rounded y.
/// With a multiplier the result is residual + multiplier * y, each operation rounded.
/// The room behind x, if any, is written. Output scales multiply the sums in fp32 before a residual is added.
/// `product`, unless null, gets what they multiplied [T, sum of out of the parts whose scale trains], in x's
/// dtype, where keeps_product().
at::Tensor project(const Projections& projections, const RoomyRows& x, const at::Tensor& residual = {},
                   double multiplier = 1.0, at::Tensor* product = nullptr);

/// Gradients behind y = project(projections, x), which must live as long.
class ProjectionGradients {
  public:
    /// g [T, sum of out]: that of y. `product`: what `project` gave; without it `of_parameters` is not asked
    /// for the gradients of output scales.
    ProjectionGradients(const Projections& projections, at::Tensor g, at::Tensor product = {});

    /// Of x, in g's dtype. Where its product makes scaling * g B besides, `of_parameters` saves one.
    at::Tensor of_input();
    /// Of projections.parameters(); x as `project` read it.
    std::vector<at::Tensor> of_parameters(const at::Tensor& x);
    /// The same for g with each row times its weight, `weights` [T].
    ProjectionGradients weighted(const at::Tensor& weights, at::Tensor product = {}) const;

  private:
    /// Of input_scale * x, which the products read.
    at::Tensor of_read_input();
    /// Of each part all but its scales.
    std::vector<std::vector<at::Tensor>> of_matrices_and_biases(const at::Tensor& x) const;

    const Projections& projections_;
    at::Tensor g_;
    at::Tensor behind_;  ///< g times the output scales: that of the products
    std::vector<at::Tensor>
        scales_;               ///< of each part's output scale, where it trains and `product` was given
    at::Tensor low_rank_;      ///< scaling * behind_ B of all adapters, if it is made
    at::Tensor scaled_input_;  ///< of input_scale * x, if it is made
};

/// values * weights, a weight a row, in the dtype of the values.
at::Tensor weighted_rows(const at::Tensor& values, const at::Tensor& weights);

}  // namespace qlora::ops
