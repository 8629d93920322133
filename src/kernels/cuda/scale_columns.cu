// Rows times a factor for each column, one thread a piece of eight values; and the gradient, whose column
// sums are made by blocks of 64 columns and 256 rows, then over the blocks.
#include <initializer_list>

#include "pieces.cuh"
#include "qlora/kernels/cuda_layer.h"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

template <class Elements, bool kVectors>
__global__ void __launch_bounds__(kPieceThreads)
    scale_pieces(ScaleColumnsParams params, unsigned pieces, unsigned per_row) {
    const unsigned index = blockIdx.x * kPieceThreads + threadIdx.x;
    if (index >= pieces) return;
    const int64_t row = index / per_row, at = index % per_row * static_cast<int64_t>(kPiece);
    const int64_t left = params.size - at;
    float values[kPiece], other[kPiece];
    load_values<Elements, kVectors>(params.x, row * params.x_stride + at, left, values);
    load_values<F32Elements, kVectors>(params.scale, at, left, other);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) values[i] *= other[i];
    if (params.bias != nullptr) {
        load_values<F32Elements, kVectors>(params.bias, at, left, other);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) values[i] += other[i];
    }
    if (params.start != nullptr) {
        load_values<Elements, kVectors>(params.start, row * params.start_stride + at, left, other);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) values[i] += other[i];
    }
    store_values<Elements, kVectors>(params.y, row * params.y_stride + at, left, values);
}

constexpr int kSumPieces = 8;                     // side by side in a block
constexpr int kSumColumns = kSumPieces * kPiece;  // that is 64
constexpr int kSumThreads = 256;
constexpr int kRowLanes = kSumThreads / kSumPieces;  // rows that are read at a time

template <class Elements, bool kVectors>
__global__ void __launch_bounds__(kSumThreads) sum_column_parts(ScaleColumnsBackwardParams params) {
    __shared__ float lanes[kRowLanes][kSumColumns];
    const int thread = static_cast<int>(threadIdx.x), lane = thread / kSumPieces;
    const int column = thread % kSumPieces * kPiece;
    const int64_t first = blockIdx.x * static_cast<int64_t>(kSumColumns), at = first + column;
    const int64_t left = params.size - at, begin = blockIdx.y * kColumnSumRows;
    float sums[kPiece] = {}, scale[kPiece];
    if (params.scaled != nullptr) load_values<F32Elements, kVectors>(params.scale, at, left, scale);
    for (int64_t row = begin + lane; row < begin + kColumnSumRows && row < params.rows; row += kRowLanes) {
        if (left <= 0) continue;
        float g[kPiece], x[kPiece];
        load_values<Elements, kVectors>(params.g, row * params.g_stride + at, left, g);
        load_values<Elements, kVectors>(params.x, row * params.x_stride + at, left, x);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) sums[i] = fmaf(g[i], x[i], sums[i]);
        if (params.scaled == nullptr) continue;
#pragma unroll
        for (int i = 0; i < kPiece; ++i) g[i] *= scale[i];
        store_values<Elements, kVectors>(params.scaled, row * params.scaled_stride + at, left, g);
    }
#pragma unroll
    for (int i = 0; i < kPiece; ++i) lanes[lane][column + i] = sums[i];
    __syncthreads();
    if (thread >= kSumColumns || first + thread >= params.size) return;
    float sum = lanes[0][thread];
#pragma unroll
    for (int row = 1; row < kRowLanes; ++row) sum += lanes[row][thread];
    params.parts[blockIdx.y * params.size + first + thread] = sum;
}

__global__ void __launch_bounds__(kSumThreads)
    add_column_parts(const float* parts, int64_t count, int64_t size, float* sums) {
    const int64_t column = blockIdx.x * static_cast<int64_t>(kSumThreads) + threadIdx.x;
    if (column >= size) return;
    double sum = 0.0;
    for (int64_t part = 0; part < count; ++part) sum += static_cast<double>(parts[part * size + column]);
    sums[column] = static_cast<float>(sum);
}

void check_alignment(std::initializer_list<const void*> elements, std::initializer_list<const void*> floats,
                     FloatType type) {
    for (const void* address : elements) {
        require(is_aligned(address, static_cast<std::size_t>(float_bytes(type))),
                "scale_columns: a tensor that is not aligned to its element");
    }
    for (const void* address : floats)
        require(is_aligned(address, sizeof(float)), "scale_columns: floats that are not aligned");
}

}  // namespace

void scale_columns(const ScaleColumnsParams& params, Stream stream) {
    require(params.rows >= 0 && params.size >= 0, "scale_columns: a size is negative");
    require(params.x_stride >= params.size && params.y_stride >= params.size &&
                (params.start == nullptr || params.start_stride >= params.size),
            "scale_columns: rows that overlap");
    check_alignment({params.x, params.start, params.y}, {params.scale, params.bias}, params.type);
    const int64_t per_row = pieces_of(params.size);
    const unsigned pieces = piece_count(params.rows, per_row);
    if (pieces == 0) return;
    // One that is missing, null with a stride of 0, hinders nobody.
    const bool vectors = has_whole_pieces(params.x, params.size, params.x_stride, params.type) &&
                         has_whole_pieces(params.y, params.size, params.y_stride, params.type) &&
                         has_whole_pieces(params.start, params.size, params.start_stride, params.type) &&
                         is_aligned(params.scale, 16) && is_aligned(params.bias, 16);
    const LaunchConfig config{dim3(grid_size(pieces, kPieceThreads)), dim3(kPieceThreads)};
    with_pieces(params.type, vectors, [&](auto elements, auto whole) {
        launch<scale_pieces<decltype(elements), decltype(whole)::value>>(config, stream, params, pieces,
                                                                         static_cast<unsigned>(per_row));
    });
}

void scale_columns_backward(const ScaleColumnsBackwardParams& params, Stream stream) {
    require(params.rows >= 0 && params.size >= 0, "scale_columns_backward: a size is negative");
    require(params.g_stride >= params.size && params.x_stride >= params.size &&
                (params.scaled == nullptr || params.scaled_stride >= params.size),
            "scale_columns_backward: rows that overlap");
    check_alignment({params.g, params.x, params.scaled}, {params.scale, params.parts, params.sums},
                    params.type);
    const int64_t parts = column_sum_parts(params.rows);
    require(parts <= 65535, "scale_columns_backward: a tensor too large for one launch");
    if (params.size == 0) return;
    if (parts > 0) {
        const bool vectors =
            has_whole_pieces(params.g, params.size, params.g_stride, params.type) &&
            has_whole_pieces(params.x, params.size, params.x_stride, params.type) &&
            has_whole_pieces(params.scaled, params.size, params.scaled_stride, params.type) &&
            is_aligned(params.scale, 16);
        const LaunchConfig config{dim3(grid_size(params.size, kSumColumns), static_cast<unsigned>(parts)),
                                  dim3(kSumThreads)};
        with_pieces(params.type, vectors, [&](auto elements, auto whole) {
            launch<sum_column_parts<decltype(elements), decltype(whole)::value>>(config, stream, params);
        });
    }
    const LaunchConfig config{dim3(grid_size(params.size, kSumThreads)), dim3(kSumThreads)};
    launch<add_column_parts>(config, stream, static_cast<const float*>(params.parts), parts, params.size,
                             params.sums);
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
