#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "qlora/kernels/kernel_table.h"

/// Where tensors live and which kernels serve them there.
namespace qlora::ops {

/// "cpu", "cuda", "cuda:N", or "auto": CUDA where the plug-in loads and a GPU answers, else the CPU. Loads
/// LibTorch's CUDA library and the kernels when it chooses CUDA, so it comes before any other use of a GPU.
/// ConfigError with the reason when a GPU was asked for and cannot be used; `setting` is what asked.
at::Device select_device(const std::string& name, const std::string& setting = "model.device");

/// Why CUDA cannot be used on this machine or with this build, in one sentence, or nothing; loads what CUDA
/// needs when it is first asked.
std::string cuda_fault();
/// Whether this machine means to have a GPU.
bool has_nvidia_driver();

/// Kernels for tensors on a device; null where the CPU's own paths run.
const kernels::KernelTable* device_kernels(at::Device device);
inline const kernels::KernelTable* device_kernels(const at::Tensor& x) {
    return device_kernels(x.device());
}

/// The stream that work on x's device is queued on, as kernels take it.
void* current_stream(const at::Tensor& x);

/// Bytes of a GPU that nobody uses, and the most that this program's tensors have held of it.
std::int64_t free_device_bytes(at::Device device);
std::int64_t peak_device_bytes(at::Device device);

/// Before the first use of a GPU: the same bits at every run, at some cost (training.full_determinism).
void use_deterministic_algorithms();

/// fp32, fp16 and bf16 as kernels name them.
kernels::FloatType float_type(at::ScalarType dtype);

/// While it lives, CPU tensors are served by these kernels: the device `emulated` of the tests.
class CpuKernelsGuard {
  public:
    explicit CpuKernelsGuard(const kernels::KernelTable& table);
    ~CpuKernelsGuard();
    CpuKernelsGuard(const CpuKernelsGuard&) = delete;
    CpuKernelsGuard& operator=(const CpuKernelsGuard&) = delete;
};

}  // namespace qlora::ops
