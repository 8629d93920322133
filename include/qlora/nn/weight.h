#pragma once

#include <ATen/core/Tensor.h>

#include <variant>

#include "qlora/ops/frozen_weight.h"
#include "qlora/quant/quantized_tensor.h"

namespace qlora::nn {

/// A frozen matrix in one of its storages: dense as on disk, or packed. Values seen by products are rounded
/// to the compute dtype. With `keep_dense(true)` the fp32 form is made once and kept: faster, same bits, more
/// memory.
class Weight final : public ops::FrozenWeight {
  public:
    Weight() = default;
    Weight(at::Tensor dense, at::ScalarType compute_dtype);
    Weight(quant::QuantizedTensor packed, at::ScalarType compute_dtype);

    std::int64_t out_features() const override;
    std::int64_t in_features() const override;
    at::Tensor dense_rows(std::int64_t first, std::int64_t count) const override;
    bool stores(at::ScalarType dtype) const override;
    at::Tensor rows_as(std::int64_t first, std::int64_t count, at::ScalarType dtype) const override;
    at::Tensor multiply_few(const at::Tensor& x) const override;
    /// Whether `multiply_few` gives a result.
    bool multiplies_few() const;
    /// Into `out` [out, in + k] on a device, in its dtype: the weight, and `appended` [out, k] fp32 behind
    /// each row; undefined: nothing.
    void write_extended(at::Tensor out, const at::Tensor& appended) const;
    /// dense_rows(first, n) into `out`, fp32 [n, in], rows contiguous.
    void dense_rows_into(std::int64_t first, at::Tensor& out) const;
    at::ScalarType compute_dtype() const { return compute_dtype_; }

    bool defined() const;
    bool is_quantized() const { return std::holds_alternative<quant::QuantizedTensor>(storage_); }
    const quant::QuantizedTensor& quantized() const { return std::get<quant::QuantizedTensor>(storage_); }
    /// Bytes held, the kept fp32 form not counted.
    std::int64_t bytes() const;
    void keep_dense(bool keep);
    /// Whether it is dense and takes at least as many bytes as in the compute dtype.
    bool can_move() const;
    /// Moves it into `home` [out, in] of the compute dtype, whose rows may lie apart; needs can_move().
    void move_into(at::Tensor home);
    at::Device device() const;
    void to(at::Device device);

  private:
    at::Tensor make_rows(std::int64_t first, std::int64_t count) const;

    std::variant<at::Tensor, quant::QuantizedTensor> storage_;
    at::ScalarType compute_dtype_ = at::kFloat;
    at::Tensor kept_;
};

}  // namespace qlora::nn
