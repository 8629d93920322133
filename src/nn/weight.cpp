#include "qlora/nn/weight.h"

#include "qlora/ops/device.h"

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

at::Tensor Weight::make_rows(std::int64_t first, std::int64_t count) const {
    if (is_quantized()) {
        return quant::dequantize_rows(quantized(), first, count, compute_dtype_).to(at::kFloat);
    }
    const at::Tensor stored = std::get<at::Tensor>(storage_).narrow(0, first, count);
    if (stored.scalar_type() == compute_dtype_ || compute_dtype_ == at::kFloat) return stored.to(at::kFloat);
    return stored.to(compute_dtype_).to(at::kFloat);
}

at::Tensor Weight::dense_rows(std::int64_t first, std::int64_t count) const {
    return kept_.defined() ? kept_.narrow(0, first, count) : make_rows(first, count);
}

bool Weight::stores(at::ScalarType dtype) const {
    return !is_quantized() && std::get<at::Tensor>(storage_).scalar_type() == dtype;
}

at::Tensor Weight::rows_as(std::int64_t first, std::int64_t count, at::ScalarType dtype) const {
    if (stores(dtype)) return std::get<at::Tensor>(storage_).narrow(0, first, count);
    if (is_quantized()) return quant::dequantize_rows(quantized(), first, count, dtype);
    return dense_rows(first, count).to(dtype);
}

void Weight::write_extended(at::Tensor out, const at::Tensor& appended) const {
    if (is_quantized()) {
        quant::dequantize_extended_into(quantized(), appended, out);
        return;
    }
    out.narrow(1, 0, in_features()).copy_(std::get<at::Tensor>(storage_));
    if (appended.defined()) out.narrow(1, in_features(), appended.size(1)).copy_(appended);
}

at::Device Weight::device() const {
    return is_quantized() ? quantized().codes.device() : std::get<at::Tensor>(storage_).device();
}

void Weight::to(at::Device device) {
    if (is_quantized()) {
        storage_ = quantized().to(device);
    } else if (defined()) {
        storage_ = std::get<at::Tensor>(storage_).to(device);
    }
    if (kept_.defined()) kept_ = kept_.to(device);
}

bool Weight::multiplies_few() const {
    if (is_quantized()) return true;
    const at::Tensor& stored = std::get<at::Tensor>(storage_);
    // 16-bit weights can be read as they are, unless the products' own 16-bit type would round them.
    const bool halves = stored.element_size() == 2 && stored.is_contiguous();
    const bool as_stored = compute_dtype_ == at::kFloat || stored.scalar_type() == compute_dtype_;
    return halves && as_stored && ops::device_kernels(stored) == nullptr;
}

at::Tensor Weight::multiply_few(const at::Tensor& x) const {
    if (!multiplies_few()) return {};
    if (is_quantized()) return quant::multiply_few(quantized(), x, compute_dtype_);
    return quant::multiply_few(std::get<at::Tensor>(storage_), x);
}

bool Weight::can_move() const {
    if (is_quantized() || !defined()) return false;
    const auto stored = std::get<at::Tensor>(storage_).element_size();
    return stored >= static_cast<std::int64_t>(c10::elementSize(compute_dtype_));
}

void Weight::move_into(at::Tensor home) {
    TORCH_CHECK(can_move() && home.scalar_type() == compute_dtype_, "a weight moves in its compute dtype");
    home.copy_(std::get<at::Tensor>(storage_));
    storage_ = std::move(home);
}

void Weight::dense_rows_into(std::int64_t first, at::Tensor& out) const {
    if (is_quantized() && compute_dtype_ == at::kFloat) {
        quant::dequantize_rows_into(quantized(), first, out);
    } else {
        out.copy_(dense_rows(first, out.size(0)));
    }
}

void Weight::keep_dense(bool keep) {
    kept_ = keep ? make_rows(0, out_features()) : at::Tensor();
}

}  // namespace qlora::nn
