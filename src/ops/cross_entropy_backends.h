#pragma once

#include <vector>

#include "qlora/ops/cross_entropy.h"

/// cross_entropy.h where each kind of kernels runs: fp32 on the CPU, 16 bits on the CPU with the roundings of
/// LibTorch's operations, a device.
namespace qlora::ops {

/// Head and cross-entropy of a forward pass; gradients are undefined unless wanted.
struct HeadLoss {
    at::Tensor loss;  ///< fp32 scalar: the sum over rows
    at::Tensor gradient_hidden;
    at::Tensor gradient_head;             ///< fp32
    std::vector<at::Tensor> of_low_rank;  ///< fp32: of A, of B, of its bias if there is one
};
struct WantedGradients {
    bool hidden = false, head = false, low_rank = false;

    bool any() const { return hidden || head || low_rank; }
};

// head_logits: fp32 [n, V], rounded to hidden's dtype.
#define QLORA_CROSS_ENTROPY_BACKEND(backend)                                                                \
    namespace backend {                                                                                     \
    HeadLoss head_loss(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,       \
                       const LogitRule& rule, WantedGradients wanted);                                      \
    at::Tensor head_logits(const at::Tensor& hidden, const FrozenWeight& head, const LogitRule& rule);      \
    TokenScores score_tokens(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets, \
                             const LogitRule& rule);                                                        \
    }
QLORA_CROSS_ENTROPY_BACKEND(in_fp32)
QLORA_CROSS_ENTROPY_BACKEND(in_bf16)
QLORA_CROSS_ENTROPY_BACKEND(on_device)
#undef QLORA_CROSS_ENTROPY_BACKEND

}  // namespace qlora::ops
