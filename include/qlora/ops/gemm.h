#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>

#include "qlora/kernels/sgemm.h"

namespace qlora::ops {

/// `x` in fp32, itself when it is.
at::Tensor fp32(const at::Tensor& x);

inline bool is_fp32(const at::Tensor& x) {
    return x.scalar_type() == at::kFloat;
}

/// Memory for an fp32 left factor [rows, columns] of large products. Where rows a power of two apart would
/// take each other's places in a processor's cache, they lie a line further apart: then it is not contiguous.
at::Tensor empty_left_factor(std::int64_t rows, std::int64_t columns);

/// a [m, k] times b [k, n], of one dtype, with fp32 sums and an fp32 result: gradients of fp32 parameters.
at::Tensor mm_to_fp32(const at::Tensor& a, const at::Tensor& b);

/// out [m, n] = start + alpha * a b for the left factor a [m, k] that comes with it.
struct RightFactor {
    at::Tensor b;      ///< [k, n]
    at::Tensor out;    ///< rows of adjacent values
    at::Tensor start;  ///< like out, or out itself; undefined: zeros
    double alpha = 1.0;
};

/// Products of one left factor, which is read once for all: fp32 on the CPU. Where kernels::cpu::sgemm runs,
/// bits depend neither on the number of threads nor on the processor.
void products(const at::Tensor& a, std::span<const RightFactor> rights);
void product(const at::Tensor& a, const RightFactor& right);
/// alpha * a b
at::Tensor product(const at::Tensor& a, const at::Tensor& b, double alpha = 1.0);

/// Whether a model that computes in `dtype` on this CPU has sums of LibTorch's products in it (below, or
/// without an own sgemm), whose order depends on the number of threads.
bool sums_depend_on_threads(at::ScalarType dtype);

/// Until the end of its scope, and where `on`, this thread's products are LibTorch's own. A run in bf16
/// rounds every result, and a sum in another order rounds some to the other neighbour: in a model with a few
/// very large activations that moves the loss by 1e-2. With the same sums as transformers it stays below
/// 1e-3.
class LibTorchSums {
  public:
    explicit LibTorchSums(bool on);
    ~LibTorchSums();
    LibTorchSums(const LibTorchSums&) = delete;
    LibTorchSums& operator=(const LibTorchSums&) = delete;

  private:
    bool before_;
};

/// Makes the buffers in which MKL packs operands; it keeps them. Where memory is short it would silently take
/// a path without them, whose sums have another order: so this comes before anything large is held.
void reserve_product_buffers();

/// A row-major fp32 matrix in memory: rows `stride` floats apart.
struct MatrixView {
    const float* data;
    std::int64_t stride;
    bool transposed = false;  ///< the product takes its transpose
};

/// c [m, n] (rows `c_stride` apart) = a b, or c + a b, for small blocks inside at::parallel_for: no tensor,
/// one thread.
void block_product(std::int64_t m, std::int64_t n, std::int64_t k, MatrixView a, MatrixView b, bool adds,
                   float* c, std::int64_t c_stride);

/// A right factor [k, n] of several block products of one thread, packed once where that pays.
class BlockFactor {
  public:
    /// `m`: rows that its largest product has.
    BlockFactor(std::int64_t m, std::int64_t n, std::int64_t k, MatrixView b);
    /// block_product with the part's rows and columns; the first column is a multiple of kColumnStep.
    void multiply(std::int64_t m, MatrixView a, const kernels::cpu::SgemmPart& part, bool adds, float* c,
                  std::int64_t c_stride) const;

    static constexpr std::int64_t kColumnStep = kernels::cpu::kSgemmColumnStep;

  private:
    MatrixView b_;
    std::optional<kernels::cpu::SgemmPacked> packed_;
};

}  // namespace qlora::ops
