// Softmax over rows of logits, one CUDA block a row. The first pass reads the row in groups of 16 columns
// from its start and keeps a maximum and a sum a thread; the second, of the training loss, overwrites it.
// Groups of the first pass that are not aligned go value by value, so that the sum has the same order
// wherever the row lies; the second has no order to keep and takes its groups from the first aligned column
// on.
#include <type_traits>

#include "elements.cuh"
#include "qlora/kernels/cuda_loss.h"
#include "qlora/kernels/exp_math.h"
#include "qlora/kernels/logit_math.h"
#include "warp.cuh"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int64_t kMaxColumns = int64_t{1} << 30;
constexpr float kNoScore = -__builtin_inff();
/// How far a logit may exceed what is subtracted from it. A sum that is scaled down fades by e^-1 at least,
/// so that the errors of doing so do not add up, however often the maximum grows.
constexpr float kHeadroom = 1.0f;

struct RowsShape {
    int columns;
    int element_bytes;
};

__device__ int64_t row_bytes(const RowsShape& shape) {
    return int64_t{shape.columns} * shape.element_bytes;
}

__device__ float exponential(float x) {
    return exp_nonpositive<OneLane>(x);
}

/// -infinity minus -infinity would be NaN: before the first finite logit nothing is subtracted.
__device__ float finite_shift(float shift) {
    return shift == kNoScore ? 0.0f : shift;
}

/// Of the logits one thread has seen; 16 are added pairwise in fp32, such sums in double.
struct PartialSum {
    float max = kNoScore;    // NaN aside
    float shift = kNoScore;  // one of them, at most kHeadroom below max
    double sum = 0.0;        // of e^(x - shift); NaN once x was
};

__device__ void add_group(PartialSum& partial, const float (&values)[kGroup]) {
    float largest = kNoScore;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) largest = fmaxf(largest, values[i]);
    partial.max = fmaxf(partial.max, largest);
    if (largest > partial.shift + kHeadroom) {
        partial.sum *= static_cast<double>(exponential(partial.shift - largest));
        partial.shift = largest;
    }
    const float shift = finite_shift(partial.shift);
    float terms[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) terms[i] = exponential(values[i] - shift);
#pragma unroll
    for (int distance = kGroup / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int i = 0; i < distance; ++i) terms[i] += terms[i + distance];
    }
    partial.sum += static_cast<double>(terms[0]);
}

template <class Elements>
struct Rounding {
    QLORA_HOST_DEVICE float operator()(float value) const {
#if defined(__CUDACC__) && !defined(__CUDA_ARCH__)
        return value;  // nvcc looks at the host's half of this too
#else
        return Elements::rounded(value);
#endif
    }
};

/// What the softmax is of: the logits as they are read, or with a curve.
template <class Elements, bool kCurved>
struct SoftmaxInput {
    LogitCurve curve;

    __device__ CurvedLogit<OneLane> of(float logit) const {
        if constexpr (kCurved) {
            return curved<OneLane>(logit, curve, Rounding<Elements>{});
        } else {
            return {logit, 0.0f};
        }
    }
    /// Of the logit, from that of what the softmax saw.
    __device__ float gradient(float own, float tanh) const {
        if constexpr (kCurved) {
            return curve_gradient<OneLane>(Elements::rounded(own), tanh, curve, Rounding<Elements>{});
        } else {
            return own;
        }
    }
};

/// visit(from, what the softmax sees of columns from .. + 15) for every group of this thread; beyond the row
/// is -infinity.
template <class Elements, bool kCurved, class Visit>
__device__ void for_each_group(const void* row, int columns, const SoftmaxInput<Elements, kCurved>& input,
                               const Visit& visit) {
    const bool vectors = reinterpret_cast<uintptr_t>(row) % 16 == 0;
    for (int from = static_cast<int>(threadIdx.x) * kGroup; from < columns; from += kThreads * kGroup) {
        float values[kGroup];
        if (vectors && from + kGroup <= columns) {
            Elements::load_group(row, from, values);
#pragma unroll
            for (int i = 0; i < kGroup; ++i) values[i] = input.of(values[i]).value;
        } else {
#pragma unroll
            for (int i = 0; i < kGroup; ++i) {
                values[i] = from + i < columns ? input.of(Elements::load(row, from + i)).value : kNoScore;
            }
        }
        visit(from, values);
    }
}

