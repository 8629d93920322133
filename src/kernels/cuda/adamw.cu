// AdamW over all trained tensors in one launch: a CUDA block takes a chunk of one tensor, a thread eight
// values of it, so that a warp holds one block of 8-bit moments and finds its scales by shuffles alone. The
// gradients' sum of squares takes the same chunks.
#include "fixed_order_sum.cuh"
#include "nf4.cuh"
#include "qlora/kernels/adamw_8bit_math.h"
#include "qlora/kernels/cuda_optimizer.h"
#include "warp.cuh"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

constexpr int kThreads = 256;
constexpr int kValues = 8;
static_assert(kThreads * kValues == kAdamwChunk, "the threads take the chunk");
static_assert(kWarpSize * kValues == kAdamwBlocksize, "a warp takes a block of 8-bit moments");
static_assert(kThreads == kSumLanes, "the sum's lanes are the threads");
static_assert(kThreads == 256, "each thread copies one entry of a map");

static __device__ const DynamicMap kDeviceUnsignedMap = make_dynamic_map(false);

struct AllFactors {
    AdamwFactors fp32[kAdamwGroups];
    Adamw8bitFactors codes[kAdamwGroups];
};

__device__ bool is_multiple(const void* address, unsigned alignment) {
    return reinterpret_cast<uintptr_t>(address) % alignment == 0;
}

/// The values that a thread takes: `count` of them from `begin` on, whole and aligned where `vectors`.
struct Span {
    int64_t begin;
    int count;
    bool vectors;
};

__device__ void load_values(const float* from, const Span& span, float (&values)[kValues]) {
    if (span.vectors) {
#pragma unroll
        for (int i = 0; i < kValues; i += 4) {
            const float4 four = load_vector<float4>(from + span.begin + i);
            values[i] = four.x;
            values[i + 1] = four.y;
            values[i + 2] = four.z;
            values[i + 3] = four.w;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) values[i] = i < span.count ? from[span.begin + i] : 0.0f;
}

__device__ void store_values(float* to, const Span& span, const float (&values)[kValues]) {
    if (span.vectors) {
#pragma unroll
        for (int i = 0; i < kValues; i += 4) {
            store_vector(to + span.begin + i,
                         make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]));
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
        if (i < span.count) to[span.begin + i] = values[i];
    }
}

/// Values that do not exist have code 0.
__device__ void load_codes(const uint8_t* from, const Span& span, uint8_t (&codes)[kValues]) {
    if (span.vectors) {
        const uint2 words = load_vector<uint2>(from + span.begin);
#pragma unroll
        for (int i = 0; i < kValues; ++i) {
            codes[i] = static_cast<uint8_t>((i < 4 ? words.x : words.y) >> (8 * (i % 4)));
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) codes[i] = i < span.count ? from[span.begin + i] : uint8_t{0};
}

__device__ void store_codes(uint8_t* to, const Span& span, const uint8_t (&codes)[kValues]) {
    if (span.vectors) {
        uint32_t words[2] = {};
#pragma unroll
        for (int i = 0; i < kValues; ++i) words[i / 4] |= static_cast<uint32_t>(codes[i]) << (8 * (i % 4));
        store_vector(to + span.begin, make_uint2(words[0], words[1]));
        return;
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
        if (i < span.count) to[span.begin + i] = codes[i];
    }
}

__device__ void step_fp32(const AdamwTensor& tensor, const Span& span, const AdamwFactors& factors) {
    float p[kValues], g[kValues], m[kValues], v[kValues];
    load_values(tensor.p, span, p);
    load_values(tensor.g, span, g);
    load_values(tensor.m, span, m);
    load_values(tensor.v, span, v);
#pragma unroll
    for (int i = 0; i < kValues; ++i) adamw_update(factors, g[i], p[i], m[i], v[i]);
    store_values(tensor.p, span, p);
    store_values(tensor.m, span, m);
    store_values(tensor.v, span, v);
}

/// All lanes of a warp call, with the spans of one block of moments.
__device__ void step_8bit(const AdamwTensor& tensor, const Span& span, const Adamw8bitFactors& factors,
                          const float (&signed_map)[256], const float (&unsigned_map)[256]) {
    float p[kValues], g[kValues], m[kValues], v[kValues];
    uint8_t m_codes[kValues], v_codes[kValues];
    load_values(tensor.p, span, p);
    load_values(tensor.g, span, g);
    load_codes(tensor.m_codes, span, m_codes);
    load_codes(tensor.v_codes, span, v_codes);
    const int64_t block = span.begin / kAdamwBlocksize;
    const float old_m_absmax = tensor.m_absmax[block], old_v_absmax = tensor.v_absmax[block];
    float m_absmax = 0.0f, v_absmax = 0.0f;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
        m[i] = signed_map[m_codes[i]] * old_m_absmax;
        v[i] = unsigned_map[v_codes[i]] * old_v_absmax;
        adamw_8bit_update(factors, g[i], p[i], m[i], v[i]);
        if (i < span.count) {
            m_absmax = m_absmax < fabsf(m[i]) ? fabsf(m[i]) : m_absmax;
            v_absmax = v_absmax < v[i] ? v[i] : v_absmax;
        }
    }
    store_values(tensor.p, span, p);

    m_absmax = warp_max(m_absmax);  // also: every lane has read the old scales before one is replaced
    v_absmax = warp_max(v_absmax);
    __syncwarp();
    if (threadIdx.x % kWarpSize == 0) {
        tensor.m_absmax[block] = m_absmax;
        tensor.v_absmax[block] = v_absmax;
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
        m_codes[i] = static_cast<uint8_t>(encode_first_moment(signed_map, m[i], m_absmax));
        v_codes[i] = static_cast<uint8_t>(encode_second_moment(unsigned_map, v[i], v_absmax));
    }
    store_codes(tensor.m_codes, span, m_codes);
    store_codes(tensor.v_codes, span, v_codes);
}

