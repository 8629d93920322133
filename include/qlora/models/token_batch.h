#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace qlora::models {

/// Sequences laid end to end, as lists: T tokens, S sequences, R rows whose hidden states are wanted.
struct TokenLists {
    std::span<const std::int64_t> ids;        ///< [T]
    std::span<const std::int64_t> positions;  ///< [T]
    std::span<const std::int64_t> offsets;    ///< [S + 1], cumulative lengths
    std::span<const std::int64_t> rows;       ///< [R]; empty: none in the batch
    std::span<const std::int64_t> targets;    ///< [R] or empty
};

/// The same where the model runs, int64: parts of one tensor, so that a GPU gets them by one copy.
struct TokenBatch {
    at::Tensor ids, positions;  ///< [T]
    at::Tensor rows, targets;   ///< [R]
    std::vector<std::int64_t> offsets;
    at::Tensor device_offsets;  ///< int32 [S + 1]
};

/// The copy to a GPU starts from pinned memory and is not waited for.
TokenBatch upload(const TokenLists& lists, at::Device device);

/// A batch, without rows and targets, with `before[s]` virtual tokens in front of sequence s: their ids are
/// first_id, first_id + 1, .., their positions first_position, first_position + 1, .. The others stay.
struct Expanded {
    TokenBatch batch;
    at::Tensor places;  ///< int64 [T]: where the tokens are
};
Expanded with_virtual_tokens(const TokenBatch& batch, std::span<const std::int64_t> before,
                             std::int64_t first_id, std::int64_t first_position);

}  // namespace qlora::models
