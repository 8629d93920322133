// Rows of an NF4 matrix as floats with further columns behind each: one thread a piece of 16 columns, first
// those of the matrix (one 8-byte load, 16-byte stores), then the appended ones. Where columns or addresses
// are no multiples, and for a piece that is not whole, value by value.
#include "nf4.cuh"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

constexpr int kThreads = 256;

struct PiecesShape {
    uint32_t own, per_row;  // pieces of the matrix's columns, and all of a row
    uint32_t count;         // of all rows
    int blocksize_log2;
    bool vectors;  // whether whole pieces are groups of the tensor and aligned on both sides
};

/// One piece of a row: 16 columns of the matrix from `column` on, or of those behind it.
struct PiecePlace {
    int64_t row, column;
    bool own;
};

template <class Elements>
__device__ void write_whole(const DequantizeRowsParams& params, const PiecesShape& shape,
                            const PiecePlace& piece, const float (&table)[kNf4Codes], bool together) {
    float values[kGroup];
    if (piece.own) {
        const int64_t from = (params.first + piece.row) * params.columns + piece.column;
        decode_group(params.weight.packed, from / kGroup, table,
                     load_absmax(params.weight.absmax, from >> shape.blocksize_log2), values);
    } else {
        F32Elements::load_group(params.appended, piece.row * params.appended_columns + piece.column, values);
    }
    const int64_t first_column = piece.own ? 0 : params.columns;
    const int64_t to = piece.row * (params.columns + params.appended_columns) + first_column + piece.column;
    store_group<Elements>(params.out, to, values, together);
}

template <class Elements>
__device__ void write_values(const DequantizeRowsParams& params, const PiecesShape& shape,
                             const PiecePlace& piece, const float (&table)[kNf4Codes]) {
    const Nf4View& weight = params.weight;
    const int64_t row_begin = piece.row * (params.columns + params.appended_columns);
    if (piece.own) {
        const int64_t from = (params.first + piece.row) * params.columns + piece.column;
        for (int i = 0; i < kGroup && piece.column + i < params.columns; ++i) {
            const float absmax = load_absmax(weight.absmax, (from + i) >> shape.blocksize_log2);
            Elements::store(params.out, row_begin + piece.column + i,
                            table[code_at(weight.packed, from + i)] * absmax);
        }
    } else {
        const int64_t from = piece.row * params.appended_columns + piece.column;
        for (int i = 0; i < kGroup && piece.column + i < params.appended_columns; ++i) {
            Elements::store(params.out, row_begin + params.columns + piece.column + i,
                            params.appended[from + i]);
        }
    }
}

template <class Elements>
__global__ void __launch_bounds__(kThreads)
    dequantize_pieces(DequantizeRowsParams params, PiecesShape shape) {
    __shared__ float table[kNf4Codes];
    fill_nf4_table(table);
    __syncthreads();

    const uint32_t number = blockIdx.x * kThreads + threadIdx.x;
    const uint32_t place = number % shape.per_row;
    const bool own = place < shape.own;
    const PiecePlace piece{number / shape.per_row, int64_t{own ? place : place - shape.own} * kGroup, own};
    const bool whole =
        number < shape.count && shape.vectors && (own || piece.column + kGroup <= params.appended_columns);
    // Where every lane's piece is whole, each lies right behind the one before it, over ends of rows too.
    const bool together = __all_sync(kAllLanes, whole) != 0;
    if (whole) {
        write_whole<Elements>(params, shape, piece, table, together);
    } else if (number < shape.count) {
        write_values<Elements>(params, shape, piece, table);
    }
}

int64_t pieces_of(int64_t columns) {
    return columns / kGroup + (columns % kGroup != 0 ? 1 : 0);
}

void check(const DequantizeRowsParams& params) {
    const Nf4View& weight = params.weight;
    if (!is_valid_blocksize(weight.blocksize)) throw std::invalid_argument("dequantize_rows_nf4: blocksize");
    if (params.columns < 1 || weight.n % params.columns != 0) {
        throw std::invalid_argument("dequantize_rows_nf4: the weight is not of whole rows");
    }
    const int64_t rows = weight.n / params.columns;
    if (params.first < 0 || params.count < 0 || params.count > rows - params.first) {
        throw std::invalid_argument("dequantize_rows_nf4: rows outside the matrix");
    }
    if (params.appended_columns < 0 || (params.appended_columns > 0 && params.appended == nullptr)) {
        throw std::invalid_argument("dequantize_rows_nf4: appended columns");
    }
    if (!is_aligned(params.out, static_cast<std::size_t>(float_bytes(params.type))) ||
        !is_aligned(params.appended, sizeof(float))) {
        throw std::invalid_argument("dequantize_rows_nf4: floats that are not aligned to their element");
    }
}

}  // namespace

void dequantize_rows_nf4(const DequantizeRowsParams& params, Stream stream) {
    check(params);
    if (params.count == 0) return;
    const int64_t own = pieces_of(params.columns);
    const int64_t per_row = own + pieces_of(params.appended_columns);
    uint32_t pieces = 0;
    if (__builtin_mul_overflow(params.count, per_row, &pieces)) {
        throw std::invalid_argument("dequantize_rows_nf4: more than 2^32 pieces of 16 columns");
    }
    const int64_t row_bytes = (params.columns + params.appended_columns) * float_bytes(params.type);
    const bool vectors = params.columns % kGroup == 0 && row_bytes % 16 == 0 && is_aligned(params.out, 16) &&
                         is_aligned(params.weight.packed, 8) && is_aligned(params.appended, 16);
    const PiecesShape shape{static_cast<uint32_t>(own), static_cast<uint32_t>(per_row), pieces,
                            __builtin_ctz(static_cast<unsigned>(params.weight.blocksize)), vectors};
    const LaunchConfig config{dim3(grid_size(shape.count, kThreads)), dim3(kThreads)};
    with_elements(params.type, [&](auto elements) {
        launch<dequantize_pieces<decltype(elements)>>(config, stream, params, shape);
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
