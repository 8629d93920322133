#pragma once

#include <cstdint>

#include "qlora/kernels/float16.h"
#include "qlora/kernels/kernel_backend.h"
#include "qlora/kernels/layer_kinds.h"

/// Softmax over rows of logits on a GPU. The caller walks over the head in chunks of rows, so logits are
/// never held whole; a row has 1 to 2^30 columns. Errors and streams as in cuda_kernels.h, but for targets,
/// which nobody checks.
namespace qlora::kernels {

struct CrossEntropyParams {
    void* logits;            ///< [rows, columns] of `type`, contiguous
    const int64_t* targets;  ///< [rows], each in [0, columns)
    int64_t rows, columns;
    double* losses;  ///< [rows]: logsumexp - logit of the target
    FloatType type;
    LogitCurve curve = {};  ///< which the softmax is of, each result rounded to `type`
};

struct ScoreRowsParams {
    const void* logits;      ///< [rows, columns] of `type`, contiguous
    const int64_t* targets;  ///< [rows]
    int64_t rows, columns;
    float* logprobs;  ///< [rows] of the targets
    bool* correct;    ///< [rows]: the target is the most likely column; of equal ones the first is
    FloatType type;
    LogitCurve curve = {};
};

}  // namespace qlora::kernels

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// logits become softmax - onehot(target), computed in fp32 and rounded once to `type`, and where there is a
/// curve the gradient of the logits before it, each step rounded as autograd of its operations does. The sum
/// of exponentials has a fixed order and a relative error below 1e-6 for 200,000 columns. NaN and infinity
/// reach the loss.
void softmax_cross_entropy(const CrossEntropyParams& params, Stream stream);

void score_rows(const ScoreRowsParams& params, Stream stream);

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
