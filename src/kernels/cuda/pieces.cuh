#pragma once

#include <type_traits>

#include "elements.cuh"

/// Rows of tensors in pieces of eight values: what one thread moves by one 16-byte access, or two for fp32.
namespace qlora::kernels::QLORA_KERNEL_BACKEND {

inline constexpr int kPiece = 8;
/// Threads of a CUDA block where each takes one piece.
inline constexpr int kPieceThreads = 256;

inline void require(bool holds, const char* fault) {
    if (!holds) throw std::invalid_argument(fault);
}

/// Whether whole pieces of all rows are aligned: rows of `size` values, `stride` apart.
inline bool has_whole_pieces(const void* rows, int64_t size, int64_t stride, FloatType type) {
    return size % kPiece == 0 && stride * float_bytes(type) % 16 == 0 && is_aligned(rows, 16);
}

inline int64_t pieces_of(int64_t size) {
    return size / kPiece + (size % kPiece != 0 ? 1 : 0);
}

/// `rows` times `per_row` pieces, counted in 32 bits, in which a GPU divides fast.
inline unsigned piece_count(int64_t rows, int64_t per_row) {
    if (per_row > 0 && rows > 0x7fffffff / per_row) {
        throw std::invalid_argument("a tensor too large for one launch");
    }
    return static_cast<unsigned>(rows * per_row);
}

/// Calls action(Elements{}, std::bool_constant<vectors>{}).
template <class Action>
void with_pieces(FloatType type, bool vectors, const Action& action) {
    with_elements(type, [&](auto elements) {
        if (vectors) {
            action(elements, std::true_type{});
        } else {
            action(elements, std::false_type{});
        }
    });
}

/// Eight values as they lie in memory.
template <class Elements>
struct Piece {
    uint32_t words[kPiece / Elements::kPerWord];
};

/// Values `index` .. + 7 of which the row still has `left`; zeros beyond. With kVectors `left` is a multiple
/// of 8 and the address is aligned to 16 bytes.
template <class Elements, bool kVectors>
__device__ Piece<Elements> load_piece(const void* base, int64_t index, int64_t left) {
    constexpr int kWords = kPiece / Elements::kPerWord;
    Piece<Elements> piece = {};
    if constexpr (kVectors) {
        if (left > 0) {
            const uint32_t* from = static_cast<const uint32_t*>(base) + index / Elements::kPerWord;
#pragma unroll
            for (int i = 0; i < kWords; i += 4) {
                const uint4 four = load_vector<uint4>(from + i);
                piece.words[i] = four.x;
                piece.words[i + 1] = four.y;
                piece.words[i + 2] = four.z;
                piece.words[i + 3] = four.w;
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            if (i >= left) continue;
            const uint32_t bits = Elements::pack(Elements::load(base, index + i));
            piece.words[i / Elements::kPerWord] |= bits << (i % Elements::kPerWord * 16);
        }
    }
    return piece;
}

template <class Elements>
__device__ void unpack_piece(const Piece<Elements>& piece, float (&values)[kPiece]) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
        values[i] = Elements::unpack(piece.words[i / Elements::kPerWord], i % Elements::kPerWord);
    }
}

/// Each value rounded.
template <class Elements>
__device__ Piece<Elements> pack_piece(const float (&values)[kPiece]) {
    Piece<Elements> piece = {};
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
        piece.words[i / Elements::kPerWord] |= Elements::pack(values[i]) << (i % Elements::kPerWord * 16);
    }
    return piece;
}

template <class Elements, bool kVectors>
__device__ void load_values(const void* base, int64_t index, int64_t left, float (&values)[kPiece]) {
    unpack_piece(load_piece<Elements, kVectors>(base, index, left), values);
}

/// Stores the first `left` values, all of them with kVectors.
template <class Elements, bool kVectors>
__device__ void store_piece(void* base, int64_t index, int64_t left, const Piece<Elements>& piece) {
    constexpr int kWords = kPiece / Elements::kPerWord;
    if constexpr (kVectors) {
        uint32_t* to = static_cast<uint32_t*>(base) + index / Elements::kPerWord;
#pragma unroll
        for (int i = 0; i < kWords; i += 4) {
            store_vector(to + i, make_uint4(piece.words[i], piece.words[i + 1], piece.words[i + 2],
                                            piece.words[i + 3]));
        }
    } else {
        float values[kPiece];
        unpack_piece(piece, values);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            if (i < left) Elements::store(base, index + i, values[i]);
        }
    }
}

template <class Elements, bool kVectors>
__device__ void store_values(void* base, int64_t index, int64_t left, const float (&values)[kPiece]) {
    store_piece<Elements, kVectors>(base, index, left, pack_piece<Elements>(values));
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
