#pragma once

#include "qlora/kernels/elementwise.h"

namespace qlora::kernels::cpu {

/// One compilation of the operations in elementwise.h; each has the contract of its namesake there, with
/// arguments already checked.
struct ElementwisePath {
    decltype(&cpu::rms_norm) rms_norm;
    decltype(&cpu::rms_norm_recompute) rms_norm_recompute;
    decltype(&cpu::rms_norm_backward) rms_norm_backward;
    decltype(&cpu::layer_norm) layer_norm;
    decltype(&cpu::layer_norm_recompute) layer_norm_recompute;
    decltype(&cpu::layer_norm_backward) layer_norm_backward;
    decltype(&cpu::rope) rope;
    decltype(&cpu::activate) activate;
    decltype(&cpu::activate_backward) activate_backward;
    decltype(&cpu::curve_logits) curve_logits;
    decltype(&cpu::curve_gradients) curve_gradients;
    decltype(&cpu::dot_rows) dot_rows;
    decltype(&cpu::weigh_rows) weigh_rows;
    decltype(&cpu::scale_columns) scale_columns;
    decltype(&cpu::scale_columns_backward) scale_columns_backward;
    decltype(&cpu::widen) widen;
    decltype(&cpu::softmax_cross_entropy) softmax_cross_entropy;
    decltype(&cpu::score_rows) score_rows;
    decltype(&cpu::attention_softmax) attention_softmax;
    decltype(&cpu::attention_softmax_backward) attention_softmax_backward;
};

namespace portable {
extern const ElementwisePath kElementwise;
}
namespace avx2 {
extern const ElementwisePath kElementwise;
}

}  // namespace qlora::kernels::cpu
