// LayerNorm of rows and its gradient, on the rows of norm_rows.cuh. The variance is summed of differences
// from the mean, so that a mean far from zero does not swallow it.
#include <cmath>

#include "norm_rows.cuh"
#include "qlora/kernels/cuda_layer.h"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

/// Sums over the values of a piece that lie in the row, of which `left` are to come; beyond it a difference
/// from the mean is not zero.
template <class Elements, bool kVectors>
struct LayerRow {
    static __device__ float add_values(float sum, const Piece<Elements>& x) {
        float values[kPiece];
        unpack_piece(x, values);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) sum += values[i];
        return sum;
    }

    static __device__ float add_squares(float squares, const Piece<Elements>& x, float mean, int64_t left) {
        float values[kPiece];
        unpack_piece(x, values);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            const float difference = values[i] - mean;
            if (kVectors || i < left) squares = fmaf(difference, difference, squares);
        }
        return squares;
    }

    /// Stores weight * n + bias for the piece `at` of a row.
    static __device__ void write(const Piece<Elements>& x, float mean, float inverse, const float* weight,
                                 const float* bias, int64_t at, int64_t left, void* y, int64_t row_begin) {
        float values[kPiece], scales[kPiece], shifts[kPiece];
        unpack_piece(x, values);
        load_values<F32Elements, kVectors>(weight, at, left, scales);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) values[i] = scales[i] * ((values[i] - mean) * inverse);
        if (bias != nullptr) {
            load_values<F32Elements, kVectors>(bias, at, left, shifts);
#pragma unroll
            for (int i = 0; i < kPiece; ++i) values[i] += shifts[i];
        }
        store_values<Elements, kVectors>(y, row_begin + at, left, values);
    }
};

// One CUDA block a multiprocessor is all that is demanded of the compiler, which else spills to reach more.
template <class Elements, bool kVectors, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) layer_norm_rows(LayerNormParams params, float eps) {
    using Row = LayerRow<Elements, kVectors>;
    const int64_t row = Shape::row(), begin = row * params.size;
    if (row >= params.rows) return;  // a whole warp, or never
    const bool adds = params.residual != nullptr;
    const float size = static_cast<float>(params.size);
    const auto load = [&](const void* from, int64_t at) {
        return load_piece<Elements, kVectors>(from, begin + at, params.size - at);
    };
    const auto add = [&](const Piece<Elements>& x, const Piece<Elements>& residual, int64_t at) {
        return store_sum<Elements, kVectors>(x, residual, params.sum, begin + at, params.size - at);
    };

    KeptPieces<Elements, Shape> kept;
    Shape::each_kept([&](int64_t at, int i) { kept[i] = load(params.x, at); });
    if (adds) {
        // All loads before the first store, over which the compiler may not move them.
        KeptPieces<Elements, Shape> added;
        Shape::each_kept([&](int64_t at, int i) { added[i] = load(params.residual, at); });
        Shape::each_kept([&](int64_t at, int i) { kept[i] = add(kept[i], added[i], at); });
    }
    float sum = 0.0f;
    Shape::each_kept([&](int64_t, int i) { sum = Row::add_values(sum, kept[i]); });
    Shape::each_other(params.size, [&](int64_t at) {
        Piece<Elements> piece = load(params.x, at);
        if (adds) piece = add(piece, load(params.residual, at), at);
        sum = Row::add_values(sum, piece);
    });
    const float mean = team_sum<Shape, 0>(sum) / size;

    const void* normed = adds ? params.sum : params.x;
    float squares = 0.0f;
    Shape::each_kept([&](int64_t at, int i) {
        if (at < params.size) squares = Row::add_squares(squares, kept[i], mean, params.size - at);
    });
    Shape::each_other(params.size, [&](int64_t at) {
        squares = Row::add_squares(squares, load(normed, at), mean, params.size - at);
    });
    const float inverse = 1.0f / sqrtf(team_sum<Shape, 1>(squares) / size + eps);
    if (Shape::first() == 0) {
        params.mean[row] = mean;
        params.inverse[row] = inverse;
    }

    const auto write = [&](const Piece<Elements>& x, int64_t at) {
        Row::write(x, mean, inverse, params.weight, params.bias, at, params.size - at, params.y,
                   row * params.y_stride);
    };
    Shape::each_kept([&](int64_t at, int i) {
        if (at < params.size) write(kept[i], at);
    });
    Shape::each_other(params.size, [&](int64_t at) { write(load(normed, at), at); });
}

template <class Elements, bool kVectors>
__global__ void __launch_bounds__(kPieceThreads)
    layer_norm_pieces(LayerNormRecomputeParams params, unsigned pieces, unsigned per_row) {
    const unsigned index = blockIdx.x * kPieceThreads + threadIdx.x;
    if (index >= pieces) return;
    const int64_t row = index / per_row, at = index % per_row * static_cast<int64_t>(kPiece);
    const int64_t left = params.size - at;
    const Piece<Elements> x = load_piece<Elements, kVectors>(params.x, row * params.size + at, left);
    LayerRow<Elements, kVectors>::write(x, params.mean[row], params.inverse[row], params.weight, params.bias,
                                        at, left, params.y, row * params.y_stride);
}

