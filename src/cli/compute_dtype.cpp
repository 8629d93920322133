#include "compute_dtype.h"

#include "qlora/core/error.h"
#include "run_config_checks.h"

namespace qlora::cli {
namespace {

using quant::ComputeDtype;

/// The first with arithmetic in bfloat16 (Ampere).
constexpr ops::ComputeCapability kBfloat16Since{8, 0};

/// Why the device cannot compute in `dtype`; empty when it can.
std::string dtype_fault(ComputeDtype dtype, const Gpu& gpu) {
    // On the CPU it would need the loss scaler, and gains nothing.
    if (dtype == ComputeDtype::kFloat16 && !gpu) return kFloat16NeedsGpu;
    if (dtype == ComputeDtype::kBfloat16 && gpu && *gpu < kBfloat16Since) {
        return "bfloat16 needs a GPU of compute capability " + kBfloat16Since.text() +
               " or newer, this one has " + gpu->text() + R"(; use "float16" or "auto")";
    }
    return {};
}

ComputeDtype automatic(const Gpu& gpu) {
    if (!gpu) return ComputeDtype::kFloat32;
    return *gpu < kBfloat16Since ? ComputeDtype::kFloat16 : ComputeDtype::kBfloat16;
}

}  // namespace

Gpu gpu_of(at::Device device) {
    return device.is_cuda() ? Gpu(ops::compute_capability(device)) : std::nullopt;
}

ComputeDtype resolve_compute_dtype(ComputeDtype asked, const Gpu& gpu) {
    const std::string fault = dtype_fault(asked, gpu);
    if (!fault.empty()) throw ConfigError("quantization.bnb_4bit_compute_dtype: " + fault);
    return asked == ComputeDtype::kAuto ? automatic(gpu) : asked;
}

at::ScalarType compute_dtype(const quant::QuantConfig& quantization, const Gpu& gpu) {
    ComputeDtype dtype = quantization.bnb_4bit_compute_dtype;
    if (dtype == ComputeDtype::kAuto) dtype = automatic(gpu);
    if (!dtype_fault(dtype, gpu).empty()) return at::kFloat;
    if (dtype == ComputeDtype::kBfloat16) return at::kBFloat16;
    return dtype == ComputeDtype::kFloat16 ? at::kHalf : at::kFloat;
}

}  // namespace qlora::cli
