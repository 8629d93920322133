// RMSNorm of rows and its gradient: one warp a row while the row fits its registers, else one CUDA block.
// What a thread read for the sum it keeps for the result, so a row is read once; rows beyond 16,384 values
// and rows that are not aligned are read twice. The sum: each thread adds the values of its pieces one after
// another by fused multiply-adds, then lanes are added pairwise, then warps one after another.
#include <cmath>
#include <initializer_list>

#include "pieces.cuh"
#include "qlora/kernels/cuda_layer.h"
#include "warp.cuh"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

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

/// The sum over a row's threads, in each of them; called once.
template <class Shape>
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

template <class Elements, bool kVectors>
struct Norm {
    /// x + residual, rounded and stored.
    static __device__ Piece<Elements> add(const Piece<Elements>& x, const Piece<Elements>& residual,
                                          void* sum, int64_t index, int64_t left) {
        float values[kPiece], added[kPiece];
        unpack_piece(x, values);
        unpack_piece(residual, added);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) values[i] += added[i];
        const Piece<Elements> rounded = pack_piece<Elements>(values);
        if (left > 0) store_piece<Elements, kVectors>(sum, index, left, rounded);
        return rounded;
    }

    static __device__ float add_squares(float squares, const Piece<Elements>& x) {
        float values[kPiece];
        unpack_piece(x, values);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) squares = fmaf(values[i], values[i], squares);
        return squares;
    }

    /// Values `at` .. of a row of y.
    static __device__ void write(const Piece<Elements>& x, float inverse, const float* weight, NormKind kind,
                                 int64_t at, int64_t left, void* y, int64_t row_begin) {
        float values[kPiece], scales[kPiece];
        unpack_piece(x, values);
        load_values<F32Elements, kVectors>(weight, at, left, scales);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            const float n = values[i] * inverse;
            values[i] = kind == NormKind::kRmsLate ? scales[i] * n
                                                   : Elements::rounded(scales[i]) * Elements::rounded(n);
        }
        store_values<Elements, kVectors>(y, row_begin + at, left, values);
    }
};

// One CUDA block a multiprocessor is all that is demanded of the compiler, which else spills to reach more.
template <class Elements, bool kVectors, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) norm_rows(RmsNormParams params, float eps) {
    using Row = Norm<Elements, kVectors>;
    const int64_t row = Shape::row(), begin = row * params.size, y_begin = row * params.y_stride;
    if (row >= params.rows) return;  // a whole warp, or never
    const bool adds = params.residual != nullptr;
    const auto load = [&](const void* from, int64_t at) {
        return load_piece<Elements, kVectors>(from, begin + at, params.size - at);
    };
    const auto add = [&](const Piece<Elements>& x, const Piece<Elements>& residual, int64_t at) {
        return Row::add(x, residual, params.sum, begin + at, params.size - at);
    };
    const auto write = [&](const Piece<Elements>& x, float inverse, int64_t at) {
        Row::write(x, inverse, params.weight, params.kind, at, params.size - at, params.y, y_begin);
    };

    KeptPieces<Elements, Shape> kept;
    Shape::each_kept([&](int64_t at, int i) { kept[i] = load(params.x, at); });
    if (adds) {
        // All loads before the first store, over which the compiler may not move them.
        KeptPieces<Elements, Shape> added;
        Shape::each_kept([&](int64_t at, int i) { added[i] = load(params.residual, at); });
        Shape::each_kept([&](int64_t at, int i) { kept[i] = add(kept[i], added[i], at); });
    }
    float squares = 0.0f;
    Shape::each_kept([&](int64_t, int i) { squares = Row::add_squares(squares, kept[i]); });
    Shape::each_other(params.size, [&](int64_t at) {
        Piece<Elements> piece = load(params.x, at);
        if (adds) piece = add(piece, load(params.residual, at), at);
        squares = Row::add_squares(squares, piece);
    });

    const float mean = team_sum<Shape>(squares) / static_cast<float>(params.size);
    const float inverse = 1.0f / sqrtf(mean + eps);
    if (Shape::first() == 0) params.inverse[row] = inverse;

    Shape::each_kept([&](int64_t at, int i) {
        if (at < params.size) write(kept[i], inverse, at);
    });
    Shape::each_other(params.size,
                      [&](int64_t at) { write(load(adds ? params.sum : params.x, at), inverse, at); });
}