template <class Elements, bool kVectors, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    layer_norm_gradient_rows(LayerNormBackwardParams params) {
    const int64_t row = Shape::row(), begin = row * params.size;
    if (row >= params.rows) return;  // a whole warp, or never
    const float mean = params.mean[row], inverse = params.inverse[row];
    const float size = static_cast<float>(params.size);
    const bool adds = params.residual != nullptr;
    const auto load = [&](const void* from, int64_t at) {
        return load_piece<Elements, kVectors>(from, begin + at, params.size - at);
    };
    // n = (x - mean) * inverse and g = dy * weight of a piece.
    const auto terms = [&](const Piece<Elements>& x, const Piece<Elements>& dy, int64_t at, float(&n)[kPiece],
                           float(&g)[kPiece]) {
        float scales[kPiece];
        load_values<F32Elements, kVectors>(params.weight, at, params.size - at, scales);
        unpack_piece(x, n);
        unpack_piece(dy, g);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            n[i] = (n[i] - mean) * inverse;
            g[i] *= scales[i];
        }
    };
    float sum = 0.0f, products = 0.0f;
    const auto add_terms = [&](const Piece<Elements>& x, const Piece<Elements>& dy, int64_t at) {
        float n[kPiece], g[kPiece];
        terms(x, dy, at, n, g);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            if (!kVectors && at + i >= params.size) continue;
            sum += g[i];
            products = fmaf(g[i], n[i], products);
        }
    };

    KeptPieces<Elements, Shape> x, dy, direct = {};
    Shape::each_kept([&](int64_t at, int i) {
        x[i] = load(params.x, at);
        dy[i] = load(params.dy, at);
    });
    if (adds) Shape::each_kept([&](int64_t at, int i) { direct[i] = load(params.residual, at); });
    Shape::each_kept([&](int64_t at, int i) {
        if (at < params.size) add_terms(x[i], dy[i], at);
    });
    Shape::each_other(params.size,
                      [&](int64_t at) { add_terms(load(params.x, at), load(params.dy, at), at); });

    const float mean_gradient = team_sum<Shape, 0>(sum) / size;
    const float mean_product = team_sum<Shape, 1>(products) / size;
    const auto write = [&](const Piece<Elements>& x_piece, const Piece<Elements>& dy_piece,
                           const Piece<Elements>& direct_piece, int64_t at) {
        float n[kPiece], g[kPiece], added[kPiece];
        terms(x_piece, dy_piece, at, n, g);
        unpack_piece(direct_piece, added);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            g[i] = Elements::rounded(inverse * (g[i] - mean_gradient - n[i] * mean_product));
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

}  // namespace

void layer_norm(const LayerNormParams& params, Stream stream) {
    check_norm_sizes(params.rows, params.size);
    require(params.eps >= 0.0 && std::isfinite(params.eps), "layer_norm: eps is negative or not finite");
    require((params.residual == nullptr) == (params.sum == nullptr),
            "layer_norm: a residual without a place for its sum, or the other way round");
    require(params.y_stride >= params.size, "layer_norm: rows of y that overlap");
    check_norm_alignment({params.x, params.residual, params.sum, params.y},
                         {params.weight, params.bias, params.mean, params.inverse}, params.type);
    if (params.rows == 0) return;
    const int64_t size = params.size;
    const bool vectors = has_whole_pieces(params.x, size, size, params.type) &&
                         has_whole_pieces(params.residual, size, size, params.type) &&
                         has_whole_pieces(params.sum, size, size, params.type) &&
                         has_whole_pieces(params.y, size, params.y_stride, params.type) &&
                         is_aligned(params.weight, 16) && is_aligned(params.bias, 16);
    with_pieces(params.type, vectors, [&](auto elements, auto whole) {
        with_row_shape(size, whole, [&](auto shape) {
            using Shape = decltype(shape);
            const LaunchConfig config{dim3(grid_size(params.rows, Shape::kRows)), dim3(Shape::kThreads)};
            launch<layer_norm_rows<decltype(elements), decltype(whole)::value, Shape>>(
                config, stream, params, static_cast<float>(params.eps));
        });
    });
}

void layer_norm_recompute(const LayerNormRecomputeParams& params, Stream stream) {
    check_norm_sizes(params.rows, params.size);
    require(params.y_stride >= params.size, "layer_norm_recompute: rows of y that overlap");
    check_norm_alignment({params.x, params.y}, {params.weight, params.bias, params.mean, params.inverse},
                         params.type);
    const int64_t per_row = pieces_of(params.size);
    const unsigned pieces = piece_count(params.rows, per_row);
    if (pieces == 0) return;
    const bool vectors = has_whole_pieces(params.x, params.size, params.size, params.type) &&
                         has_whole_pieces(params.y, params.size, params.y_stride, params.type) &&
                         is_aligned(params.weight, 16) && is_aligned(params.bias, 16);
    const LaunchConfig config{dim3(grid_size(pieces, kPieceThreads)), dim3(kPieceThreads)};
    with_pieces(params.type, vectors, [&](auto elements, auto whole) {
        launch<layer_norm_pieces<decltype(elements), decltype(whole)::value>>(config, stream, params, pieces,
                                                                              static_cast<unsigned>(per_row));
    });
}

void layer_norm_backward(const LayerNormBackwardParams& params, Stream stream) {
    check_norm_sizes(params.rows, params.size);
    check_norm_alignment({params.dy, params.x, params.residual, params.dx},
                         {params.weight, params.mean, params.inverse}, params.type);
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
            launch<layer_norm_gradient_rows<decltype(elements), decltype(whole)::value, Shape>>(
                config, stream, params);
        });
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
