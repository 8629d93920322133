#pragma once

#include "launch.cuh"
#include "qlora/kernels/float16.h"
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

/// Tensor elements of each type as floats, one at a time or sixteen by 16-byte accesses.
namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// Values that one thread handles in a piece: 8 packed bytes, and never more than one block of the layout.
inline constexpr int kGroup = 16;

struct F32Elements {
    /// A 32-bit word of memory holds one value, or two, the first in the low half.
    static constexpr int kPerWord = 1;
    static __device__ float unpack(uint32_t word, int) { return float_from_bits(word); }
    static __device__ uint32_t pack(float value) { return float_bits(value); }

    static __device__ float load(const void* base, int64_t index) {
        return static_cast<const float*>(base)[index];
    }
    static __device__ void store(void* base, int64_t index, float value) {
        static_cast<float*>(base)[index] = value;
    }
    /// What a stored value reads as.
    static __device__ float rounded(float value) { return value; }

    static __device__ void load_group(const void* base, int64_t index, float (&values)[kGroup]) {
        const float* from = static_cast<const float*>(base) + index;
#pragma unroll
        for (int i = 0; i < kGroup; i += 4) {
            const float4 four = load_vector<float4>(from + i);
            values[i] = four.x;
            values[i + 1] = four.y;
            values[i + 2] = four.z;
            values[i + 3] = four.w;
        }
    }
    static __device__ void store_group(void* base, int64_t index, const float (&values)[kGroup]) {
        float* to = static_cast<float*>(base) + index;
#pragma unroll
        for (int i = 0; i < kGroup; i += 4) {
            store_vector(to + i, make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]));
        }
    }
};

/// `Format` converts between a float and its 16 bits, and rounds (of NaN only that it is one).
template <class Format>
struct SixteenBitElements {
    static constexpr int kPerWord = 2;
    static __device__ float unpack(uint32_t word, int place) {
        return Format::decode(static_cast<uint16_t>(word >> (16 * place)));
    }
    static __device__ uint32_t pack(float value) { return Format::encode(value); }

    static __device__ float load(const void* base, int64_t index) {
        return Format::decode(static_cast<const uint16_t*>(base)[index]);
    }
    static __device__ void store(void* base, int64_t index, float value) {
        static_cast<uint16_t*>(base)[index] = Format::encode(value);
    }
    static __device__ float rounded(float value) { return Format::rounded(value); }

    static __device__ void load_group(const void* base, int64_t index, float (&values)[kGroup]) {
        const uint16_t* from = static_cast<const uint16_t*>(base) + index;
#pragma unroll
        for (int i = 0; i < kGroup; i += 8) {
            const uint4 words = load_vector<uint4>(from + i);
            const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
                values[i + 2 * pair] = Format::decode(static_cast<uint16_t>(pairs[pair]));
                values[i + 2 * pair + 1] = Format::decode(static_cast<uint16_t>(pairs[pair] >> 16));
            }
        }
    }
    static __device__ void store_group(void* base, int64_t index, const float (&values)[kGroup]) {
        uint16_t* to = static_cast<uint16_t*>(base) + index;
        const auto pair = [&values](int i) {
            return static_cast<uint32_t>(Format::encode(values[i])) |
                   static_cast<uint32_t>(Format::encode(values[i + 1])) << 16;
        };
        store_vector(to, make_uint4(pair(0), pair(2), pair(4), pair(6)));
        store_vector(to + 8, make_uint4(pair(8), pair(10), pair(12), pair(14)));
    }
};

/// A GPU's own conversions round as those of float16.h and take an instruction instead of a dozen; only their
/// NaN differs, which is put right.
struct F16Format {
    static __device__ float decode(uint16_t bits) {
#if defined(__CUDA_ARCH__)
        return __half2float(__ushort_as_half(bits));
#else
        return f16_to_float(bits);
#endif
    }
    static __device__ uint16_t encode(float value) {
#if defined(__CUDA_ARCH__)
        return value == value ? __half_as_ushort(__float2half_rn(value)) : f16_nan(value);
#else
        return float_to_f16(value);
#endif
    }
    static __device__ float rounded(float value) {
#if defined(__CUDA_ARCH__)
        return __half2float(__float2half_rn(value));
#else
        return decode(encode(value));
#endif
    }
};
struct BF16Format {
    static __device__ float decode(uint16_t bits) { return bf16_to_float(bits); }
    static __device__ uint16_t encode(float value) {
#if defined(__CUDA_ARCH__)
        return value == value ? __bfloat16_as_ushort(__float2bfloat16_rn(value)) : kBF16Nan;
#else
        return float_to_bf16(value);
#endif
    }
    static __device__ float rounded(float value) {
#if defined(__CUDA_ARCH__)
        return __bfloat162float(__float2bfloat16_rn(value));
#else
        return decode(encode(value));
#endif
    }
};
using F16Elements = SixteenBitElements<F16Format>;
using BF16Elements = SixteenBitElements<BF16Format>;

/// Calls action(Elements{}) for the type; throws std::invalid_argument for a value that is none.
template <class Action>
void with_elements(FloatType type, const Action& action) {
    switch (type) {
        case FloatType::kF32:
            return action(F32Elements{});
        case FloatType::kF16:
            return action(F16Elements{});
        case FloatType::kBF16:
            return action(BF16Elements{});
    }
    throw std::invalid_argument("a float type that does not exist");
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
