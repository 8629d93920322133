#include "qlora/ops/gemm.h"

#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <functional>
#include <stdexcept>
#include <vector>

#ifdef QLORA_HAS_SGEMM
// BLAS's Fortran entry point, which LibTorch's own products end in. Column-major: a row-major product is the
// transposed one of swapped factors.
extern "C" void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
                       const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
                       const float* beta, float* c, const int* ldc);
#endif

namespace qlora::ops {

at::Tensor fp32(const at::Tensor& x) {
    return x.scalar_type() == at::kFloat ? x : x.to(at::kFloat);
}

at::Tensor empty_left_factor(std::int64_t rows, std::int64_t columns) {
    constexpr std::int64_t kSameSets = 512, kLine = 16;  // floats
    const std::int64_t stride = columns > 0 && columns % kSameSets == 0 ? columns + kLine : columns;
    return at::empty({rows, stride}, at::kFloat).narrow(1, 0, columns);
}

at::Tensor mm_to_fp32(const at::Tensor& a, const at::Tensor& b) {
    if (a.is_cuda() && a.scalar_type() != at::kFloat) return at::mm(a, b, at::kFloat);
    return at::mm(fp32(a), fp32(b));
}

namespace {

/// Fewer rows are not worth packing the right factor for.
constexpr std::int64_t kLeastRows = 4;
/// A product of fewer operations runs on one thread: it is done before the others have woken.
constexpr double kOneThread = 4e6;

thread_local bool as_libtorch = false;

kernels::cpu::SgemmMatrix matrix_of(const at::Tensor& t) {
    return {t.const_data_ptr<float>(), t.stride(0), t.stride(1)};
}

/// `t` if sgemm can read it in place, else a copy.
at::Tensor readable(const at::Tensor& t) {
    const bool row_major = t.stride(1) == 1 && t.stride(0) >= t.size(1);
    const bool column_major = t.stride(0) == 1 && t.stride(1) >= t.size(0);
    return row_major || column_major ? t : t.contiguous();
}

void check(const at::Tensor& a, const RightFactor& right) {
    const at::Tensor &b = right.b, &out = right.out;
    const bool fits = a.dim() == 2 && b.dim() == 2 && out.dim() == 2 && a.size(1) == b.size(0) &&
                      out.size(0) == a.size(0) && out.size(1) == b.size(1) &&
                      (!right.start.defined() || right.start.sizes() == out.sizes());
    if (!fits) throw std::invalid_argument("product: factors, result and start do not fit");
    for (const at::Tensor* t : {&out, &right.start}) {
        const bool adjacent = !t->defined() || t->size(1) <= 1 || t->stride(1) == 1;
        if (!adjacent) throw std::invalid_argument("product: rows of the result are not adjacent values");
    }
}

kernels::cpu::SgemmTeam team_of(double operations) {
    const std::int64_t threads =
        operations <= kOneThread || at::in_parallel_region() ? 1 : at::get_num_threads();
    return {threads, [threads](const std::function<void()>& work) {
                at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) { work(); });
            }};
}

void blas_product(const at::Tensor& a, const RightFactor& right) {
    at::Tensor out = right.out;
    if (right.start.defined()) {
        at::addmm_out(out, right.start, a, right.b, 1.0, right.alpha);
    } else if (right.alpha == 1.0) {
        at::mm_out(out, a, right.b);
    } else {
        // What is in `out` is not read when beta is 0.
        at::addmm_out(out, out, a, right.b, 0.0, right.alpha);
    }
}

}  // namespace

bool sums_depend_on_threads(at::ScalarType dtype) {
    return dtype != at::kFloat || !kernels::cpu::has_sgemm();
}

LibTorchSums::LibTorchSums(bool on) : before_(as_libtorch) {
    as_libtorch = as_libtorch || on;
}

LibTorchSums::~LibTorchSums() {
    as_libtorch = before_;
}

