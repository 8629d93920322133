#pragma once

#include "activation_impl.h"
#include "column_impl.h"
#include "dot_impl.h"
#include "elementwise_path.h"
#include "layer_norm_impl.h"
#include "logit_impl.h"
#include "norm_rope_impl.h"
#include "softmax_impl.h"
#include "widen_impl.h"

namespace qlora::kernels::cpu::QLORA_PATH {

const ElementwisePath kElementwise = {
    rms_norm,
    rms_norm_recompute,
    rms_norm_backward,
    layer_norm,
    layer_norm_recompute,
    layer_norm_backward,
    rope,
    activate,
    activate_backward,
    curve_logits,
    curve_gradients,
    dot_rows,
    weigh_rows,
    scale_columns,
    scale_columns_backward,
    widen,
    softmax_cross_entropy,
    score_rows,
    attention_softmax,
    attention_softmax_backward,
};

}  // namespace qlora::kernels::cpu::QLORA_PATH
