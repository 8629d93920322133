#include <stdexcept>
#include <vector>

#include "load_float.h"
#include "qlora/kernels/elementwise.h"
#include "qlora/kernels/kernels.h"

namespace qlora::kernels::cpu {

void matvec_nf4(const MatvecNf4& product, int64_t begin, int64_t end) {
    const int64_t inputs = product.inputs, outputs = product.outputs;
    if (inputs < 1 || outputs < 0 || product.rows < 0 || product.weight.n != inputs * outputs) {
        throw std::invalid_argument("matvec_nf4: the weight is not of [outputs, inputs]");
    }
    if (begin < 0 || end < begin || end > outputs) {
        throw std::invalid_argument("matvec_nf4: outputs outside the matrix");
    }
    // One output's weights at a time: they stay in the first cache between the two steps.
    std::vector<float> weights(static_cast<std::size_t>(inputs));
    std::vector<uint16_t> narrow(product.type == FloatType::kF32 ? 0 : weights.size());
    for (int64_t output = begin; output < end; ++output) {
        const int64_t first = output * inputs;
        if (product.type == FloatType::kF32) {
            dequantize_blockwise_nf4(product.weight, first, first + inputs, weights.data(), product.type);
        } else {
            dequantize_blockwise_nf4(product.weight, first, first + inputs, narrow.data(), product.type);
            for (std::size_t i = 0; i < narrow.size(); ++i) {
                weights[i] =
                    product.type == FloatType::kF16 ? f16_to_float(narrow[i]) : bf16_to_float(narrow[i]);
            }
        }
        dot_rows(product.x, weights.data(), product.rows, inputs, product.y + output, outputs);
    }
}

}  // namespace qlora::kernels::cpu