void products(const at::Tensor& a, std::span<const RightFactor> rights) {
    for (const RightFactor& right : rights) check(a, right);
    if (as_libtorch || a.size(0) < kLeastRows || !kernels::cpu::has_sgemm()) {
        for (const RightFactor& right : rights) blas_product(a, right);
        return;
    }
    const at::Tensor left = readable(a);
    std::vector<at::Tensor> kept;  // copies of right factors
    std::vector<kernels::cpu::SgemmRight> factors;
    std::int64_t columns = 0;
    for (const RightFactor& right : rights) {
        kept.push_back(readable(right.b));
        const bool adds = right.start.defined();
        factors.push_back({.n = right.b.size(1),
                           .b = matrix_of(kept.back()),
                           .out = right.out.mutable_data_ptr<float>(),
                           .out_stride = right.out.stride(0),
                           .start = adds ? right.start.const_data_ptr<float>() : nullptr,
                           .start_stride = adds ? right.start.stride(0) : 0,
                           .alpha = static_cast<float>(right.alpha)});
        columns += factors.back().n;
    }
    const double operations =
        2.0 * static_cast<double>(a.size(0)) * static_cast<double>(a.size(1)) * static_cast<double>(columns);
    kernels::cpu::sgemm({left.size(0), left.size(1), matrix_of(left)}, factors, team_of(operations));
}

void product(const at::Tensor& a, const RightFactor& right) {
    products(a, {&right, 1});
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b, double alpha) {
    at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
    product(a, RightFactor{.b = b, .out = out, .alpha = alpha});
    return out;
}

namespace {

kernels::cpu::SgemmMatrix matrix_of(const MatrixView& view) {
    if (view.transposed) return {view.data, 1, view.stride};
    return {view.data, view.stride, 1};
}

}  // namespace

void block_product(std::int64_t m, std::int64_t n, std::int64_t k, MatrixView a, MatrixView b, bool adds,
                   float* c, std::int64_t c_stride) {
    if (m >= kLeastRows && kernels::cpu::has_sgemm()) {
        kernels::cpu::sgemm({m, k, matrix_of(a)}, {.n = n,
                                                   .b = matrix_of(b),
                                                   .out = c,
                                                   .out_stride = c_stride,
                                                   .start = adds ? c : nullptr,
                                                   .start_stride = c_stride});
        return;
    }
#ifdef QLORA_HAS_SGEMM
    const auto as_int = [](std::int64_t value) { return static_cast<int>(value); };
    const float alpha = 1.0F, beta = adds ? 1.0F : 0.0F;
    const int rows = as_int(n), columns = as_int(m), depth = as_int(k);
    const int lda = as_int(b.stride), ldb = as_int(a.stride), ldc = as_int(c_stride);
    sgemm_(b.transposed ? "T" : "N", a.transposed ? "T" : "N", &rows, &columns, &depth, &alpha, b.data, &lda,
           a.data, &ldb, &beta, c, &ldc);
#else
    const auto tensor = [](const float* data, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
        return at::from_blob(const_cast<float*>(data), {rows, columns}, {stride, 1}, at::kFloat);
    };
    const at::Tensor left =
        a.transposed ? tensor(a.data, k, m, a.stride).t() : tensor(a.data, m, k, a.stride);
    const at::Tensor right =
        b.transposed ? tensor(b.data, n, k, b.stride).t() : tensor(b.data, k, n, b.stride);
    at::Tensor out = tensor(c, m, n, c_stride);
    at::addmm_out(out, out, left, right, adds ? 1.0 : 0.0, 1.0);
#endif
}

BlockFactor::BlockFactor(std::int64_t m, std::int64_t n, std::int64_t k, MatrixView b) : b_(b) {
    if (m >= kLeastRows && kernels::cpu::has_sgemm()) packed_.emplace(k, n, matrix_of(b));
}

void BlockFactor::multiply(std::int64_t m, MatrixView a, const kernels::cpu::SgemmPart& part, bool adds,
                           float* c, std::int64_t c_stride) const {
    if (packed_) return packed_->multiply({m, part.rows, matrix_of(a)}, part, adds, c, c_stride);
    MatrixView b = b_;
    b.data += b.transposed ? part.first_column * b.stride + part.first_row
                           : part.first_row * b.stride + part.first_column;
    block_product(m, part.columns, part.rows, a, b, adds, c, c_stride);
}

void reserve_product_buffers() {
    // A product larger than any block that MKL packs at once, so that its buffers get their full size.
    const at::Tensor a = at::zeros({512, 1024}, at::kFloat), b = at::zeros({1024, 4096}, at::kFloat);
    at::mm(a, b);
}

}  // namespace qlora::ops
