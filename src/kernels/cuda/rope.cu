// Rotary position embedding in place: one thread a piece of eight pairs of one head.
#include "pieces.cuh"
#include "qlora/kernels/cuda_layer.h"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

/// a and b turned; products are rounded to the type of the angles.
template <class Angles>
__device__ void turn(float& a, float& b, float cos, float sin) {
    const float first = a, second = b;
    a = Angles::rounded(first * cos) - Angles::rounded(second * sin);
    b = Angles::rounded(second * cos) + Angles::rounded(first * sin);
}

template <class Elements, class Angles, bool kVectors, bool kPairs>
__global__ void __launch_bounds__(kPieceThreads)
    rotate_pieces(RopeParams params, unsigned pieces, unsigned per_head, unsigned per_token) {
    const unsigned index = blockIdx.x * kPieceThreads + threadIdx.x;
    if (index >= pieces) return;
    const unsigned of_token = index % per_token, head = of_token / per_head;
    const int64_t token = index / per_token;
    const int64_t half = params.dims / 2, at = of_token % per_head * static_cast<int64_t>(kPiece);
    int64_t begin = token * params.row_stride + head * params.head_dim;
    if (params.groups > 1) {
        const unsigned heads = static_cast<unsigned>(params.heads), group = head / heads;
        begin += group * (params.group_stride - params.heads * params.head_dim);
    }
    // Pairs lie in two neighbouring pieces, halves in pieces that lie half of the dimensions apart.
    const int64_t left = half - at;
    const int64_t first_at = begin + (kPairs ? 2 * at : at), second_at = first_at + (kPairs ? kPiece : half);
    const int64_t first_left = kPairs ? 2 * left : left, second_left = kPairs ? 2 * left - kPiece : left;
    float first[kPiece], second[kPiece], cos[kPiece], sin[kPiece];
    load_values<Elements, kVectors>(params.x, first_at, first_left, first);
    load_values<Elements, kVectors>(params.x, second_at, second_left, second);
    load_values<Angles, kVectors>(params.cos, token * half + at, left, cos);
    load_values<Angles, kVectors>(params.sin, token * half + at, left, sin);
    const float sign = static_cast<float>(params.direction);
    if constexpr (kPairs) {
#pragma unroll
        for (int i = 0; i < kPiece / 2; ++i) {
            turn<Angles>(first[2 * i], first[2 * i + 1], cos[i], sin[i] * sign);
            turn<Angles>(second[2 * i], second[2 * i + 1], cos[kPiece / 2 + i], sin[kPiece / 2 + i] * sign);
        }
    } else {
#pragma unroll
        for (int i = 0; i < kPiece; ++i) turn<Angles>(first[i], second[i], cos[i], sin[i] * sign);
    }
    store_values<Elements, kVectors>(params.x, first_at, first_left, first);
    store_values<Elements, kVectors>(params.x, second_at, second_left, second);
}

/// Whether all heads begin on an address of 16 bytes and all pieces of what turns are whole.
bool has_whole_heads(const RopeParams& params) {
    const int64_t half = params.dims / 2, bytes = float_bytes(params.type);
    const bool heads = params.head_dim * bytes % 16 == 0;
    const bool groups = params.groups <= 1 || params.group_stride * bytes % 16 == 0;
    return heads && groups && has_whole_pieces(params.x, half, params.row_stride, params.type) &&
           has_whole_pieces(params.cos, half, half, params.angle_type) &&
           has_whole_pieces(params.sin, half, half, params.angle_type);
}

}  // namespace

void rope(const RopeParams& params, Stream stream) {
    require(params.tokens >= 0 && params.heads >= 0 && params.groups >= 0, "rope: a size is negative");
    require(params.dims >= 2 && params.dims % 2 == 0,
            "rope: the dimensions that turn must be even and at least 2");
    require(params.dims <= params.head_dim, "rope: more dimensions turn than a head has");
    const int64_t group = params.groups > 1 ? params.group_stride : params.row_stride;
    require(group >= 0 && params.heads <= group / params.head_dim, "rope: the heads are longer than a row");
    require(params.groups <= 1 || (group > 0 && params.groups <= params.row_stride / group),
            "rope: the groups of heads are longer than a row");
    require(params.direction == 1 || params.direction == -1, "rope: direction is neither 1 nor -1");
    require(params.angle_type == params.type || params.angle_type == FloatType::kF32,
            "rope: angles neither of the type of x nor fp32");
    const std::size_t angle_bytes = static_cast<std::size_t>(float_bytes(params.angle_type));
    require(is_aligned(params.x, static_cast<std::size_t>(float_bytes(params.type))) &&
                is_aligned(params.cos, angle_bytes) && is_aligned(params.sin, angle_bytes),
            "rope: a tensor that is not aligned to its element");
    const int64_t per_head = pieces_of(params.dims / 2);
    const unsigned per_token = piece_count(params.groups, piece_count(params.heads, per_head));
    const unsigned pieces = piece_count(params.tokens, per_token);
    if (pieces == 0) return;
    const LaunchConfig config{dim3(grid_size(pieces, kPieceThreads)), dim3(kPieceThreads)};
    with_pieces(params.type, has_whole_heads(params), [&](auto elements, auto whole) {
        using Elements = decltype(elements);
        constexpr bool kVectors = decltype(whole)::value;
        const auto turn_by = [&](auto angles, auto pairs) {
            launch<rotate_pieces<Elements, decltype(angles), kVectors, decltype(pairs)::value>>(
                config, stream, params, pieces, static_cast<unsigned>(per_head), per_token);
        };
        const auto turn_pairs_by = [&](auto angles) {
            if (params.pairs) {
                turn_by(angles, std::true_type{});
            } else {
                turn_by(angles, std::false_type{});
            }
        };
        if (params.angle_type == params.type) {
            turn_pairs_by(Elements{});
        } else {
            turn_pairs_by(F32Elements{});
        }
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
