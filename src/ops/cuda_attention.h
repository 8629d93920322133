#pragma once

#include "qlora/ops/attention.h"

/// Variable-length attention of LibTorch on a GPU: flash for 16-bit types on sm_80 and newer,
/// memory-efficient for fp32 and older cards.
namespace qlora::ops {

/// What attention gives and keeps for backward, on the CPU too.
struct Attended {
    at::Tensor out;           ///< [T, q_size]
    at::Tensor logsumexp;     ///< on the CPU fp32 [T, heads], on a GPU as its kernel returns it
    at::Tensor seed, offset;  ///< of the GPU's kernels, which ask for them in backward
};
Attended cuda_attend(const at::Tensor& qkv, const SequenceOffsets& offsets, const AttentionShape& shape);

/// Gradient of the rotated qkv.
at::Tensor cuda_attend_backward(const at::Tensor& g, const at::Tensor& qkv, const Attended& saved,
                                const SequenceOffsets& offsets, const AttentionShape& shape);

}  // namespace qlora::ops
