#pragma once

#include "qlora/ops/attention.h"

/// Variable-length attention of LibTorch on a GPU: flash for 16-bit types on sm_80 and newer,
/// memory-efficient for fp32 and older cards.
namespace qlora::ops {

struct CudaAttended {
    at::Tensor out;        ///< [T, q_size]
    at::Tensor logsumexp;  ///< as the kernel returns it
    at::Tensor seed, offset;
};
CudaAttended cuda_attend(const at::Tensor& qkv, const SequenceOffsets& offsets, const AttentionShape& shape);

/// Gradient of the rotated qkv.
at::Tensor cuda_attend_backward(const at::Tensor& g, const at::Tensor& qkv, const CudaAttended& saved,
                                const SequenceOffsets& offsets, const AttentionShape& shape);

}  // namespace qlora::ops
