#include "device_adamw.h"

#include <ATen/ops/empty.h>
#include <cmath>
#include <cstring>

#include "qlora/kernels/adamw_8bit_math.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/ops/device.h"

namespace qlora::train {
namespace {

template <class T>
at::Tensor bytes_of(const std::vector<T>& items) {
    const at::Tensor out = at::empty({static_cast<std::int64_t>(items.size() * sizeof(T))}, at::kByte);
    if (!items.empty()) std::memcpy(out.mutable_data_ptr(), items.data(), items.size() * sizeof(T));
    return out;
}

/// All tensors that an update writes, listed as gradients, so that the same kernel can check them for NaN.
std::vector<kernels::AdamwTensor> written_values(const std::vector<kernels::AdamwTensor>& tensors) {
    std::vector<kernels::AdamwTensor> out;
    const auto add = [&](const float* values, std::int64_t n) {
        kernels::AdamwTensor entry{};
        entry.g = values;
        entry.n = n;
        out.push_back(entry);
    };
    for (const kernels::AdamwTensor& tensor : tensors) {
        add(tensor.p, tensor.n);
        const bool codes = tensor.m_codes != nullptr;
        const std::int64_t n = codes ? kernels::block_count(tensor.n, kernels::kAdamwBlocksize) : tensor.n;
        add(codes ? tensor.m_absmax : tensor.m, n);
        add(codes ? tensor.v_absmax : tensor.v, n);
    }
    return out;
}

}  // namespace

kernels::AdamwTables DeviceAdamw::Tables::view() const {
    return {.tensors = static_cast<const kernels::AdamwTensor*>(tensors.const_data_ptr()),
            .chunks = static_cast<const kernels::AdamwChunk*>(chunks.const_data_ptr()),
            .chunk_count = chunk_count};
}

DeviceAdamw::DeviceAdamw(const std::vector<kernels::AdamwTensor>& tensors, const at::Tensor& like)
    : like_(like),
      kernels_(ops::device_kernels(like)),
      gradients_(upload(tensors)),
      values_(upload(written_values(tensors))) {}

DeviceAdamw::Tables DeviceAdamw::upload(const std::vector<kernels::AdamwTensor>& tensors) const {
    const std::vector<kernels::AdamwChunk> chunks = kernels::adamw_chunks(tensors);
    return {.tensors = bytes_of(tensors).to(like_.device()),
            .chunks = bytes_of(chunks).to(like_.device()),
            .chunk_count = static_cast<std::int64_t>(chunks.size())};
}

void DeviceAdamw::step(const kernels::AdamwSettings& settings) const {
    kernels_->adamw_step(gradients_.view(), settings, ops::current_stream(like_));
}

double DeviceAdamw::sum_of_squares(const Tables& tables) const {
    const at::TensorOptions options = like_.options().dtype(at::kDouble);
    const at::Tensor partial = at::empty({tables.chunk_count}, options), sum = at::empty({1}, options);
    kernels_->gradient_sum_of_squares(tables.view(), partial.mutable_data_ptr<double>(),
                                      sum.mutable_data_ptr<double>(), ops::current_stream(like_));
    return sum.item<double>();
}

bool DeviceAdamw::all_finite() const {
    return std::isfinite(sum_of_squares(values_));
}

}  // namespace qlora::train
