// SwiGLU and its gradient: one thread a piece of eight outputs, which it computes from registers, so that
// gradients may take the place of what they are computed from.
#include "pieces.cuh"
#include "qlora/kernels/cuda_layer.h"
#include "qlora/kernels/silu_math.h"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

/// silu(gate), rounded.
template <class Elements>
__device__ float activation(float gate, const Sigmoid<OneLane>& s) {
    return Elements::rounded(silu(gate, s));
}

template <class Elements, bool kVectors>
__global__ void __launch_bounds__(kPieceThreads)
    swiglu_pieces(SwigluParams params, unsigned pieces, unsigned per_row) {
    const unsigned index = blockIdx.x * kPieceThreads + threadIdx.x;
    if (index >= pieces) return;
    const int64_t row = index / per_row, at = index % per_row * static_cast<int64_t>(kPiece);
    const int64_t left = params.size - at, gate_at = row * 2 * params.size + at;
    float gate[kPiece], up[kPiece];
    load_values<Elements, kVectors>(params.gate_up, gate_at, left, gate);
    load_values<Elements, kVectors>(params.gate_up, gate_at + params.size, left, up);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
        up[i] = activation<Elements>(gate[i], sigmoid<OneLane>(gate[i])) * up[i];
    }
    store_values<Elements, kVectors>(params.y, row * params.y_stride + at, left, up);
}

template <class Elements, bool kVectors>
__global__ void __launch_bounds__(kPieceThreads)
    swiglu_backward_pieces(SwigluBackwardParams params, unsigned pieces, unsigned per_row) {
    const unsigned index = blockIdx.x * kPieceThreads + threadIdx.x;
    if (index >= pieces) return;
    const int64_t row = index / per_row, at = index % per_row * static_cast<int64_t>(kPiece);
    const int64_t left = params.size - at, gate_at = row * 2 * params.size + at;
    float dy[kPiece], gate[kPiece], up[kPiece], y[kPiece];
    load_values<Elements, kVectors>(params.dy, row * params.size + at, left, dy);
    load_values<Elements, kVectors>(params.gate_up, gate_at, left, gate);
    load_values<Elements, kVectors>(params.gate_up, gate_at + params.size, left, up);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
        const Sigmoid<OneLane> s = sigmoid<OneLane>(gate[i]);
        const float activated = activation<Elements>(gate[i], s);
        y[i] = activated * up[i];
        gate[i] = Elements::rounded(dy[i] * up[i]) * silu_slope(gate[i], s);
        up[i] = dy[i] * activated;
    }
    store_values<Elements, kVectors>(params.d_gate_up, gate_at, left, gate);
    store_values<Elements, kVectors>(params.d_gate_up, gate_at + params.size, left, up);
    if (params.y != nullptr) {
        store_values<Elements, kVectors>(params.y, row * params.y_stride + at, left, y);
    }
}

}  // namespace

void swiglu(const SwigluParams& params, Stream stream) {
    require(params.rows >= 0 && params.size >= 0, "swiglu: a size is negative");
    require(params.y_stride >= params.size, "swiglu: rows of y that overlap");
    const std::size_t bytes = static_cast<std::size_t>(float_bytes(params.type));
    require(is_aligned(params.gate_up, bytes) && is_aligned(params.y, bytes),
            "swiglu: a tensor that is not aligned to its element");
    const int64_t per_row = pieces_of(params.size);
    const unsigned pieces = piece_count(params.rows, per_row);
    if (pieces == 0) return;
    const bool vectors = has_whole_pieces(params.gate_up, params.size, params.size, params.type) &&
                         has_whole_pieces(params.y, params.size, params.y_stride, params.type);
    const LaunchConfig config{dim3(grid_size(pieces, kPieceThreads)), dim3(kPieceThreads)};
    with_pieces(params.type, vectors, [&](auto elements, auto whole) {
        launch<swiglu_pieces<decltype(elements), decltype(whole)::value>>(config, stream, params, pieces,
                                                                          static_cast<unsigned>(per_row));
    });
}

void swiglu_backward(const SwigluBackwardParams& params, Stream stream) {
    require(params.rows >= 0 && params.size >= 0, "swiglu_backward: a size is negative");
    require(params.y == nullptr || params.y_stride >= params.size, "swiglu_backward: rows of y that overlap");
    const std::size_t bytes = static_cast<std::size_t>(float_bytes(params.type));
    require(is_aligned(params.dy, bytes) && is_aligned(params.gate_up, bytes) &&
                is_aligned(params.d_gate_up, bytes) && is_aligned(params.y, bytes),
            "swiglu_backward: a tensor that is not aligned to its element");
    const int64_t per_row = pieces_of(params.size);
    const unsigned pieces = piece_count(params.rows, per_row);
    if (pieces == 0) return;
    const bool vectors =
        has_whole_pieces(params.dy, params.size, params.size, params.type) &&
        has_whole_pieces(params.gate_up, params.size, params.size, params.type) &&
        has_whole_pieces(params.d_gate_up, params.size, params.size, params.type) &&
        (params.y == nullptr || has_whole_pieces(params.y, params.size, params.y_stride, params.type));
    const LaunchConfig config{dim3(grid_size(pieces, kPieceThreads)), dim3(kPieceThreads)};
    with_pieces(params.type, vectors, [&](auto elements, auto whole) {
        launch<swiglu_backward_pieces<decltype(elements), decltype(whole)::value>>(
            config, stream, params, pieces, static_cast<unsigned>(per_row));
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
