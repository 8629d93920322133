#pragma once

#include "qlora/ops/attention.h"

/// Attention where each kind of kernels runs: fp32 on the CPU, 16 bits on the CPU by LibTorch, a GPU by
/// LibTorch.
namespace qlora::ops {

/// What attention gives and keeps for backward.
struct Attended {
    at::Tensor out;                     ///< [T, q_size]
    at::Tensor logsumexp = {};          ///< on the CPU fp32 [T, heads], on a GPU as its kernel returns it
    at::Tensor seed = {}, offset = {};  ///< of the GPU's kernels, which ask for them in backward
};

/// Additive mask [n, m] for the last n of m positions, or undefined when the kernel's own causal flag (n ==
/// m) or no mask at all (n == 1) says the same.
at::Tensor window_mask(std::int64_t n, std::int64_t m, std::int64_t window, const at::TensorOptions& options);

/// Heads [n, heads, head_dim] as LibTorch's kernels of one sequence want them: [1, heads, n, head_dim], no
/// copy.
inline at::Tensor heads_first(const at::Tensor& heads) {
    return heads.transpose(0, 1).unsqueeze(0);
}
/// Back, as rows [n, heads * head_dim].
inline at::Tensor rows_of_heads(const at::Tensor& heads) {
    return heads.squeeze(0).transpose(0, 1).reshape({heads.size(2), -1});
}

/// Where the sequences of a batch lie: their queries are the last of their keys.
struct AttentionOffsets {
    SequenceOffsets queries, keys;

    std::size_t sequences() const { return queries.host.size() - 1; }
    std::int64_t first_query(std::size_t s) const { return queries.host[s]; }
    std::int64_t first_key(std::size_t s) const { return keys.host[s]; }
    std::int64_t n(std::size_t s) const { return queries.host[s + 1] - queries.host[s]; }
    std::int64_t m(std::size_t s) const { return keys.host[s + 1] - keys.host[s]; }
    bool prefixed() const { return keys.host.back() != queries.host.back(); }
};

// `in` is rotated; its gradient is written to `to`, which has the shapes of `in`.
#define QLORA_ATTENTION_BACKEND(backend)                                                                  \
    namespace backend {                                                                                   \
    Attended attend(const HeadsOfRows& in, const AttentionOffsets& offsets, const AttentionShape& shape); \
    void attend_backward(const at::Tensor& g, const HeadsOfRows& in, const Attended& saved,               \
                         const AttentionOffsets& offsets, const AttentionShape& shape,                    \
                         const HeadsOfRows& to);                                                          \
    }
QLORA_ATTENTION_BACKEND(in_fp32)
QLORA_ATTENTION_BACKEND(in_bf16)
QLORA_ATTENTION_BACKEND(on_device)
#undef QLORA_ATTENTION_BACKEND

// cached_attention of attention.h: of all sequences at once, or of one, whose q is [n, heads, head_dim].
namespace in_fp32 {
at::Tensor cached_attention(const at::Tensor& q, const SequenceOffsets& offsets,
                            const std::vector<KeysValues>& cached, const AttentionShape& shape);
}
namespace in_bf16 {
at::Tensor cached_attention(const at::Tensor& q, const KeysValues& cached, const AttentionShape& shape);
}
namespace on_device {
at::Tensor cached_attention(const at::Tensor& q, const KeysValues& cached, const AttentionShape& shape);
}

}  // namespace qlora::ops
