#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "../attention_backends.h"
#include "../capped_attention.h"
#include "../if_defined.h"
#include "../query_block.h"

/// LibTorch's kernel rounds as transformers' sdpa attention does.
namespace qlora::ops::in_bf16 {
namespace {

/// Queries of a block and the keys and values that they see, no copy.
struct HeadsFirst {
    HeadsFirst(const HeadsOfRows& rows, std::int64_t first_query, std::int64_t first_key,
               const QueryBlock& block)
        : q(heads_first(rows.q.narrow(0, first_query + block.first_row, block.rows))),
          k(heads_first(rows.k.narrow(0, first_key + block.first_key, block.keys))),
          v(heads_first(rows.v.narrow(0, first_key + block.first_key, block.keys))) {}

    at::Tensor q, k, v;
};

/// The blocks of the last n of m positions: all at once, unless they are many more than the window. The
/// scores of blocks are about twice as many as the window lets through.
std::vector<QueryBlock> blocks_of(std::int64_t n, std::int64_t m, const AttentionShape& shape) {
    constexpr std::int64_t kLeastRows = 128;
    const std::int64_t rows = std::max(shape.window, kLeastRows);
    const bool pays = shape.window > 0 && n >= rows + shape.window + kLeastRows;
    return query_blocks(n, m, pays ? shape.window : 0, pays ? rows : std::max<std::int64_t>(n, 1));
}

at::Tensor mask_of(const QueryBlock& block, const AttentionShape& shape, const at::TensorOptions& options) {
    return window_mask(block.rows, block.keys, shape.window, options);
}

/// Whether the kernel is to hide keys by itself. It does so from the first key on, so that the one row of a
/// block that sees all its keys would see the first alone.
bool is_causal(const QueryBlock& block, const at::Tensor& mask) {
    return block.rows == block.keys && !mask.defined();
}

/// Adds up the gradients of keys and values that several blocks see, in fp32.
class KeyValueGradients {
  public:
    KeyValueGradients(const HeadsOfRows& to, std::int64_t begin, std::int64_t m, bool is_one_block)
        : k_(to.k.narrow(0, begin, m)), v_(to.v.narrow(0, begin, m)) {
        if (is_one_block) return;
        k_sum_ = at::zeros(k_.sizes(), k_.options().dtype(at::kFloat));
        v_sum_ = at::zeros(v_.sizes(), v_.options().dtype(at::kFloat));
    }

    void add(const QueryBlock& block, const at::Tensor& dk, const at::Tensor& dv) {
        if (!k_sum_.defined()) {
            heads_first(k_).copy_(dk);
            heads_first(v_).copy_(dv);
            return;
        }
        heads_first(k_sum_.narrow(0, block.first_key, block.keys)).add_(dk);
        heads_first(v_sum_.narrow(0, block.first_key, block.keys)).add_(dv);
    }
    void finish() {
        if (!k_sum_.defined()) return;
        k_.copy_(k_sum_);
        v_.copy_(v_sum_);
    }

  private:
    at::Tensor k_, v_, k_sum_, v_sum_;
};

}  // namespace

Attended attend(const HeadsOfRows& in, const AttentionOffsets& offsets, const AttentionShape& shape) {
    if (shape.softcap != 0.0) return {.out = capped_attention(in, offsets, shape)};
    const std::int64_t tokens = in.q.size(0);
    Attended result{.out = at::empty({tokens, shape.q_size()}, in.q.options()),
                    .logsumexp = at::empty({tokens, shape.heads}, at::kFloat)};
    for (std::size_t s = 0; s < offsets.sequences(); ++s) {
        const std::int64_t begin = offsets.first_query(s);
        for (const QueryBlock& block : blocks_of(offsets.n(s), offsets.m(s), shape)) {
            const at::Tensor mask = mask_of(block, shape, in.q.options());
            const HeadsFirst seen(in, begin, offsets.first_key(s), block);
            const auto [y, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
                seen.q, seen.k, seen.v, 0.0, is_causal(block, mask), if_defined(mask), shape.scale);
            const std::int64_t row = begin + block.first_row;
            result.out.narrow(0, row, block.rows).copy_(rows_of_heads(y));
            result.logsumexp.narrow(0, row, block.rows).copy_(logsumexp.squeeze(0).t());
        }
    }
    return result;
}

void attend_backward(const at::Tensor& g, const HeadsOfRows& in, const Attended& saved,
                     const AttentionOffsets& offsets, const AttentionShape& shape, const HeadsOfRows& to) {
    if (shape.softcap != 0.0) return capped_attention_backward(g, in, offsets, shape, to);
    const at::Tensor d_out = g.contiguous();
    for (std::size_t s = 0; s < offsets.sequences(); ++s) {
        const std::vector<QueryBlock> blocks = blocks_of(offsets.n(s), offsets.m(s), shape);
        KeyValueGradients of_keys(to, offsets.first_key(s), offsets.m(s), blocks.size() == 1);
        for (const QueryBlock& block : blocks) {
            const at::Tensor mask = mask_of(block, shape, in.q.options());
            const HeadsFirst seen(in, offsets.first_query(s), offsets.first_key(s), block);
            const std::int64_t row = offsets.first_query(s) + block.first_row;
            const auto of_queries = [&](const at::Tensor& x) {
                return heads_first(
                    x.narrow(0, row, block.rows).view({block.rows, shape.heads, shape.head_dim}));
            };
            // The kernel wants logsumexp token-major, as its forward pass returns it: here that is
            // [1, heads, rows].
            const at::Tensor logsumexp =
                saved.logsumexp.narrow(0, row, block.rows).contiguous().t().unsqueeze(0);
            const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
                of_queries(d_out), seen.q, seen.k, seen.v, of_queries(saved.out), logsumexp, 0.0,
                is_causal(block, mask), if_defined(mask), shape.scale);
            heads_first(to.q.narrow(0, row, block.rows)).copy_(dq);
            of_keys.add(block, dk, dv);
        }
        of_keys.finish();
    }
}

at::Tensor cached_attention(const at::Tensor& q, const KeysValues& cached, const AttentionShape& shape) {
    const auto& [k, v] = cached;
    if (shape.softcap != 0.0) return capped_attention(q, k, v, shape);
    const std::int64_t n = q.size(0), m = k.size(0);
    at::Tensor out = at::empty({n, shape.q_size()}, q.options());
    for (const QueryBlock& block : blocks_of(n, m, shape)) {
        const at::Tensor mask = mask_of(block, shape, q.options());
        const auto of_keys = [&](const at::Tensor& x) {
            return heads_first(x.narrow(0, block.first_key, block.keys));
        };
        const auto [y, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
            heads_first(q.narrow(0, block.first_row, block.rows)), of_keys(k), of_keys(v), 0.0,
            is_causal(block, mask), if_defined(mask), shape.scale);
        out.narrow(0, block.first_row, block.rows).copy_(rows_of_heads(y));
    }
    return out;
}

}  // namespace qlora::ops::in_bf16
