#pragma once

#include "qlora/kernels/float16.h"
#include "warp.cuh"
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

/// Sixteen values as they lie in memory, in vectors of 16 bytes.
template <class Elements>
struct Group {
    static constexpr int kVectors = kGroup / Elements::kPerWord / 4;
    uint32_t words[kVectors][4];
};

/// Each value rounded.
template <class Elements>
__device__ Group<Elements> pack_group(const float (&values)[kGroup]) {
    Group<Elements> group = {};
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
        const int word = i / Elements::kPerWord;
        group.words[word / 4][word % 4] |= Elements::pack(values[i]) << (i % Elements::kPerWord * 16);
    }
    return group;
}

/// Neighbouring lanes, even and odd, hold groups that lie one behind the other, and exchange vectors so that
/// each of the lanes' stores belongs beside the other's: the first kVectors / 2 into the even lane's place,
/// the others into the odd one's. All lanes of the warp call.
template <class Elements>
__device__ Group<Elements> interleaved(const Group<Elements>& own, bool odd) {
    constexpr int kHalf = Group<Elements>::kVectors / 2;
    Group<Elements> out = {};
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
#pragma unroll
        for (int word = 0; word < 4; ++word) {
            const uint32_t low = own.words[2 * i][word], high = own.words[2 * i + 1][word];
            const uint32_t got = __shfl_xor_sync(kAllLanes, odd ? low : high, 1);
            out.words[i][word] = odd ? got : low;
            out.words[kHalf + i][word] = odd ? high : got;
        }
    }
    return out;
}

/// Stores sixteen values at an address that is aligned to 16 bytes. Memory is written in sectors of 32 bytes,
/// and lanes that each store their own group fill one half of a sector at a time. `together` says that all
/// lanes of the warp store, and each behind the lane before it: then every store of the warp fills whole
/// sectors.
template <class Elements>
__device__ void store_group(void* base, int64_t index, const float (&values)[kGroup], bool together) {
    constexpr int kVectors = Group<Elements>::kVectors;
    // The base itself may lie in the middle of a word.
    auto* to = reinterpret_cast<uint32_t*>(static_cast<char*>(base) + index * (4 / Elements::kPerWord));
    Group<Elements> group = pack_group<Elements>(values);
    int first = 0, step = 1;
    if (together) {
        const bool odd = threadIdx.x % 2 != 0;
        group = interleaved(group, odd);
        first = odd ? 1 - kVectors : 0;
        step = 2;
        // A kernel may work in place: the neighbour has read what is written over here.
        __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        const uint32_t(&words)[4] = group.words[i];
        store_vector(to + 4 * (first + i * step), make_uint4(words[0], words[1], words[2], words[3]));
    }
}

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