template <class Elements, bool kVectors>
__global__ void __launch_bounds__(kPieceThreads)
    norm_pieces(RmsNormRecomputeParams params, unsigned pieces, unsigned per_row) {
    const unsigned index = blockIdx.x * kPieceThreads + threadIdx.x;
    if (index >= pieces) return;
    const int64_t row = index / per_row, at = index % per_row * static_cast<int64_t>(kPiece);
    const int64_t left = params.size - at;
    const Piece<Elements> x = load_piece<Elements, kVectors>(params.x, row * params.size + at, left);
    Norm<Elements, kVectors>::write(x, params.inverse[row], params.weight, params.kind, at, left, params.y,
                                    row * params.y_stride);
}

template <class Elements, bool kVectors, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) norm_gradient_rows(RmsNormBackwardParams params) {
    const int64_t row = Shape::row(), begin = row * params.size;
    if (row >= params.rows) return;  // a whole warp, or never
    const float inverse = params.inverse[row];
    const bool adds = params.residual != nullptr;
    const auto load = [&](const void* from, int64_t at) {
        return load_piece<Elements, kVectors>(from, begin + at, params.size - at);
    };
    // n = x * inverse and g = dy * weight of a piece.
    const auto terms = [&](const Piece<Elements>& x, const Piece<Elements>& dy, int64_t at, float(&n)[kPiece],
                           float(&g)[kPiece]) {
        float scales[kPiece];
        load_values<F32Elements, kVectors>(params.weight, at, params.size - at, scales);
        unpack_piece(x, n);
        unpack_piece(dy, g);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            n[i] *= inverse;
            g[i] *= scales[i];
        }
    };
    float products = 0.0f;
    const auto add_products = [&](const Piece<Elements>& x, const Piece<Elements>& dy, int64_t at) {
        float n[kPiece], g[kPiece];
        terms(x, dy, at, n, g);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            // Beyond the row n is 0 * inverse, which is NaN for an infinite one.
            if (kVectors || at + i < params.size) products = fmaf(g[i], n[i], products);
        }
    };

    KeptPieces<Elements, Shape> x, dy, direct = {};
    Shape::each_kept([&](int64_t at, int i) {
        x[i] = load(params.x, at);
        dy[i] = load(params.dy, at);
    });
    if (adds) Shape::each_kept([&](int64_t at, int i) { direct[i] = load(params.residual, at); });
    Shape::each_kept([&](int64_t at, int i) {
        if (at < params.size) add_products(x[i], dy[i], at);
    });
    Shape::each_other(params.size,
                      [&](int64_t at) { add_products(load(params.x, at), load(params.dy, at), at); });

    const float mean = team_sum<Shape>(products) / static_cast<float>(params.size);
    const auto write = [&](const Piece<Elements>& x_piece, const Piece<Elements>& dy_piece,
                           const Piece<Elements>& direct_piece, int64_t at) {
        float n[kPiece], g[kPiece], added[kPiece];
        terms(x_piece, dy_piece, at, n, g);
        unpack_piece(direct_piece, added);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            g[i] = Elements::rounded(inverse * (g[i] - n[i] * mean));
            if (adds) g[i] += added[i];  // a zero would make -0 positive
        }
        store_values<Elements, kVectors>(params.dx, begin + at, params.size - at, g);
    };
    Shape::each_kept([&](int64_t at, int i) {
        if (at < params.size) write(x[i], dy[i], direct[i], at);
    });
    Shape::each_other(params.size, [&](int64_t at) {
        const Piece<Elements> none = {};
        write(load(params.x, at), load(params.dy, at), adds ? load(params.residual, at) : none, at);
    });
}

void check_kind(NormKind kind) {
    require(kind == NormKind::kRms || kind == NormKind::kRmsLate, "rms_norm: the norm is of another kind");
}

