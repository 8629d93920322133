#pragma once

#include <cstdint>
#include <functional>
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

}  // namespace qlora::kernels::cpu
