// One to eight rows times a quantized matrix, without a dequantized copy. One warp two outputs: each lane
// takes groups of 16 inputs, decodes the weights of both outputs into registers and uses them for every row.
#include <type_traits>

#include "nf4.cuh"
#include "warp.cuh"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

constexpr int kThreads = 128;
constexpr int kOutputsPerWarp = 2;
constexpr int kOutputsPerBlock = kThreads / kWarpSize * kOutputsPerWarp;

struct Shape {
    int64_t outputs, inputs;
    int rows;
    int blocksize_log2;
    bool vectors;  // whether every group of a row is a group of the tensor, and all is aligned
};

/// Weights inputs `from` .. + 15 of one output; zeros beyond the row and for an output that does not exist.
template <class Elements>
__device__ void load_weights(const Nf4View& weight, const Shape& shape, int64_t output, int64_t from,
                             const float (&table)[kNf4Codes], float (&values)[kGroup]) {
    const int64_t begin = output * shape.inputs + from;
    if (shape.vectors && output < shape.outputs) {
        const float absmax = load_absmax(weight.absmax, begin >> shape.blocksize_log2);
        decode_group(weight.packed, begin / kGroup, table, absmax, values);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) values[i] = Elements::rounded(values[i]);
        return;
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
        values[i] = 0.0f;
        if (output < shape.outputs && from + i < shape.inputs) {
            const float absmax = load_absmax(weight.absmax, (begin + i) >> shape.blocksize_log2);
            values[i] = Elements::rounded(table[code_at(weight.packed, begin + i)] * absmax);
        }
    }
}

/// Inputs `from` .. + 15 of one row of x; zeros beyond the row and for a row that does not exist.
template <class Elements>
__device__ void load_inputs(const void* x, const Shape& shape, int row, int64_t from,
                            float (&values)[kGroup]) {
    const int64_t begin = row * shape.inputs + from;
    if (shape.vectors && row < shape.rows) {
        Elements::load_group(x, begin, values);
        return;
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
        values[i] = row < shape.rows && from + i < shape.inputs ? Elements::load(x, begin + i) : 0.0f;
    }
}

/// CUDA blocks a multiprocessor, which bounds the registers of a thread to 128 or 168: eight rows of fp32
/// spill at 128.
template <class Elements, int kRows>
constexpr int kBlocksPerMultiprocessor = kRows == 8 && std::is_same_v<Elements, F32Elements> ? 3 : 4;

/// kRows is at least the number of rows. Read where the launch put them, the structures take no registers;
/// copies of them take up to 37.
template <class Elements, int kRows>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<Elements, kRows>)
    multiply_rows(const __grid_constant__ Nf4View weight, const __grid_constant__ Shape shape, const void* x,
                  void* y) {
    __shared__ float table[kNf4Codes];
    fill_nf4_table(table);
    __syncthreads();

    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int64_t first = blockIdx.x * static_cast<int64_t>(kOutputsPerBlock) +
                          static_cast<int>(threadIdx.x) / kWarpSize * kOutputsPerWarp;
    if (first >= shape.outputs) return;  // the whole warp
    float sums[kOutputsPerWarp][kRows] = {};
    for (int64_t from = lane * kGroup; from < shape.inputs; from += kWarpSize * kGroup) {
        float weights[kOutputsPerWarp][kGroup];
#pragma unroll
        for (int output = 0; output < kOutputsPerWarp; ++output) {
            load_weights<Elements>(weight, shape, first + output, from, table, weights[output]);
        }
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
            float inputs[kGroup];
            load_inputs<Elements>(x, shape, row, from, inputs);
#pragma unroll
            for (int output = 0; output < kOutputsPerWarp; ++output) {
#pragma unroll
                for (int i = 0; i < kGroup; ++i) {
                    sums[output][row] = fmaf(weights[output][i], inputs[i], sums[output][row]);
                }
            }
        }
    }
#pragma unroll
    for (int output = 0; output < kOutputsPerWarp; ++output) {
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
            const float sum = warp_sum(sums[output][row]);
            if (lane == 0 && first + output < shape.outputs && row < shape.rows) {
                Elements::store(y, row * shape.outputs + first + output, sum);
            }
        }
    }
}

/// Row counts are rounded up to a power of two: fewer kernels to compile.
template <class Elements, int kRows>
void launch_rows(const MatvecNf4Params& params, const Shape& shape, Stream stream) {
    if constexpr (kRows > 1) {
        if (params.rows <= kRows / 2) return launch_rows<Elements, kRows / 2>(params, shape, stream);
    }
    const LaunchConfig config{dim3(grid_size(params.outputs, kOutputsPerBlock)), dim3(kThreads)};
    launch<multiply_rows<Elements, kRows>>(config, stream, params.weight, shape, params.x, params.y);
}

}  // namespace

void matvec_nf4(const MatvecNf4Params& params, Stream stream) {
    const Nf4View& weight = params.weight;
    if (!is_valid_blocksize(weight.blocksize)) throw std::invalid_argument("matvec_nf4: blocksize");
    if (params.rows < 1 || params.rows > kFewRows) throw std::invalid_argument("matvec_nf4: rows");
    if (params.outputs < 0 || params.inputs < 1 || weight.n / params.inputs != params.outputs ||
        weight.n % params.inputs != 0) {
        throw std::invalid_argument("matvec_nf4: the weight is not of [outputs, inputs]");
    }
    const std::size_t size = static_cast<std::size_t>(float_bytes(params.type));
    if (!is_aligned(params.x, size) || !is_aligned(params.y, size)) {
        throw std::invalid_argument("matvec_nf4: x or y that is not aligned to its element");
    }
    if (params.outputs == 0) return;
    const Shape shape{
        params.outputs, params.inputs, params.rows, __builtin_ctz(static_cast<unsigned>(weight.blocksize)),
        params.inputs % kGroup == 0 && is_aligned(weight.packed, 8) && is_aligned(params.x, 16)};
    with_elements(params.type, [&](auto elements) {
        launch_rows<decltype(elements), static_cast<int>(kFewRows)>(params, shape, stream);
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
