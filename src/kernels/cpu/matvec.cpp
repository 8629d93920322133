#include <algorithm>
#include <stdexcept>
#include <vector>

#include "qlora/kernels/elementwise.h"
#include "qlora/kernels/kernels.h"

namespace qlora::kernels::cpu {
namespace {

/// Weights that are widened at once: they stay in the first cache until their products are made.
constexpr int64_t kWidened = 4096;

void check_range(int64_t begin, int64_t end, int64_t outputs) {
    if (begin < 0 || end < begin || end > outputs) {
        throw std::invalid_argument("matvec: outputs outside the matrix");
    }
}

/// Calls widen(first value, values, out) and multiplies, some outputs at a time.
template <class Widen>
void multiply(const Matvec& product, int64_t begin, int64_t end, const Widen& widen) {
    const int64_t inputs = product.inputs;
    const int64_t at_once = std::clamp<int64_t>(kWidened / inputs, 1, std::max<int64_t>(1, end - begin));
    std::vector<float> weights(static_cast<std::size_t>(at_once * inputs));
    for (int64_t first = begin; first < end; first += at_once) {
        const int64_t count = std::min(at_once, end - first);
        widen(first * inputs, count * inputs, weights.data());
        for (int64_t i = 0; i < count; ++i) {
            dot_rows({.data = product.x, .count = product.rows, .size = inputs, .stride = inputs},
                     weights.data() + i * inputs, product.y + first + i, product.outputs);
        }
    }
}

}  // namespace

void matvec_nf4(const Nf4View& weight, const Matvec& product, int64_t begin, int64_t end) {
    const int64_t inputs = product.inputs, outputs = product.outputs;
    if (inputs < 1 || outputs < 0 || product.rows < 0 || weight.n != inputs * outputs) {
        throw std::invalid_argument("matvec_nf4: the weight is not of [outputs, inputs]");
    }
    check_range(begin, end, outputs);
    std::vector<uint16_t> narrow;
    multiply(product, begin, end, [&](int64_t first, int64_t count, float* out) {
        if (product.type == FloatType::kF32) {
            return dequantize_blockwise_nf4(weight, first, first + count, out, product.type);
        }
        narrow.resize(static_cast<std::size_t>(count));
        dequantize_blockwise_nf4(weight, first, first + count, narrow.data(), product.type);
        cpu::widen(narrow.data(), product.type, 0, count, out);
    });
}

void matvec_dense(const void* weight, const Matvec& product, int64_t begin, int64_t end) {
    if (product.inputs < 1 || product.outputs < 0 || product.rows < 0) {
        throw std::invalid_argument("matvec_dense: a negative size");
    }
    check_range(begin, end, product.outputs);
    multiply(product, begin, end, [&](int64_t first, int64_t count, float* out) {
        cpu::widen(weight, product.type, first, count, out);
    });
}

}  // namespace qlora::kernels::cpu