struct RowSum {
    float max;   // in every thread
    double sum;  // of e^(x - max), in thread 0
};

/// Adds the threads of a warp pairwise, then the warps one after another.
__device__ RowSum sum_of_block(const PartialSum& own) {
    __shared__ float maxima[kWarps];
    __shared__ double sums[kWarps];
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const bool first_lane = threadIdx.x % kWarpSize == 0;
    const float warp_largest = warp_max(own.max);
    if (first_lane) maxima[warp] = warp_largest;
    __syncthreads();
    float max = kNoScore;
    for (int i = 0; i < kWarps; ++i) max = fmaxf(max, maxima[i]);
    // Infinity minus infinity would be NaN.
    const float factor = own.shift == max ? 1.0f : exponential(own.shift - max);
    const double warp_total = warp_sum(own.sum * static_cast<double>(factor));
    if (first_lane) sums[warp] = warp_total;
    __syncthreads();
    const bool first_thread = threadIdx.x == 0;
    double sum = 0.0;
    if (first_thread) {
        for (int i = 0; i < kWarps; ++i) sum += sums[i];
    }
    return {max, sum};
}

/// Elements before the first that lies at a multiple of 16 bytes; a short row may have fewer.
__device__ int misaligned_head(const void* row, int element_bytes) {
    return static_cast<int>((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16) / element_bytes;
}

template <class Elements, bool kCurved>
__device__ void write_gradient(void* row, const RowsShape& shape,
                               const SoftmaxInput<Elements, kCurved>& input, int target, float max,
                               float inverse) {
    const float shift = finite_shift(max);
    const auto gradient = [=](float logit, int column) {
        const CurvedLogit<OneLane> found = input.of(logit);
        const float p = exponential(found.value - shift) * inverse;
        return input.gradient(column == target ? p - 1.0f : p, found.tanh);
    };
    const int thread = static_cast<int>(threadIdx.x);
    const int head = misaligned_head(row, shape.element_bytes);
    const int grouped = (shape.columns - head) / kGroup * kGroup;
    for (int first = 0; first < grouped; first += kThreads * kGroup) {
        const int from = first + thread * kGroup;
        const bool whole = from < grouped;
        const bool together = __all_sync(kAllLanes, whole) != 0;
        if (!whole) break;  // only in the last turn
        float values[kGroup];
        Elements::load_group(row, head + from, values);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) values[i] = gradient(values[i], head + from + i);
        store_group<Elements>(row, head + from, values, together);
    }
    // The rest is fewer columns than there are threads.
    if (thread < shape.columns - grouped) {
        const int column = thread < head ? thread : thread + grouped;
        Elements::store(row, column, gradient(Elements::load(row, column), column));
    }
}

template <class Elements, bool kCurved>
__global__ void __launch_bounds__(kThreads, 2)
    softmax_minus_onehot(void* logits, RowsShape shape, LogitCurve curve, const int64_t* targets,
                         double* losses) {
    __shared__ float inverse;
    void* const row = static_cast<char*>(logits) + blockIdx.x * row_bytes(shape);
    const int target = static_cast<int>(targets[blockIdx.x]);
    const SoftmaxInput<Elements, kCurved> input{curve};
    const float score = input.of(Elements::load(row, target)).value;

    PartialSum partial;
    for_each_group(row, shape.columns, input,
                   [&](int, const float(&values)[kGroup]) { add_group(partial, values); });
    const RowSum found = sum_of_block(partial);
    if (threadIdx.x == 0) inverse = static_cast<float>(1.0 / found.sum);
    __syncthreads();
    if (threadIdx.x == 0) {
        losses[blockIdx.x] = log(found.sum) + (static_cast<double>(found.max) - static_cast<double>(score));
    }
    write_gradient(row, shape, input, target, found.max, inverse);
}

