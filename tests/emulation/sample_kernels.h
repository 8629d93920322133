#pragma once

/// Kernels that test the emulated grid itself. Each reads `count` values from `in` and writes as many to
/// `out` unless it says otherwise.
namespace qlora::emulation {

using Sample = void (*)(const float* in, float* out, int count);

/// broken_kernels.cu, by name; lines at fault carry the remark `fault: name`. Throws std::out_of_range.
Sample broken_kernel(const char* name);

/// correct_kernels.cu.
Sample correct_kernel(const char* name);

}  // namespace qlora::emulation
