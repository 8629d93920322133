#include "merge_tensor.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <algorithm>
#include <cmath>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/quant/matrix_in_rows.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::adapters {
namespace {

/// Values held in fp32 at a time: about 1 MiB each of a dozen temporaries, which stay in the processor's
/// cache.
constexpr std::int64_t kBlockValues = 1 << 18;

void require_finite(const at::Tensor& values, const std::string& name) {
    if (values.isfinite().all().item<bool>()) return;
    throw CheckpointError("tensor " + name + " holds a value that is not finite; the file is damaged");
}

/// fp32 values to be written under `dtype`: rounded once, and still finite.
at::Tensor rounded(const at::Tensor& values, io::DType dtype, const std::string& name) {
    at::Tensor out = values.to(quant::scalar_type_of(dtype));
    if (!out.isfinite().all().item<bool>()) {
        throw ConfigError("tensor " + name + " has values up to " +
                          std::to_string(values.abs().max().item<float>()) + ", which do not fit " +
                          std::string(io::name_of(dtype)) + "; use --dtype bfloat16 or float32");
    }
    return out;
}

/// The matrix [out, in] in NF4: as stored, or `rows` quantized here (which refuses what is not finite).
quant::QuantizedTensor packed_form(const TensorSource& source, const io::TensorView& rows,
                                   const quant::QuantConfig& config) {
    if (source.stored != nullptr) return quant::load_quantized(*source.stored);
    return quant::quantize(rows, config);
}

/// Takes a matrix [out, in] a few rows at a time and appends it as its file holds it.
class MatrixSink {
  public:
    MatrixSink(bool in_columns, io::SafetensorsWriter& writer) : in_columns_(in_columns), writer_(writer) {}

    void append(const at::Tensor& rows) {
        if (in_columns_) {
            kept_.push_back(rows);
        } else {
            writer_.append(quant::bytes_of(rows));
        }
    }
    void finish() {
        if (in_columns_) writer_.append(quant::bytes_of(at::cat(kept_, 0).t().contiguous()));
    }

  private:
    bool in_columns_;
    io::SafetensorsWriter& writer_;
    std::vector<at::Tensor> kept_;
};

/// Calls `row_block(first row, rows)` for all rows of a matrix, a block of about kBlockValues at a time.
template <class RowBlock>
void for_row_blocks(std::int64_t rows, std::int64_t columns, RowBlock&& row_block) {
    const std::int64_t step = std::max<std::int64_t>(1, kBlockValues / std::max<std::int64_t>(1, columns));
    for (std::int64_t first = 0; first < rows; first += step) row_block(first, std::min(step, rows - first));
}

at::Tensor rows_fp32(const io::TensorView& matrix, std::int64_t first, std::int64_t count) {
    const std::int64_t columns = matrix.shape.at(1);
    return quant::tensor_from_view(slice(matrix, first * columns, count * columns))
        .to(at::kFloat)
        .view({count, columns});
}

/// The precision in which products saw the NF4 values.
at::ScalarType value_dtype(const quant::QuantConfig& config) {
    switch (config.bnb_4bit_compute_dtype) {
        case quant::ComputeDtype::kBfloat16:
            return at::kBFloat16;
        case quant::ComputeDtype::kFloat16:
            return at::kHalf;
        default:
            return at::kFloat;
    }
}

at::Tensor nf4_rows(const quant::QuantizedTensor& packed, const quant::QuantConfig& config,
                    std::int64_t first, std::int64_t count) {
    return quant::dequantize_rows(packed, first, count, value_dtype(config)).to(at::kFloat);
}

double square_sum(const at::Tensor& values) {
    return values.to(at::kDouble).square_().sum().item<double>();
}

/// Bits of a tensor as integers, for comparison: 0 and -0 differ.
at::Tensor bits_of(const at::Tensor& values) {
    return values.view(values.element_size() == 4 ? at::kInt : at::kShort);
}

}  // namespace

io::TensorView slice(const io::TensorView& view, std::int64_t first, std::int64_t count) {
    const std::size_t width = io::size_of(view.dtype);
    return {
        view.name,
        view.dtype,
        {count},
        view.bytes.subspan(static_cast<std::size_t>(first) * width, static_cast<std::size_t>(count) * width)};
}

