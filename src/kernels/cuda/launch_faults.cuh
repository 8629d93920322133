#pragma once

#include <cuda_runtime.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "qlora/kernels/cuda_kernels.h"

/// Whose fault a CUDA error is. A kernel runs after its launch has returned, so what it does wrong is
/// reported by whatever asks CUDA next: only a launch that is refused, or that is waited for, can be named.
namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// Every launch is waited for and what fails is named: CUDA's own switch, which LibTorch's messages name too.
inline bool waits_for_launches() {
    const char* value = std::getenv("CUDA_LAUNCH_BLOCKING");
    return value != nullptr && *value != '\0' && std::string_view(value) != "0";
}
inline const bool launches_are_waited_for = waits_for_launches();

/// The kernel's name in the compiler's signature of launch<kernel>, without namespaces and parameters.
inline std::string launched_kernel(std::string_view signature) {
    constexpr std::string_view kKey = "kKernel = ";
    const std::size_t key = signature.find(kKey);
    if (key == std::string_view::npos) return std::string(signature);
    std::string_view name = signature.substr(key + kKey.size());
    name = name.substr(0, name.find_first_of("<;],("));
    return std::string(name.substr(name.rfind(':') + 1));
}

/// Errors of a kernel that ran, or of the device: never of a launch itself.
inline bool is_from_running_kernel(cudaError_t error) {
    switch (error) {
        case cudaErrorIllegalAddress:
        case cudaErrorMisalignedAddress:
        case cudaErrorInvalidAddressSpace:
        case cudaErrorIllegalInstruction:
        case cudaErrorInvalidPc:
        case cudaErrorHardwareStackError:
        case cudaErrorLaunchFailure:
        case cudaErrorLaunchTimeout:
        case cudaErrorAssert:
        case cudaErrorECCUncorrectable:
            return true;
        default:
            return false;
    }
}

[[noreturn]] inline void throw_earlier_fault(std::string_view signature, cudaError_t error) {
    throw std::runtime_error("work that CUDA was given before the kernel " + launched_kernel(signature) +
                             " failed: " + cudaGetErrorString(error) +
                             "; with CUDA_LAUNCH_BLOCKING=1 the one that fails is named");
}

inline void require_no_earlier_fault(std::string_view signature) {
    if (const cudaError_t error = cudaPeekAtLastError(); error != cudaSuccess) {
        throw_earlier_fault(signature, error);
    }
}

/// Behind a launch; `waits` also for its end.
inline void require_launched(std::string_view signature, Stream stream,
                             bool waits = launches_are_waited_for) {
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
        if (is_from_running_kernel(error) && !waits) throw_earlier_fault(signature, error);
        throw std::runtime_error("CUDA refused to launch the kernel " + launched_kernel(signature) + ": " +
                                 cudaGetErrorString(error));
    }
    if (!waits) return;
    if (const cudaError_t error = cudaStreamSynchronize(static_cast<cudaStream_t>(stream));
        error != cudaSuccess) {
        throw std::runtime_error("the kernel " + launched_kernel(signature) +
                                 " failed: " + cudaGetErrorString(error));
    }
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
