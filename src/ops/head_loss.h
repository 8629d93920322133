#pragma once

#include "qlora/ops/cross_entropy.h"

namespace qlora::ops {

/// Head and cross-entropy of a forward pass; gradients are undefined unless wanted.
struct HeadLoss {
    at::Tensor loss;  ///< fp32 scalar: the sum over rows
    at::Tensor gradient_hidden;
    at::Tensor gradient_head;  ///< fp32
};
struct WantedGradients {
    bool hidden = false, head = false;
};

/// linear_cross_entropy.. where kernels of a device run: logits in hidden's dtype, a chunk of rows at a time.
HeadLoss device_head_loss(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                          WantedGradients wanted);
TokenScores device_score_tokens(const at::Tensor& hidden, const FrozenWeight& head,
                                const at::Tensor& targets);
/// Logits [n, V] in hidden's dtype.
at::Tensor device_logits(const at::Tensor& hidden, const FrozenWeight& head);

}  // namespace qlora::ops
