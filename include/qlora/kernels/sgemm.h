#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace qlora::kernels::cpu {

/// An fp32 matrix in memory: element (i, j) lies at data[i * row_stride + j * column_stride]. One of the
/// strides is 1.
struct SgemmMatrix {
    const float* data;
    int64_t row_stride, column_stride;
};

/// The left factor a [m, k] of one or more products.
struct SgemmLeft {
    int64_t m, k;
    SgemmMatrix a;
};

/// out [m, n] = start + alpha * a b [k, n]. Rows of `out` and `start` lie their stride apart.
struct SgemmRight {
    int64_t n;
    SgemmMatrix b;
    float* out;
    int64_t out_stride;
    const float* start = nullptr;  ///< null: zeros; `out` itself: the product is added to it
    int64_t start_stride = 0;
    float alpha = 1.0F;
};

/// Who takes part in a product.
struct SgemmTeam {
    int64_t threads;
    /// Calls the function it is given on the threads, at least on one, and returns when all are done.
    std::function<void(const std::function<void()>&)> run;
};

/// Whether this machine has a fast path for sgemm.
bool has_sgemm();

/// Products of one left factor with each right one. Every element is summed in one order that depends on k
/// alone: neither the threads, nor the instruction set, nor m, n and the layouts change a bit. Throws
/// std::invalid_argument for sizes or strides that fit no matrix, std::logic_error without has_sgemm().
void sgemm(const SgemmLeft& left, std::span<const SgemmRight> rights, const SgemmTeam& team);

/// On the calling thread alone.
void sgemm(const SgemmLeft& left, const SgemmRight& right);

/// Memory for packed factors.
struct SgemmFree {
    void operator()(float* data) const;
};
using SgemmBuffer = std::unique_ptr<float, SgemmFree>;

/// The first column of a part of a packed factor is a multiple of this.
inline constexpr int64_t kSgemmColumnStep = 48;

/// Rows and columns of a packed right factor that a product takes.
struct SgemmPart {
    int64_t first_row, rows, first_column, columns;
};

/// A right factor that is packed once for many products.
class SgemmPacked {
  public:
    /// Packs b [k, n]. Throws as sgemm.
    SgemmPacked(int64_t k, int64_t n, const SgemmMatrix& b);
    /// out = a times `part` of b, or out + that where `adds`, on the calling thread: the bits of sgemm with
    /// the part alone. Throws std::invalid_argument for a part that is not in b, or not as deep as the left
    /// factor.
    void multiply(const SgemmLeft& left, const SgemmPart& part, bool adds, float* out,
                  int64_t out_stride) const;

  private:
    const struct SgemmPath* path_;
    int64_t k_, n_;
    SgemmBuffer packed_;
};

}  // namespace qlora::kernels::cpu
