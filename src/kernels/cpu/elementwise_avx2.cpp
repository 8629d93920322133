#if defined(__x86_64__)
// These headers come first: their inline functions must not be compiled for AVX2, as the linker may choose
// that copy for the whole program.
#include <cmath>
#include <cstdint>

#include "elementwise_path.h"
#include "qlora/kernels/float16.h"

#if defined(__clang__)
#pragma clang attribute push([[gnu::target("avx2")]], apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define QLORA_PATH avx2
#define QLORA_REGISTER_BYTES 32
#include "elementwise_impl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
