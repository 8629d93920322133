#pragma once

/// `cuda`, or `emulated` where the tests compile the kernels for the CPU; one program may use both.
#ifndef QLORA_KERNEL_BACKEND
#define QLORA_KERNEL_BACKEND cuda
#endif

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// A cudaStream_t as a plain handle; null is the default stream.
using Stream = void*;

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
