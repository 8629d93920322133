#pragma once

// The inner loops of sgemm. The file that includes this one defines QLORA_PATH (a namespace of its own),
// QLORA_REGISTER_BYTES, QLORA_TILE_ROWS, Register, all(value) and fused(a, b, c) = a * b + c, rounded once.
#include "sgemm_path.h"

#define QLORA_SGEMM_INLINE [[gnu::always_inline]] static inline

namespace qlora::kernels::cpu::QLORA_PATH {

constexpr int64_t kLanes = QLORA_REGISTER_BYTES / 4;
constexpr int64_t kTileRows = QLORA_TILE_ROWS;
constexpr int64_t kLine = 16;  // floats of a line of the cache
/// Steps along k in one turn of the unrolled inner loop: twice as many are slower (docs/performance.md).
constexpr int kUnroll = 32 / QLORA_TILE_ROWS;
static_assert(kLanes >= kSgemmLeastLanes);
static_assert(kSgemmColumnStep % (kSgemmWidest * kLanes) == 0);

QLORA_SGEMM_INLINE Register load(const float* from) {
    Register value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}
QLORA_SGEMM_INLINE void store(float* to, Register value) {
    __builtin_memcpy(to, &value, sizeof value);
}

/// sums += rows of a * b. Rows lie kRowStride apart and depths kDepthStride, where these are not 0.
template <int64_t kVectors, int64_t kRowStride, int64_t kDepthStride>
QLORA_SGEMM_INLINE void multiply(const SgemmTiles& t, Register (&sums)[kTileRows][kVectors]) {
    const int64_t row_stride = kRowStride != 0 ? kRowStride : t.row_stride;
    const int64_t depth_stride = kDepthStride != 0 ? kDepthStride : t.depth_stride;
    const float *a = t.a, *b = t.b;
    const auto step = [&]() __attribute__((always_inline)) {
        Register right[kVectors];
#pragma GCC unroll 3
        for (int64_t v = 0; v < kVectors; ++v) right[v] = load(b + v * kLanes);
#pragma GCC unroll 16
        for (int64_t row = 0; row < kTileRows; ++row) {
            const Register left = all(a[row * row_stride]);
#pragma GCC unroll 3
            for (int64_t v = 0; v < kVectors; ++v) sums[row][v] = fused(left, right[v], sums[row][v]);
        }
        a += depth_stride;
        b += kVectors * kLanes;
    };
    int64_t d = 0;
    for (; d + kLine <= t.depth; d += kLine) {
        if (kDepthStride == 1) {
            // Rows of the tile below, which is computed next.
            for (int64_t row = kTileRows; row < 2 * kTileRows; ++row) {
                __builtin_prefetch(a + row * row_stride);
            }
        }
#pragma GCC unroll kUnroll
        for (int64_t i = 0; i < kLine; ++i) step();
    }
    for (; d < t.depth; ++d) step();
}

/// The rows of a that lie in the matrix, and zeros after them.
QLORA_SGEMM_INLINE void copy_rows(const SgemmTiles& t, float* to) {
    for (int64_t d = 0; d < t.depth; ++d) {
        for (int64_t row = 0; row < kTileRows; ++row) {
            to[d * kTileRows + row] = row < t.rows ? t.a[row * t.row_stride + d * t.depth_stride] : 0.0F;
        }
    }
}

/// out = start + alpha * sums for a whole tile.
template <int64_t kVectors, bool kStarts>
QLORA_SGEMM_INLINE void store_whole(const SgemmTiles& t, const Register (&sums)[kTileRows][kVectors]) {
    const Register alpha = all(t.alpha);
    float* out = t.out;
    const float* start = t.start;
#pragma GCC unroll 16
    for (int64_t row = 0; row < kTileRows; ++row) {
#pragma GCC unroll 3
        for (int64_t v = 0; v < kVectors; ++v) {
            Register value = sums[row][v] * alpha;
            if constexpr (kStarts) value += load(start + v * kLanes);
            store(out + v * kLanes, value);
        }
        out += t.out_stride;
        if constexpr (kStarts) start += t.start_stride;
    }
}

/// The same for what lies in the matrix.
template <int64_t kVectors>
QLORA_SGEMM_INLINE void store_part(const SgemmTiles& t, const Register (&sums)[kTileRows][kVectors]) {
    constexpr int64_t kColumns = kVectors * kLanes;
    const Register alpha = all(t.alpha);
    float whole[kTileRows * kColumns];
#pragma GCC unroll 16
    for (int64_t row = 0; row < kTileRows; ++row) {
#pragma GCC unroll 3
        for (int64_t v = 0; v < kVectors; ++v) {
            store(whole + row * kColumns + v * kLanes, sums[row][v] * alpha);
        }
    }
    for (int64_t row = 0; row < t.rows; ++row) {
        for (int64_t column = 0; column < t.columns; ++column) {
            const float value = whole[row * kColumns + column];
            t.out[row * t.out_stride + column] =
                t.start != nullptr ? value + t.start[row * t.start_stride + column] : value;
        }
    }
}

/// A tile of kTileRows x (kVectors registers). Each of its sums goes over the depth in order.
template <int64_t kVectors>
QLORA_SGEMM_INLINE void tile(const SgemmTiles& t) {
    Register sums[kTileRows][kVectors];
#pragma GCC unroll 16
    for (int64_t row = 0; row < kTileRows; ++row) {
#pragma GCC unroll 3
        for (int64_t v = 0; v < kVectors; ++v) sums[row][v] = Register{};
        __builtin_prefetch(t.out + row * t.out_stride, 1);
        __builtin_prefetch(t.out + row * t.out_stride + t.columns - 1, 1);
    }
    if (t.depth_stride == 1) {
        multiply<kVectors, 0, 1>(t, sums);
    } else {
        multiply<kVectors, 1, 0>(t, sums);
    }
    if (t.columns < kVectors * kLanes) return store_part(t, sums);
    if (t.start == nullptr) return store_whole<kVectors, false>(t, sums);
    store_whole<kVectors, true>(t, sums);
}

/// The same for a tile that reaches below the matrix.
template <int64_t kVectors>
static void last_tile(SgemmTiles t) {
    float rows[kSgemmDepth * kTileRows];
    copy_rows(t, rows);
    t.a = rows;
    t.depth_stride = kTileRows;
    Register sums[kTileRows][kVectors] = {};
    multiply<kVectors, 1, 0>(t, sums);
    store_part(t, sums);
}

template <int64_t kVectors>
static void tiles(const SgemmTiles& given) {
    SgemmTiles t = given;  // what is stored through a pointer cannot change it
    t.rows = kTileRows;
    for (int64_t row = 0; row + kTileRows <= given.rows; row += kTileRows) {
        tile<kVectors>(t);
        t.a += kTileRows * t.row_stride;
        t.out += kTileRows * t.out_stride;
        if (t.start != nullptr) t.start += kTileRows * t.start_stride;
    }
    t.rows = given.rows % kTileRows;
    if (t.rows > 0) last_tile<kVectors>(t);
}

/// to[d * width + v] = from[v * stride + d] for 8 x 8 values.
QLORA_SGEMM_INLINE void transpose_8x8(const float* from, int64_t stride, float* to, int64_t width) {
    __m256 rows[8], pairs[8];
    for (int i = 0; i < 8; ++i) rows[i] = _mm256_loadu_ps(from + i * stride);
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        rows[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        rows[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        rows[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        rows[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
        _mm256_storeu_ps(to + i * width, _mm256_permute2f128_ps(rows[i], rows[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * width, _mm256_permute2f128_ps(rows[i], rows[i + 4], 0x31));
    }
}

/// Floats that are asked for before they are packed.
constexpr int64_t kAhead = 4 * kLine;

/// Columns whose values lie side by side.
template <int64_t kWidth>
QLORA_SGEMM_INLINE void pack_transposed(const SgemmColumns& columns, int64_t depth, float* out) {
    const auto one_by_one = [&](int64_t first, int64_t begin, int64_t end) {
        for (int64_t v = first; v < columns.count; ++v) {
            const float* from = columns.data + v * columns.stride;
            for (int64_t d = begin; d < end; ++d) out[d * kWidth + v] = from[d];
        }
    };
    int64_t d = 0;
    for (; d + 8 <= depth; d += 8) {
        if (d % kLine == 0) {
            // These are more streams of memory than the processor prefetches by itself.
            for (int64_t v = 0; v < columns.count; ++v) {
                __builtin_prefetch(columns.data + v * columns.stride + d + kAhead);
            }
        }
        int64_t v = 0;
        for (; v + 8 <= columns.count; v += 8) {
            transpose_8x8(columns.data + v * columns.stride + d, columns.stride, out + d * kWidth + v,
                          kWidth);
        }
        one_by_one(v, d, d + 8);
    }
    one_by_one(0, d, depth);
    if (columns.count == kWidth) return;
    for (d = 0; d < depth; ++d) {
        for (int64_t v = columns.count; v < kWidth; ++v) out[d * kWidth + v] = 0.0F;
    }
}

/// Values of one depth that lie side by side.
template <int64_t kWidth>
QLORA_SGEMM_INLINE void pack_adjacent(const SgemmColumns& columns, int64_t depth, float* out) {
    if (columns.count == kWidth) {
        for (int64_t d = 0; d < depth; ++d) {
            for (int64_t v = 0; v < kWidth; v += kLine) {
                __builtin_prefetch(columns.data + (d + kLine) * columns.depth_stride + v);
            }
            __builtin_memcpy(out + d * kWidth, columns.data + d * columns.depth_stride,
                             kWidth * sizeof(float));
        }
        return;
    }
    for (int64_t d = 0; d < depth; ++d) {
        const float* from = columns.data + d * columns.depth_stride;
        for (int64_t v = 0; v < kWidth; ++v) out[d * kWidth + v] = v < columns.count ? from[v] : 0.0F;
    }
}

template <int64_t kWidth>
static void pack(const SgemmColumns& columns, int64_t depth, float* out) {
    if (columns.depth_stride == 1) return pack_transposed<kWidth>(columns, depth, out);
    pack_adjacent<kWidth>(columns, depth, out);
}

const SgemmPath kSgemm = {
    kTileRows,
    kLanes,
    {pack<kLanes>, pack<2 * kLanes>, pack<3 * kLanes>},
    {tiles<1>, tiles<2>, tiles<3>},
};

}  // namespace qlora::kernels::cpu::QLORA_PATH
