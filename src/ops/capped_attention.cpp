#include "capped_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "qlora/ops/score_rows.h"
#include "query_block.h"

namespace qlora::ops {
namespace {

/// The blocks of the last n of m positions.
std::vector<QueryBlock> blocks_of(std::int64_t n, std::int64_t m, const AttentionShape& shape) {
    return query_blocks(n, m, shape.window, score_rows(shape.heads, m));
}

/// Rows of heads [n, heads, head_dim] as [kv_heads, heads / kv_heads * rows, head_dim]: the queries of each
/// head of keys in one matrix.
at::Tensor by_kv_head(const at::Tensor& heads, const QueryBlock& block, const AttentionShape& shape) {
    const std::int64_t group = shape.heads / shape.kv_heads;
    return heads.narrow(0, block.first_row, block.rows)
        .unflatten(1, {shape.kv_heads, group})
        .permute({1, 2, 0, 3})
        .reshape({shape.kv_heads, group * block.rows, shape.head_dim});
}

/// Back, as [rows, heads, head_dim].
at::Tensor by_row(const at::Tensor& x, const QueryBlock& block, const AttentionShape& shape) {
    return x.view({shape.kv_heads, -1, block.rows, shape.head_dim}).permute({2, 0, 1, 3}).flatten(1, 2);
}

/// Keys or values that a block sees, [kv_heads, keys, head_dim].
at::Tensor seen(const at::Tensor& heads, const QueryBlock& block) {
    return heads.narrow(0, block.first_key, block.keys).transpose(0, 1);
}

/// bool [rows, keys]: what a row must not see.
at::Tensor hidden_keys(const QueryBlock& block, std::int64_t before, std::int64_t window, at::Device device) {
    const at::TensorOptions places = at::TensorOptions().dtype(at::kLong).device(device);
    const std::int64_t position = before + block.first_row;
    const at::Tensor row = at::arange(position, position + block.rows, places).unsqueeze(1);
    const at::Tensor column = at::arange(block.first_key, block.first_key + block.keys, places).unsqueeze(0);
    const at::Tensor hidden = column.gt(row);
    return window > 0 ? hidden.logical_or(column.le(row - window)) : hidden;
}

struct Probabilities {
    at::Tensor capped;  ///< tanh of the scores as a share of the softcap
    at::Tensor p;       ///< fp32; both [kv_heads, queries, keys]
};

Probabilities probabilities(const at::Tensor& queries, const at::Tensor& keys, const QueryBlock& block,
                            std::int64_t before, const AttentionShape& shape) {
    at::Tensor scores = at::bmm(queries, keys.transpose(1, 2)).mul_(shape.scale);
    const at::Tensor capped = scores.div_(shape.softcap).tanh_();
    const at::Tensor hidden = hidden_keys(block, before, shape.window, queries.device());
    at::Tensor counted = capped * shape.softcap;
    counted.view({shape.kv_heads, -1, block.rows, block.keys})
        .masked_fill_(hidden, -std::numeric_limits<float>::infinity());
    return {.capped = capped, .p = at::softmax(counted, -1, at::kFloat)};
}

/// Gradients [kv_heads, m, head_dim] of keys and values, summed in fp32.
struct KeyValueSums {
    at::Tensor dk, dv;
};

/// The block's part; returns the gradient of its queries.
at::Tensor block_backward(const QueryBlock& block, const at::Tensor& d_out, const HeadsOfRows& heads,
                          std::int64_t before, const AttentionShape& shape, const KeyValueSums& sums) {
    const at::Tensor queries = by_kv_head(heads.q, block, shape), g = by_kv_head(d_out, block, shape);
    const at::Tensor keys = seen(heads.k, block), values = seen(heads.v, block);
    const auto [capped, p] = probabilities(queries, keys, block, before, shape);
    const at::Tensor weights = p.to(queries.scalar_type());
    sums.dv.narrow(1, block.first_key, block.keys).add_(at::bmm(weights.transpose(1, 2), g));
    at::Tensor d = at::bmm(g, values.transpose(1, 2)).to(at::kFloat);
    d = p * (d - (p * d).sum(-1, true));
    d = at::tanh_backward(d.to(queries.scalar_type()).mul_(shape.softcap), capped);
    d = d.div_(shape.softcap).mul_(shape.scale);
    sums.dk.narrow(1, block.first_key, block.keys).add_(at::bmm(d.transpose(1, 2), queries));
    return by_row(at::bmm(d, keys), block, shape);
}

/// One sequence of a batch.
HeadsOfRows sequence_of(const HeadsOfRows& heads, const AttentionOffsets& offsets, std::size_t s) {
    const auto of_keys = [&](const at::Tensor& x) { return x.narrow(0, offsets.first_key(s), offsets.m(s)); };
    return {heads.q.narrow(0, offsets.first_query(s), offsets.n(s)), of_keys(heads.k), of_keys(heads.v)};
}

}  // namespace

at::Tensor capped_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const AttentionShape& shape) {
    const std::int64_t n = q.size(0), m = k.size(0);
    at::Tensor out = at::empty({n, shape.heads, shape.head_dim}, q.options());
    for (const QueryBlock& block : blocks_of(n, m, shape)) {
        const at::Tensor p =
            probabilities(by_kv_head(q, block, shape), seen(k, block), block, m - n, shape).p;
        const at::Tensor y = at::bmm(p.to(q.scalar_type()), seen(v, block));
        out.narrow(0, block.first_row, block.rows).copy_(by_row(y, block, shape));
    }
    return out.flatten(1);
}

at::Tensor capped_attention(const HeadsOfRows& in, const AttentionOffsets& offsets,
                            const AttentionShape& shape) {
    at::Tensor out = at::empty({in.q.size(0), shape.q_size()}, in.q.options());
    for (std::size_t s = 0; s < offsets.sequences(); ++s) {
        const HeadsOfRows heads = sequence_of(in, offsets, s);
        out.narrow(0, offsets.first_query(s), offsets.n(s))
            .copy_(capped_attention(heads.q, heads.k, heads.v, shape));
    }
    return out;
}

void capped_attention_backward(const at::Tensor& g, const HeadsOfRows& in, const AttentionOffsets& offsets,
                               const AttentionShape& shape, const HeadsOfRows& to) {
    const at::Tensor d_out = g.contiguous().unflatten(1, {shape.heads, shape.head_dim});
    for (std::size_t s = 0; s < offsets.sequences(); ++s) {
        const HeadsOfRows heads = sequence_of(in, offsets, s), of_heads = sequence_of(to, offsets, s);
        const std::int64_t n = offsets.n(s), m = offsets.m(s);
        const auto sum = [&] {
            return at::zeros({shape.kv_heads, m, shape.head_dim}, in.q.options().dtype(at::kFloat));
        };
        const KeyValueSums sums{.dk = sum(), .dv = sum()};
        for (const QueryBlock& block : blocks_of(n, m, shape)) {
            of_heads.q.narrow(0, block.first_row, block.rows)
                .copy_(block_backward(block, d_out.narrow(0, offsets.first_query(s), n), heads, m - n, shape,
                                      sums));
        }
        of_heads.k.copy_(sums.dk.transpose(0, 1));
        of_heads.v.copy_(sums.dv.transpose(0, 1));
    }
}

}  // namespace qlora::ops
