// Rotary position embedding in place: one thread a piece of eight pairs of one head.
#include "pieces.cuh"
#include "qlora/kernels/cuda_layer.h"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

template <class Elements, bool kVectors>
__global__ void __launch_bounds__(kPieceThreads)
    rotate_pieces(RopeParams params, unsigned pieces, unsigned per_head, unsigned per_token) {
    const unsigned index = blockIdx.x * kPieceThreads + threadIdx.x;
    if (index >= pieces) return;
    const unsigned of_token = index % per_token;
    const int64_t token = index / per_token, head = of_token / per_head;
    const int64_t half = params.head_dim / 2, at = of_token % per_head * static_cast<int64_t>(kPiece);
    const int64_t left = half - at;
    const int64_t first_at = token * params.row_stride + head * params.head_dim + at;
    float first[kPiece], second[kPiece], cos[kPiece], sin[kPiece];
    load_values<Elements, kVectors>(params.x, first_at, left, first);
    load_values<Elements, kVectors>(params.x, first_at + half, left, second);
    load_values<Elements, kVectors>(params.cos, token * half + at, left, cos);
    load_values<Elements, kVectors>(params.sin, token * half + at, left, sin);
    const float sign = static_cast<float>(params.direction);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
        const float a = first[i], b = second[i], s = sin[i] * sign;
        first[i] = Elements::rounded(a * cos[i]) - Elements::rounded(b * s);
        second[i] = Elements::rounded(b * cos[i]) + Elements::rounded(a * s);
    }
    store_values<Elements, kVectors>(params.x, first_at, left, first);
    store_values<Elements, kVectors>(params.x, first_at + half, left, second);
}

}  // namespace

void rope(const RopeParams& params, Stream stream) {
    require(params.tokens >= 0 && params.heads >= 0, "rope: a size is negative");
    require(params.head_dim >= 2 && params.head_dim % 2 == 0, "rope: head_dim must be even and at least 2");
    require(params.row_stride >= 0 && params.heads <= params.row_stride / params.head_dim,
            "rope: the heads are longer than a row");
    require(params.direction == 1 || params.direction == -1, "rope: direction is neither 1 nor -1");
    const std::size_t bytes = static_cast<std::size_t>(float_bytes(params.type));
    require(is_aligned(params.x, bytes) && is_aligned(params.cos, bytes) && is_aligned(params.sin, bytes),
            "rope: a tensor that is not aligned to its element");
    const int64_t half = params.head_dim / 2, per_head = pieces_of(half);
    const unsigned per_token = piece_count(params.heads, per_head);
    const unsigned pieces = piece_count(params.tokens, per_token);
    if (pieces == 0) return;
    const bool vectors = has_whole_pieces(params.x, half, params.row_stride, params.type) &&
                         has_whole_pieces(params.cos, half, half, params.type) &&
                         has_whole_pieces(params.sin, half, half, params.type);
    const LaunchConfig config{dim3(grid_size(pieces, kPieceThreads)), dim3(kPieceThreads)};
    with_pieces(params.type, vectors, [&](auto elements, auto whole) {
        launch<rotate_pieces<decltype(elements), decltype(whole)::value>>(
            config, stream, params, pieces, static_cast<unsigned>(per_head), per_token);
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
