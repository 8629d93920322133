#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "qlora/ops/norm.h"
#include "qlora/ops/rope.h"

namespace qlora::ops {

/// Heads of one attention layer.
struct AttentionShape {
    std::int64_t heads;
    std::int64_t kv_heads;  ///< divides `heads`; keys and values are never expanded
    std::int64_t head_dim;
    std::int64_t window = 0;  ///< tokens that one sees, itself among them; 0: all before it
    double scale;             ///< of the scores
    double softcap = 0.0;     ///< scores become softcap * tanh(score / softcap); 0: they stay
    bool per_head = false;    ///< a row is q, k and v of head after head, else all of q, then of k, then of v

    std::int64_t q_size() const { return heads * head_dim; }
    std::int64_t kv_size() const { return kv_heads * head_dim; }
};

/// Views of rows qkv [T, q_size + 2 kv_size]: [T, heads, head_dim] and twice [T, kv_heads, head_dim]. Or keys
/// and values of more tokens than the queries.
struct HeadsOfRows {
    HeadsOfRows(const at::Tensor& qkv, const AttentionShape& shape);
    HeadsOfRows(at::Tensor queries, at::Tensor keys, at::Tensor values)
        : q(std::move(queries)), k(std::move(keys)), v(std::move(values)) {}
    at::Tensor q, k, v;
};

/// Cumulative lengths [S + 1] of the sequences of a batch.
struct SequenceOffsets {
    SequenceOffsets() = default;
    SequenceOffsets(std::vector<std::int64_t> offsets) : host(std::move(offsets)) {}

    std::int64_t longest() const;

    std::vector<std::int64_t> host;
    at::Tensor device;  ///< the same, int32, where attention runs on a GPU
};

/// Norms of queries and keys before the rotation. Weights (and biases, of both or of none) are [head_dim] for
/// all heads of q or of k, [heads, head_dim] where each head has its own, or those of whole rows.
struct HeadNorms {
    Norm q, k;
    bool whole_rows = false;  ///< each goes over all heads of a row: weights [heads * head_dim]
};

/// Where keys are once so many stand before those of each sequence; made once a pass.
struct PrefixedKeys {
    PrefixedKeys(const SequenceOffsets& text, std::int64_t prefix, at::Device device);

    std::int64_t tokens;      ///< of the prefix
    SequenceOffsets offsets;  ///< [S + 1], of prefix and sequence together
    at::Tensor source;        ///< int64 [M]: row of (prefix, text) that is key m
    at::Tensor of_text;       ///< int64 [T]: where the text's keys are
    at::Tensor of_prefix;     ///< int64 [S * tokens]: where the prefix is, sequence by sequence
};

/// Keys and values before those of each sequence, neither normed nor turned.
struct AttentionPrefix {
    at::Tensor keys_values;                    ///< fp32 [2, tokens, kv_size], rounded where it is used
    std::shared_ptr<const PrefixedKeys> keys;  ///< null: no prefix
};

/// Rotary position embedding and causal attention of each sequence alone. qkv [T, q_size + 2 kv_size] is
/// consumed: without head norms it is rotated in place, and not at all without a table. Softmax in fp32; in
/// bf16 the probabilities are rounded before they meet v, as in transformers' sdpa attention, and with a
/// softcap scores are rounded too, as in its eager attention. Result [T,
/// q_size]. One node for all sequences. A window counts the prefix; its gradient is summed over the sequences
/// in their order.
at::Tensor rotary_attention(const at::Tensor& qkv, const RopeTable& table, const SequenceOffsets& offsets,
                            const AttentionShape& shape, const HeadNorms* norms,
                            const AttentionPrefix& prefix = {});

/// qkv with normed (if any) and rotated q and k, for `cached_attention`; no gradient. Consumes qkv.
at::Tensor rotated(const at::Tensor& qkv, const RopeTable& table, const AttentionShape& shape,
                   const HeadNorms* norms);

/// Of one sequence, [m, kv_heads, head_dim] each.
struct KeysValues {
    at::Tensor keys, values;
};

/// New stretches of several sequences, each against all of its sequence, without gradient: of q [T, heads,
/// head_dim] the rows of sequence s are the last of the m positions of cached[s]. Result [T, q_size]. Used by
/// generation.
at::Tensor cached_attention(const at::Tensor& q, const SequenceOffsets& offsets,
                            const std::vector<KeysValues>& cached, const AttentionShape& shape);

}  // namespace qlora::ops