void check_sizes(int64_t rows, int64_t size) {
    require(rows >= 0 && size >= 1, "rms_norm: rows count from 0, sizes from 1");
}

void check_alignment(std::initializer_list<const void*> elements, std::initializer_list<const void*> floats,
                     FloatType type) {
    for (const void* address : elements) {
        require(is_aligned(address, static_cast<std::size_t>(float_bytes(type))),
                "rms_norm: a tensor that is not aligned to its element");
    }
    for (const void* address : floats) {
        require(is_aligned(address, sizeof(float)), "rms_norm: floats that are not aligned");
    }
}

}  // namespace

void rms_norm(const RmsNormParams& params, Stream stream) {
    check_kind(params.kind);
    check_sizes(params.rows, params.size);
    require(params.eps >= 0.0 && std::isfinite(params.eps), "rms_norm: eps is negative or not finite");
    require((params.residual == nullptr) == (params.sum == nullptr),
            "rms_norm: a residual without a place for its sum, or the other way round");
    require(params.y_stride >= params.size, "rms_norm: rows of y that overlap");
    check_alignment({params.x, params.residual, params.sum, params.y}, {params.weight, params.inverse},
                    params.type);
    if (params.rows == 0) return;
    const int64_t size = params.size;
    const bool vectors = has_whole_pieces(params.x, size, size, params.type) &&
                         has_whole_pieces(params.residual, size, size, params.type) &&
                         has_whole_pieces(params.sum, size, size, params.type) &&
                         has_whole_pieces(params.y, size, params.y_stride, params.type) &&
                         is_aligned(params.weight, 16);
    with_pieces(params.type, vectors, [&](auto elements, auto whole) {
        with_row_shape(size, whole, [&](auto shape) {
            using Shape = decltype(shape);
            const LaunchConfig config{dim3(grid_size(params.rows, Shape::kRows)), dim3(Shape::kThreads)};
            launch<norm_rows<decltype(elements), decltype(whole)::value, Shape>>(
                config, stream, params, static_cast<float>(params.eps));
        });
    });
}

void rms_norm_recompute(const RmsNormRecomputeParams& params, Stream stream) {
    check_kind(params.kind);
    check_sizes(params.rows, params.size);
    require(params.y_stride >= params.size, "rms_norm_recompute: rows of y that overlap");
    check_alignment({params.x, params.y}, {params.weight, params.inverse}, params.type);
    const int64_t per_row = pieces_of(params.size);
    const unsigned pieces = piece_count(params.rows, per_row);
    if (pieces == 0) return;
    const bool vectors = has_whole_pieces(params.x, params.size, params.size, params.type) &&
                         has_whole_pieces(params.y, params.size, params.y_stride, params.type) &&
                         is_aligned(params.weight, 16);
    const LaunchConfig config{dim3(grid_size(pieces, kPieceThreads)), dim3(kPieceThreads)};
    with_pieces(params.type, vectors, [&](auto elements, auto whole) {
        launch<norm_pieces<decltype(elements), decltype(whole)::value>>(config, stream, params, pieces,
                                                                        static_cast<unsigned>(per_row));
    });
}

void rms_norm_backward(const RmsNormBackwardParams& params, Stream stream) {
    check_sizes(params.rows, params.size);
    check_alignment({params.dy, params.x, params.residual, params.dx}, {params.weight, params.inverse},
                    params.type);
    if (params.rows == 0) return;
    const int64_t size = params.size;
    const bool vectors = has_whole_pieces(params.dy, size, size, params.type) &&
                         has_whole_pieces(params.x, size, size, params.type) &&
                         has_whole_pieces(params.residual, size, size, params.type) &&
                         has_whole_pieces(params.dx, size, size, params.type) &&
                         is_aligned(params.weight, 16);
    with_pieces(params.type, vectors, [&](auto elements, auto whole) {
        with_row_shape(size, whole, [&](auto shape) {
            using Shape = decltype(shape);
            const LaunchConfig config{dim3(grid_size(params.rows, Shape::kRows)), dim3(Shape::kThreads)};
            launch<norm_gradient_rows<decltype(elements), decltype(whole)::value, Shape>>(config, stream,
                                                                                          params);
        });
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
