#include "qlora/nn/weight.h"

namespace qlora::nn {

Weight::Weight(at::Tensor dense, at::ScalarType compute_dtype)
    : storage_(std::move(dense)), compute_dtype_(compute_dtype) {}

Weight::Weight(quant::QuantizedTensor packed, at::ScalarType compute_dtype)
    : storage_(std::move(packed)), compute_dtype_(compute_dtype) {}

std::int64_t Weight::out_features() const {
    return is_quantized() ? quantized().rows : std::get<at::Tensor>(storage_).size(0);
}

std::int64_t Weight::in_features() const {
    return is_quantized() ? quantized().columns : std::get<at::Tensor>(storage_).size(1);
}

bool Weight::defined() const {
    return is_quantized() || std::get<at::Tensor>(storage_).defined();
}

std::int64_t Weight::bytes() const {
    return is_quantized() ? quantized().bytes()
                          : static_cast<std::int64_t>(std::get<at::Tensor>(storage_).nbytes());
}

at::Tensor Weight::make_dense() const {
    if (is_quantized()) return quant::dequantize(quantized(), compute_dtype_).to(at::kFloat);
    const at::Tensor& stored = std::get<at::Tensor>(storage_);
    if (stored.scalar_type() == compute_dtype_ || compute_dtype_ == at::kFloat) return stored.to(at::kFloat);
    return stored.to(compute_dtype_).to(at::kFloat);
}

at::Tensor Weight::dense() const {
    return kept_.defined() ? kept_ : make_dense();
}

void Weight::keep_dense(bool keep) {
    kept_ = keep ? make_dense() : at::Tensor();
}

}  // namespace qlora::nn
