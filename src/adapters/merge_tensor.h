#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>

#include "qlora/adapters/merge.h"
#include "qlora/io/safetensors.h"
#include "qlora/quant/bnb_matrix.h"
#include "qlora/quant/quantized_tensor.h"
#include "weight_update.h"

namespace qlora::adapters {

/// A mapped tensor and the file whose pages are given back once they are used.
struct TensorSource {
    const io::SafetensorsFile* file = nullptr;
    const io::TensorView* view = nullptr;
    const quant::BnbMatrix* stored = nullptr;  ///< of a matrix that the base stores in 4 bits
    bool in_columns = false;  ///< a matrix that is [in, out] on disk where it is dense; written so too
};

/// Elements [first, first + count) of a tensor, as a one-dimensional view.
io::TensorView slice(const io::TensorView& view, std::int64_t first, std::int64_t count);

/// Appends the tensor's bytes, whatever they mean.
void write_copied(const TensorSource& source, io::SafetensorsWriter& writer);

/// Appends the tensor, converted to `dtype` where that differs.
void write_converted(const TensorSource& source, io::DType dtype, io::SafetensorsWriter& writer);

/// Appends what `change` makes of the tensor, fp32 in and out, rounded to `dtype`.
void write_changed(const TensorSource& source, const std::function<at::Tensor(const at::Tensor&)>& change,
                   io::DType dtype, io::SafetensorsWriter& writer);

/// Appends the matrix as NF4 holds it, rounded to `dtype`. Here and below one that is not stored in columns
/// is written a few rows at a time.
void write_dequantized(const TensorSource& source, const quant::QuantConfig& config, io::DType dtype,
                       io::SafetensorsWriter& writer);

/// Appends base + update rounded to `dtype`; the base is the matrix itself or what NF4 makes of it. Without
/// `config` the matrix is one that is never quantized: it has no error.
LayerMeasure write_merged(const TensorSource& source, const WeightUpdate& update, MergeBase base,
                          const std::optional<quant::QuantConfig>& config, io::DType dtype,
                          io::SafetensorsWriter& writer);

/// An adapter's tensor in fp32; CheckpointError if a value is not finite.
at::Tensor load_fp32(const TensorSource& source);

}  // namespace qlora::adapters
