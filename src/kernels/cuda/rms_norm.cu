// RMSNorm of rows and its gradient, on the rows of norm_rows.cuh.
#include <cmath>

#include "norm_rows.cuh"
#include "qlora/kernels/cuda_layer.h"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

template <class Elements, bool kVectors>
struct Norm {
    static __device__ float add_squares(float squares, const Piece<Elements>& x) {
        float values[kPiece];
        unpack_piece(x, values);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) squares = fmaf(values[i], values[i], squares);
        return squares;
    }

    /// weight * n for the piece `at` of a row, before it is rounded.
    static __device__ void weigh(const Piece<Elements>& x, float inverse, const float* weight, NormKind kind,
                                 int64_t at, int64_t left, float (&values)[kPiece]) {
        float scales[kPiece];
        unpack_piece(x, values);
        load_values<F32Elements, kVectors>(weight, at, left, scales);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            const float n = values[i] * inverse;
            values[i] = kind == NormKind::kRmsLate ? scales[i] * n
                                                   : Elements::rounded(scales[i]) * Elements::rounded(n);
        }
    }

    /// addend + multiplier * values, each operation rounded but the last.
    static __device__ void add_to(const Piece<Elements>& addend, float multiplier, float (&values)[kPiece]) {
        float addends[kPiece];
        unpack_piece(addend, addends);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            values[i] = addends[i] + Elements::rounded(multiplier * Elements::rounded(values[i]));
        }
    }
};

// One CUDA block a multiprocessor is all that is demanded of the compiler, which else spills to reach more.
template <class Elements, bool kVectors, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) norm_rows(RmsNormParams params, float eps) {
    using Row = Norm<Elements, kVectors>;
    const int64_t row = Shape::row(), begin = row * params.size, y_begin = row * params.y_stride;
    if (row >= params.rows) return;  // a whole warp, or never
    const bool adds = params.residual != nullptr, ends_in_sum = params.added != nullptr;
    const auto load = [&](const void* from, int64_t at) {
        return load_piece<Elements, kVectors>(from, begin + at, params.size - at);
    };
    const auto add = [&](const Piece<Elements>& x, const Piece<Elements>& residual, int64_t at) {
        return store_sum<Elements, kVectors>(x, residual, params.sum, begin + at, params.size - at);
    };
    const auto write = [&](const Piece<Elements>& x, float inverse, const Piece<Elements>& addend,
                           int64_t at) {
        float values[kPiece];
        Row::weigh(x, inverse, params.weight, params.kind, at, params.size - at, values);
        if (ends_in_sum) Row::add_to(addend, params.multiplier, values);
        store_values<Elements, kVectors>(params.y, y_begin + at, params.size - at, values);
    };

    KeptPieces<Elements, Shape> kept;
    Shape::each_kept([&](int64_t at, int i) { kept[i] = load(params.x, at); });
    if (adds) {
        // All loads before the first store, over which the compiler may not move them.
        KeptPieces<Elements, Shape> added;
        Shape::each_kept([&](int64_t at, int i) { added[i] = load(params.residual, at); });
        Shape::each_kept([&](int64_t at, int i) { kept[i] = add(kept[i], added[i], at); });
    }
    KeptPieces<Elements, Shape> addends = {};
    if (ends_in_sum) Shape::each_kept([&](int64_t at, int i) { addends[i] = load(params.added, at); });
    float squares = 0.0f;
    Shape::each_kept([&](int64_t, int i) { squares = Row::add_squares(squares, kept[i]); });
    Shape::each_other(params.size, [&](int64_t at) {
        Piece<Elements> piece = load(params.x, at);
        if (adds) piece = add(piece, load(params.residual, at), at);
        squares = Row::add_squares(squares, piece);
    });

    const float mean = team_sum<Shape, 0>(squares) / static_cast<float>(params.size);
    const float inverse = 1.0f / sqrtf(mean + eps);
    if (Shape::first() == 0) params.inverse[row] = inverse;

    Shape::each_kept([&](int64_t at, int i) {
        if (at < params.size) write(kept[i], inverse, addends[i], at);
    });
    Shape::each_other(params.size, [&](int64_t at) {
        const Piece<Elements> none = {};
        write(load(adds ? params.sum : params.x, at), inverse, ends_in_sum ? load(params.added, at) : none,
              at);
    });
}

template <class Elements, bool kVectors>
__global__ void __launch_bounds__(kPieceThreads)
    norm_pieces(RmsNormRecomputeParams params, unsigned pieces, unsigned per_row) {
    const unsigned index = blockIdx.x * kPieceThreads + threadIdx.x;
    if (index >= pieces) return;
    const int64_t row = index / per_row, at = index % per_row * static_cast<int64_t>(kPiece);
    const int64_t left = params.size - at;
    const Piece<Elements> x = load_piece<Elements, kVectors>(params.x, row * params.size + at, left);
    float values[kPiece];
    Norm<Elements, kVectors>::weigh(x, params.inverse[row], params.weight, params.kind, at, left, values);
    store_values<Elements, kVectors>(params.y, row * params.y_stride + at, left, values);
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

    const float mean = team_sum<Shape, 0>(products) / static_cast<float>(params.size);
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

}  // namespace

void rms_norm(const RmsNormParams& params, Stream stream) {
    check_kind(params.kind);
    check_norm_sizes(params.rows, params.size);
    require(params.eps >= 0.0 && std::isfinite(params.eps), "rms_norm: eps is negative or not finite");
    require((params.residual == nullptr) == (params.sum == nullptr),
            "rms_norm: a residual without a place for its sum, or the other way round");
    require(params.y_stride >= params.size, "rms_norm: rows of y that overlap");
    check_norm_alignment({params.x, params.residual, params.sum, params.added, params.y},
                         {params.weight, params.inverse}, params.type);
    if (params.rows == 0) return;
    const int64_t size = params.size;
    const bool vectors = has_whole_pieces(params.x, size, size, params.type) &&
                         has_whole_pieces(params.residual, size, size, params.type) &&
                         has_whole_pieces(params.sum, size, size, params.type) &&
                         has_whole_pieces(params.added, size, size, params.type) &&
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
    check_norm_sizes(params.rows, params.size);
    require(params.y_stride >= params.size, "rms_norm_recompute: rows of y that overlap");
    check_norm_alignment({params.x, params.y}, {params.weight, params.inverse}, params.type);
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
    check_norm_sizes(params.rows, params.size);
    check_norm_alignment({params.dy, params.x, params.residual, params.dx}, {params.weight, params.inverse},
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