template <class Elements, bool kCurved>
__global__ void __launch_bounds__(kThreads, 2)
    score_row(const void* logits, RowsShape shape, LogitCurve curve, const int64_t* targets, float* logprobs,
              bool* correct) {
    __shared__ bool beaten_in[kWarps];
    const void* const row = static_cast<const char*>(logits) + blockIdx.x * row_bytes(shape);
    const int target = static_cast<int>(targets[blockIdx.x]);
    const SoftmaxInput<Elements, kCurved> input{curve};
    const float score = input.of(Elements::load(row, target)).value;

    PartialSum partial;
    bool beaten = false;
    for_each_group(row, shape.columns, input, [&](int from, const float(&values)[kGroup]) {
    // A larger logit, or an equal one before the target.
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
            beaten = beaten || (from + i < target ? values[i] >= score : values[i] > score);
        }
        add_group(partial, values);
    });
    const bool warp_beaten = __any_sync(kAllLanes, beaten) != 0;
    if (threadIdx.x % kWarpSize == 0) beaten_in[threadIdx.x / kWarpSize] = warp_beaten;
    const RowSum found = sum_of_block(partial);
    if (threadIdx.x != 0) return;
    bool best = found.sum == found.sum;  // no NaN in the row
    for (int warp = 0; warp < kWarps; ++warp) best = best && !beaten_in[warp];
    logprobs[blockIdx.x] =
        static_cast<float>((static_cast<double>(score) - static_cast<double>(found.max)) - log(found.sum));
    correct[blockIdx.x] = best;
}

/// Calls action(Elements, whether a curve lies between the logits and the softmax).
template <class Action>
void with_curve(FloatType type, const LogitCurve& curve, const Action& action) {
    with_elements(type, [&](auto elements) {
        if (curve.is_identity()) {
            action(elements, std::false_type{});
        } else {
            action(elements, std::true_type{});
        }
    });
}

RowsShape checked_shape(const void* logits, int64_t rows, int64_t columns, FloatType type) {
    if (rows < 0 || columns < 1) throw std::invalid_argument("softmax: rows count from 0, columns from 1");
    if (columns > kMaxColumns) throw std::invalid_argument("softmax: more than 2^30 columns");
    if (!is_aligned(logits, static_cast<std::size_t>(float_bytes(type)))) {
        throw std::invalid_argument("softmax: logits that are not aligned to their element");
    }
    return {static_cast<int>(columns), float_bytes(type)};
}

}  // namespace

void softmax_cross_entropy(const CrossEntropyParams& params, Stream stream) {
    const RowsShape shape = checked_shape(params.logits, params.rows, params.columns, params.type);
    if (params.rows == 0) return;
    const LaunchConfig config{dim3(grid_size(params.rows, 1)), dim3(kThreads)};
    with_curve(params.type, params.curve, [&](auto elements, auto is_curved) {
        launch<softmax_minus_onehot<decltype(elements), decltype(is_curved)::value>>(
            config, stream, params.logits, shape, params.curve, params.targets, params.losses);
    });
}

void score_rows(const ScoreRowsParams& params, Stream stream) {
    const RowsShape shape = checked_shape(params.logits, params.rows, params.columns, params.type);
    if (params.rows == 0) return;
    const LaunchConfig config{dim3(grid_size(params.rows, 1)), dim3(kThreads)};
    with_curve(params.type, params.curve, [&](auto elements, auto is_curved) {
        launch<score_row<decltype(elements), decltype(is_curved)::value>>(config, stream, params.logits,
                                                                          shape, params.curve, params.targets,
                                                                          params.logprobs, params.correct);
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
