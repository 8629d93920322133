#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/io/safetensors.h"

namespace qlora::quant {

/// A matrix as [out, in], though some files hold it as [in, out] (transformers' Conv1D, whose weights
/// bitsandbytes transposes too before it quantizes them): the view of the file, or one of a transposed copy
/// that lives as long as this object. CheckpointError when a value to be transposed is not finite.
class MatrixInRows {
  public:
    MatrixInRows(const io::TensorView& stored, bool in_columns);
    MatrixInRows(const MatrixInRows&) = delete;  // the view points into the copy
    MatrixInRows& operator=(const MatrixInRows&) = delete;

    const io::TensorView& view() const { return view_; }

  private:
    at::Tensor copy_;
    io::TensorView view_;
};

}  // namespace qlora::quant
