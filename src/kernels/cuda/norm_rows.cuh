#pragma once

#include <initializer_list>

#include "pieces.cuh"
#include "warp.cuh"

/// Rows whose sums decide about each of their values: one warp a row while the row fits its registers, else
/// one CUDA block. What a thread read for a sum it keeps for the result, so a row is read once; rows beyond
/// 16,384 values and rows that are not aligned are read again. The sum: each thread adds the values of its
/// pieces one after another, then lanes are added pairwise, then warps one after another.
namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// Thread t of a row's kTeam takes the pieces t, t + kTeam, .. and keeps all of them, at most kKept, in
/// registers; with kKept 0 it reads them again.
template <int kTeamThreads, int kKeptPieces>
struct RowShape {
    static constexpr int kTeam = kTeamThreads;
    static constexpr int kKept = kKeptPieces;
    static constexpr int kThreads = kTeam < 128 ? 128 : kTeam;
    static constexpr int kRows =
        kThreads / kTeam;  // of a CUDA block; more than 1 only where a team is a warp
    static constexpr int64_t kStep = static_cast<int64_t>(kTeam) * kPiece;

    static __device__ int64_t row() {
        return blockIdx.x * static_cast<int64_t>(kRows) + static_cast<int>(threadIdx.x) / kTeam;
    }
    /// Where the thread's first piece begins.
    static __device__ int64_t first() { return static_cast<int>(threadIdx.x) % kTeam * kPiece; }

    /// visit(at, i) for the pieces that may be kept, some of them beyond the row.
    template <class Visit>
    static __device__ void each_kept(const Visit& visit) {
#pragma unroll
        for (int i = 0; i < kKept; ++i) visit(first() + i * kStep, i);
    }
    /// visit(at) for the pieces that are not kept.
    template <class Visit>
    static __device__ void each_other(int64_t size, const Visit& visit) {
        if constexpr (kKept == 0) {
            for (int64_t at = first(); at < size; at += kStep) visit(at);
        }
    }
};

template <class Elements, class Shape>
using KeptPieces = Piece<Elements>[Shape::kKept == 0 ? 1 : Shape::kKept];

/// The team, and so the order of a sum, follows from the size of a row alone.
template <class Vectors, class Action>
void with_row_shape(int64_t size, Vectors vectors, const Action& action) {
    constexpr int kMost = decltype(vectors)::value ? 4 : 0;
    if (size <= 32 * kPiece) return action(RowShape<32, kMost / 4>{});
    if (size <= 32 * 4 * kPiece) return action(RowShape<32, kMost>{});
    if (size <= 128 * 4 * kPiece) return action(RowShape<128, kMost>{});
    if (size <= 512 * 4 * kPiece) return action(RowShape<512, kMost>{});
    action(RowShape<512, 0>{});
}

/// The sum over a row's threads, in each of them. A kernel calls it once for each slot, as the next call's
/// writes would meet this one's reads.
template <class Shape, int kSlot>
__device__ float team_sum(float value) {
    value = warp_sum(value);
    if constexpr (Shape::kTeam > kWarpSize) {
        constexpr int kWarps = Shape::kTeam / kWarpSize;
        __shared__ float warps[kWarps];
        if (threadIdx.x % kWarpSize == 0) warps[threadIdx.x / kWarpSize] = value;
        __syncthreads();
        value = warps[0];
#pragma unroll
        for (int warp = 1; warp < kWarps; ++warp) value += warps[warp];
    }
    return value;
}

/// x + residual, rounded and stored.
template <class Elements, bool kVectors>
__device__ Piece<Elements> store_sum(const Piece<Elements>& x, const Piece<Elements>& residual, void* sum,
                                     int64_t index, int64_t left) {
    float values[kPiece], added[kPiece];
    unpack_piece(x, values);
    unpack_piece(residual, added);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) values[i] += added[i];
    const Piece<Elements> rounded = pack_piece<Elements>(values);
    if (left > 0) store_piece<Elements, kVectors>(sum, index, left, rounded);
    return rounded;
}

inline void check_norm_sizes(int64_t rows, int64_t size) {
    require(rows >= 0 && size >= 1, "norm: rows count from 0, sizes from 1");
}

inline void check_norm_alignment(std::initializer_list<const void*> elements,
                                 std::initializer_list<const void*> floats, FloatType type) {
    for (const void* address : elements) {
        require(is_aligned(address, static_cast<std::size_t>(float_bytes(type))),
                "norm: a tensor that is not aligned to its element");
    }
    for (const void* address : floats) {
        require(is_aligned(address, sizeof(float)), "norm: floats that are not aligned");
    }
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