std::optional<double> LayerMeasure::ratio() const {
    if (quantization_error == 0) return std::nullopt;
    return delta / quantization_error;
}

void write_copied(const TensorSource& source, io::SafetensorsWriter& writer) {
    writer.append(source.view->bytes);
    source.file->release(*source.view);
}

void write_converted(const TensorSource& source, io::DType dtype, io::SafetensorsWriter& writer) {
    const io::TensorView& view = *source.view;
    const std::int64_t n = view.elements();
    for (std::int64_t first = 0; first < n; first += kBlockValues) {
        const io::TensorView part = slice(view, first, std::min(kBlockValues, n - first));
        const at::Tensor values = quant::tensor_from_view(part);
        require_finite(values, view.name);
        if (view.dtype == dtype) {
            writer.append(part.bytes);
        } else {
            writer.append(quant::bytes_of(rounded(values.to(at::kFloat), dtype, view.name)));
        }
        source.file->release(part);
    }
}

void write_changed(const TensorSource& source, const std::function<at::Tensor(const at::Tensor&)>& change,
                   io::DType dtype, io::SafetensorsWriter& writer) {
    writer.append(quant::bytes_of(rounded(change(load_fp32(source)), dtype, source.view->name)));
}

void write_dequantized(const TensorSource& source, const quant::QuantConfig& config, io::DType dtype,
                       io::SafetensorsWriter& writer) {
    const quant::MatrixInRows matrix(*source.view, source.in_columns && source.stored == nullptr);
    const quant::QuantizedTensor packed = packed_form(source, matrix.view(), config);
    source.file->release(*source.view);
    MatrixSink sink(source.in_columns, writer);
    for_row_blocks(packed.rows, packed.columns, [&](std::int64_t first, std::int64_t count) {
        sink.append(rounded(nf4_rows(packed, config, first, count), dtype, source.view->name));
    });
    sink.finish();
}

LayerMeasure write_merged(const TensorSource& source, const WeightUpdate& update, MergeBase base,
                          const std::optional<quant::QuantConfig>& config, io::DType dtype,
                          io::SafetensorsWriter& writer) {
    const quant::MatrixInRows matrix(*source.view, source.in_columns && source.stored == nullptr);
    const io::TensorView& view = matrix.view();
    std::optional<quant::QuantizedTensor> packed;
    if (config) packed = packed_form(source, view, *config);
    MatrixSink sink(source.in_columns, writer);
    LayerMeasure measure;
    double delta_squares = 0, error_squares = 0;
    const std::int64_t rows = packed ? packed->rows : view.shape.at(0);
    const std::int64_t columns = packed ? packed->columns : view.shape.at(1);
    for_row_blocks(rows, columns, [&](std::int64_t first, std::int64_t count) {
        at::Tensor nf4, original;
        if (packed) nf4 = nf4_rows(*packed, *config, first, count);
        if (source.stored == nullptr) original = rows_fp32(view, first, count);
        if (!original.defined()) original = nf4;
        if (!nf4.defined()) nf4 = original;
        const at::Tensor& start = base == MergeBase::kDequantized ? nf4 : original;
        const at::Tensor delta = update.delta(start, first);
        const at::Tensor out = rounded(start + delta, dtype, view.name);
        sink.append(out);

        delta_squares += square_sum(delta);
        error_squares += square_sum(original - nf4);
        const at::Tensor changed = delta.ne(0);
        const at::Tensor same = bits_of(out).eq(bits_of(start.to(out.scalar_type())));
        measure.changed += changed.sum().item<std::int64_t>();
        measure.rounded_back += changed.logical_and(same).sum().item<std::int64_t>();
    });
    sink.finish();
    source.file->release(*source.view);
    measure.delta = std::sqrt(delta_squares);
    measure.quantization_error = std::sqrt(error_squares);
    return measure;
}

at::Tensor load_fp32(const TensorSource& source) {
    at::Tensor out = quant::tensor_from_view(*source.view).to(at::kFloat);
    require_finite(out, source.file->path().string() + ": " + source.view->name);
    source.file->release(*source.view);
    return out;
}

}  // namespace qlora::adapters
