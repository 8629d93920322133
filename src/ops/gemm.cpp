#include "qlora/ops/gemm.h"

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

at::Tensor mm_to_fp32(const at::Tensor& a, const at::Tensor& b) {
    if (a.is_cuda() && a.scalar_type() != at::kFloat) return at::mm(a, b, at::kFloat);
    return at::mm(fp32(a), fp32(b));
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, MatrixView a, MatrixView b, float beta,
          float* c, std::int64_t c_stride) {
#ifdef QLORA_HAS_SGEMM
    const auto as_int = [](std::int64_t value) { return static_cast<int>(value); };
    const int rows = as_int(n), columns = as_int(m), depth = as_int(k);
    const int lda = as_int(b.stride), ldb = as_int(a.stride), ldc = as_int(c_stride);
    sgemm_(b.transposed ? "T" : "N", a.transposed ? "T" : "N", &rows, &columns, &depth, &alpha, b.data, &lda,
           a.data, &ldb, &beta, c, &ldc);
#else
    const auto matrix = [](const float* data, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
        return at::from_blob(const_cast<float*>(data), {rows, columns}, {stride, 1}, at::kFloat);
    };
    const at::Tensor left =
        a.transposed ? matrix(a.data, k, m, a.stride).t() : matrix(a.data, m, k, a.stride);
    const at::Tensor right =
        b.transposed ? matrix(b.data, n, k, b.stride).t() : matrix(b.data, k, n, b.stride);
    at::Tensor out = matrix(c, m, n, c_stride);
    // addmm ignores what is in `out` when beta is 0, as BLAS does.
    at::addmm_out(out, out, left, right, beta, alpha);
#endif
}

void reserve_product_buffers() {
    // Larger than any block that is packed at once.
    const at::Tensor a = at::zeros({512, 1024}, at::kFloat), b = at::zeros({1024, 4096}, at::kFloat);
    at::mm(a, b);
}

}  // namespace qlora::ops