__global__ void __launch_bounds__(kThreads) step_chunks(AdamwTables tables, AllFactors factors) {
    __shared__ float signed_map[256];
    __shared__ float unsigned_map[256];
    const int thread = static_cast<int>(threadIdx.x);
    const AdamwChunk chunk = tables.chunks[blockIdx.x];
    const AdamwTensor& tensor = tables.tensors[chunk.tensor];
    const bool has_codes = tensor.m == nullptr;
    if (has_codes) {
        signed_map[thread] = kDeviceSignedMap.value[thread];
        unsigned_map[thread] = kDeviceUnsignedMap.value[thread];
        __syncthreads();
    }

    Span span{chunk.number * kAdamwChunk + thread * kValues, 0, false};
    const int64_t left = tensor.n - span.begin;
    span.count = left <= 0 ? 0 : left < kValues ? static_cast<int>(left) : kValues;
    span.vectors = span.count == kValues && is_multiple(tensor.p, 16) && is_multiple(tensor.g, 16);
    if (has_codes) {
        if (span.begin / kAdamwBlocksize * kAdamwBlocksize >= tensor.n) return;  // the whole warp
        span.vectors = span.vectors && is_multiple(tensor.m_codes, 8) && is_multiple(tensor.v_codes, 8);
        Adamw8bitFactors own = factors.codes[tensor.group];
        if (tensor.decays == 0) own.decay = 1.0f;
        step_8bit(tensor, span, own, signed_map, unsigned_map);
    } else {
        span.vectors = span.vectors && is_multiple(tensor.m, 16) && is_multiple(tensor.v, 16);
        AdamwFactors own = factors.fp32[tensor.group];
        if (tensor.decays == 0) own.decay = 1.0f;
        step_fp32(tensor, span, own);
    }
}

__global__ void __launch_bounds__(kThreads) sum_chunks(AdamwTables tables, double* partial) {
    __shared__ double lanes[kSumLanes];
    const AdamwChunk chunk = tables.chunks[blockIdx.x];
    const AdamwTensor& tensor = tables.tensors[chunk.tensor];
    const int64_t begin = chunk.number * kAdamwChunk;
    const int64_t count = tensor.n - begin < kAdamwChunk ? tensor.n - begin : kAdamwChunk;
    const float* g = tensor.g + begin;
    const double sum = block_sum(count, lanes, [g](int64_t i) {
        const double value = static_cast<double>(g[i]);
        return value * value;
    });
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) sum_partials(const double* partial, int64_t count, double* sum) {
    __shared__ double lanes[kSumLanes];
    const double total = block_sum(count, lanes, [partial](int64_t i) { return partial[i]; });
    if (threadIdx.x == 0) *sum = total;
}

}  // namespace

void adamw_step(const AdamwTables& tables, const AdamwSettings& settings, Stream stream) {
    if (settings.step < 1) throw std::invalid_argument("adamw_step: steps count from 1");
    if (tables.chunk_count < 0) throw std::invalid_argument("adamw_step: a negative count");
    if (tables.chunk_count == 0) return;
    const LaunchConfig config{dim3(grid_size(tables.chunk_count, 1)), dim3(kThreads)};
    AllFactors factors;
    for (int group = 0; group < kAdamwGroups; ++group) {
        factors.fp32[group] = adamw_factors(settings, group);
        factors.codes[group] = adamw_8bit_factors(settings, group);
    }
    launch<step_chunks>(config, stream, tables, factors);
}

void gradient_sum_of_squares(const AdamwTables& tables, double* partial, double* sum, Stream stream) {
    if (tables.chunk_count < 0) throw std::invalid_argument("gradient_sum_of_squares: a negative count");
    if (tables.chunk_count > 0) {
        const LaunchConfig config{dim3(grid_size(tables.chunk_count, 1)), dim3(kThreads)};
        launch<sum_chunks>(config, stream, tables, partial);
    }
    const double* sums = partial;
    launch<sum_partials>({dim3(1), dim3(kThreads)}, stream, sums, tables.chunk_count, sum);
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
