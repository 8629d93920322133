#pragma once

#include <cstdint>

#include "qlora/kernels/sgemm.h"

namespace qlora::kernels::cpu {

/// Terms of a sum that are added before it goes to memory: rows of a tile stay in the first cache. The bits
/// of every product depend on it.
inline constexpr int64_t kSgemmDepth = 640;

/// Registers in a row of the widest tile.
inline constexpr int64_t kSgemmWidest = 3;

/// Lanes of the narrowest path.
inline constexpr int64_t kSgemmLeastLanes = 8;

/// `count` columns of b; column v at depth d lies at data[v * stride + d * depth_stride].
struct SgemmColumns {
    const float* data;
    int64_t stride, depth_stride;
    int64_t count;
};

/// Tiles one under the other: out = start + alpha * rows of a * packed columns of b.
struct SgemmTiles {
    int64_t depth;
    const float* a;  ///< row r at depth d lies at a[r * row_stride + d * depth_stride]; one of them is 1
    int64_t row_stride, depth_stride;
    const float* b;
    float* out;
    int64_t out_stride;
    const float* start;  ///< null: zeros
    int64_t start_stride;
    float alpha;
    int64_t rows, columns;  ///< in the matrix; the last tile may reach below, and all of them to its right
};

/// One compilation of the inner loops.
struct SgemmPath {
    int64_t rows;   ///< of a tile
    int64_t lanes;  ///< columns of a tile are one to kSgemmWidest times as many
    /// Copies columns to out[d * width + v], missing ones as zeros; the width is that of a tile.
    void (*pack[kSgemmWidest])(const SgemmColumns& columns, int64_t depth, float* out);
    void (*tiles[kSgemmWidest])(const SgemmTiles& tiles);
};

namespace avx2 {
extern const SgemmPath kSgemm;
}
namespace avx512 {
extern const SgemmPath kSgemm;
}

}  // namespace qlora::kernels::cpu
