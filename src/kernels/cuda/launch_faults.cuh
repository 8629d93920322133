#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "qlora/kernels/cuda_kernels.h"

/// Whose fault a CUDA error is. A kernel runs after its launch has returned, so what it does wrong is
/// reported by whatever asks CUDA next: only a launch that is refused, or that is waited for, can be named.
namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// Every launch is waited for and what fails is named: CUDA's own switch, which LibTorch's messages name too.
inline bool waits_for_launches() {
    const char* value = std::getenv("CUDA_LAUNCH_BLOCKING");
    return value != nullptr && *value != '\0' && std::strcmp(value, "0") != 0;
}
inline const bool launches_are_waited_for = waits_for_launches();

/// The kernel's name in the compiler's signature of launch<kernel>, without namespaces and parameters; all of
/// the signature where it names none. Plain C: what these files instantiate of the standard library would be
/// linked, with the race checker's hooks in it, for the checker itself too.
struct KernelName {
    char text[160];
};
inline KernelName launched_kernel(const char* signature) {
    constexpr const char* kKey = "kKernel = ";
    const char* begin = std::strstr(signature, kKey);
    std::size_t length = 0;
    if (begin == nullptr) {
        begin = signature;
        length = std::strlen(signature);
    } else {
        begin += std::strlen(kKey);
        // "(anonymous namespace)" is part of the way to the name, any later parenthesis is behind it.
        constexpr const char* kUnnamed = "(anonymous namespace)::";
        if (const char* unnamed = std::strstr(begin, kUnnamed); unnamed != nullptr) {
            begin = unnamed + std::strlen(kUnnamed);
        }
        length = std::strcspn(begin, "<;],(");
        for (std::size_t i = length; i > 0; --i) {
            if (begin[i - 1] != ':') continue;
            begin += i;
            length -= i;
            break;
        }
    }
    KernelName name;
    std::snprintf(name.text, sizeof name.text, "%.*s", static_cast<int>(length), begin);
    return name;
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

/// `text` as printf takes it, with the kernel's name and CUDA's words for the error.
[[noreturn]] inline void throw_launch_fault(const char* text, const char* signature, cudaError_t error) {
    char message[512];
    std::snprintf(message, sizeof message, text, launched_kernel(signature).text, cudaGetErrorString(error));
    throw std::runtime_error(message);
}

inline constexpr const char* kEarlierFault =
    "work that CUDA was given before the kernel %s failed: %s; with CUDA_LAUNCH_BLOCKING=1 the one that "
    "fails is "
    "named";

/// A machine without a driver or a card has an error from the start; the launch itself then says so.
inline void require_no_earlier_fault(const char* signature) {
    if (const cudaError_t error = cudaPeekAtLastError(); is_from_running_kernel(error)) {
        throw_launch_fault(kEarlierFault, signature, error);
    }
}

/// Behind a launch; `waits` also for its end.
inline void require_launched(const char* signature, Stream stream, bool waits = launches_are_waited_for) {
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
        const bool is_earlier = is_from_running_kernel(error) && !waits;
        throw_launch_fault(is_earlier ? kEarlierFault : "CUDA refused to launch the kernel %s: %s", signature,
                           error);
    }
    if (!waits) return;
    if (const cudaError_t error = cudaStreamSynchronize(static_cast<cudaStream_t>(stream));
        error != cudaSuccess) {
        throw_launch_fault("the kernel %s failed: %s", signature, error);
    }
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
