#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace qlora::ops {

/// `x` in fp32, itself when it is.
at::Tensor fp32(const at::Tensor& x);

/// a [m, k] times b [k, n], of one dtype, with fp32 sums and an fp32 result: gradients of fp32 parameters.
at::Tensor mm_to_fp32(const at::Tensor& a, const at::Tensor& b);

/// Makes the buffers in which MKL packs operands; it keeps them. Where memory is short it would silently take
/// a path without them, whose sums have another order: so this comes before anything large is held.
void reserve_product_buffers();

/// A row-major fp32 matrix in memory: rows `stride` floats apart.
struct MatrixView {
    const float* data;
    std::int64_t stride;
    bool transposed = false;  ///< the product takes its transpose
};

/// c [m, n] (rows `c_stride` apart) = alpha * a b + beta * c for small blocks: no tensor, no allocation, and
/// one thread when it is called inside at::parallel_for.
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, MatrixView a, MatrixView b, float beta,
          float* c, std::int64_t c_stride);

}  // namespace qlora::ops
