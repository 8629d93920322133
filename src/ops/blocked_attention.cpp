#include "blocked_attention.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "qlora/kernels/elementwise.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops {
namespace {

/// Query rows of a block: enough for BLAS to be near its rate, few enough that little is computed above the
/// diagonal.
constexpr std::int64_t kBlockRows = 32;

/// One block of query rows of one head, and the keys it sees.
struct Item {
    std::size_t sequence;
    std::int64_t head, first_row, rows;
    std::int64_t first_key, keys;
    kernels::cpu::VisibleColumns visible;  ///< of its first row, counted from first_key
};

std::vector<Item> items_of(const std::vector<AttentionSequence>& sequences, const AttentionShape& shape) {
    std::vector<Item> items;
    for (std::size_t s = 0; s < sequences.size(); ++s) {
        const std::int64_t n = sequences[s].n, before = sequences[s].m - n;
        for (std::int64_t head = 0; head < shape.heads; ++head) {
            for (std::int64_t row = 0; row < n; row += kBlockRows) {
                const std::int64_t rows = std::min(kBlockRows, n - row), position = before + row;
                const std::int64_t first =
                    shape.window > 0 ? std::max<std::int64_t>(0, position + 1 - shape.window) : 0;
                items.push_back({.sequence = s,
                                 .head = head,
                                 .first_row = row,
                                 .rows = rows,
                                 .first_key = first,
                                 .keys = position + rows - first,
                                 .visible = {.limit = position + 1 - first, .window = shape.window}});
            }
        }
    }
    return items;
}

/// First items of `pieces` contiguous stretches of about equal work, and the end.
std::vector<std::size_t> cut(const std::vector<Item>& items, std::size_t pieces) {
    std::int64_t total = 0;
    for (const Item& item : items) total += item.rows * item.keys;
    std::vector<std::size_t> begins = {0};
    std::int64_t done = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
        if (done * static_cast<std::int64_t>(pieces) >= total * static_cast<std::int64_t>(begins.size())) {
            begins.push_back(i);
        }
        done += items[i].rows * items[i].keys;
    }
    begins.push_back(items.size());
    return begins;
}

std::int64_t largest_block(const std::vector<Item>& items) {
    std::int64_t largest = 0;
    for (const Item& item : items) largest = std::max(largest, item.rows * item.keys);
    return largest;
}

float scale_of(const AttentionShape& shape) {
    return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

/// Where a head's columns begin in rows of keys and values.
std::int64_t kv_column(const AttentionShape& shape, std::int64_t head) {
    return head / (shape.heads / shape.kv_heads) * shape.head_dim;
}

MatrixView view(const Rows& rows, std::int64_t row, std::int64_t column, bool transposed = false) {
    return {.data = rows.row(row) + column, .stride = rows.stride, .transposed = transposed};
}

/// Runs f(piece, first item, end item) with one piece a thread.
template <class F>
void in_parallel(const std::vector<Item>& items, F&& f) {
    const auto threads = static_cast<std::size_t>(std::max(1, at::get_num_threads()));
    const std::vector<std::size_t> begins = cut(items, at::in_parallel_region() ? 1 : threads);
    const auto pieces = static_cast<std::int64_t>(begins.size()) - 1;
    at::parallel_for(0, pieces, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t piece = begin; piece < end; ++piece) {
            const auto index = static_cast<std::size_t>(piece);
            f(index, begins[index], begins[index + 1]);
        }
    });
}

}  // namespace

void attention_forward(const std::vector<AttentionSequence>& sequences, const AttentionShape& shape) {
    const std::vector<Item> items = items_of(sequences, shape);
    const std::int64_t dim = shape.head_dim;
    const std::int64_t largest = largest_block(items);
    in_parallel(items, [&](std::size_t, std::size_t begin, std::size_t end) {
        std::vector<float> scores(static_cast<std::size_t>(largest));
        for (std::size_t i = begin; i < end; ++i) {
            const Item& item = items[i];
            const AttentionSequence& s = sequences[item.sequence];
            const std::int64_t q_column = item.head * dim, column = kv_column(shape, item.head);
            gemm(item.rows, item.keys, dim, 1.0F, view(s.q, item.first_row, q_column),
                 view(s.k, item.first_key, column, true), 0.0F, scores.data(), item.keys);
            kernels::cpu::attention_softmax(
                scores.data(), item.rows, item.keys, item.keys, scale_of(shape), item.visible,
                s.logsumexp + item.first_row * shape.heads + item.head, shape.heads);
            gemm(item.rows, dim, item.keys, 1.0F, {.data = scores.data(), .stride = item.keys},
                 view(s.v, item.first_key, column), 0.0F, s.out.row(item.first_row) + q_column, s.out.stride);
        }
    });
}

namespace {

/// Gradients of the keys and values of one head, summed over its query blocks: [m, head_dim] each.
struct KeyValueSums {
    std::size_t sequence = 0;
    std::int64_t head = -1;
    std::vector<float> dk, dv;
};

/// Eight sums side by side: one alone would wait for itself at every term.
float dot(const float* a, const float* b, std::int64_t n) {
    constexpr std::int64_t kLanes = 8;
    float sums[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (std::int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
    }
    for (; i < n; ++i) sums[0] += a[i] * b[i];
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

void backward_block(const Item& item, const AttentionSequence& s, const AttentionGradients& g,
                    const AttentionShape& shape, std::vector<float>& scores, std::vector<float>& dp,
                    KeyValueSums& sums) {
    const std::int64_t dim = shape.head_dim, q_column = item.head * dim, column = kv_column(shape, item.head);
    float delta[kBlockRows];
    for (std::int64_t r = 0; r < item.rows; ++r) {
        const float* out = s.out.row(item.first_row + r) + q_column;
        const float* d_out = g.d_out.row(item.first_row + r) + q_column;
        delta[r] = dot(out, d_out, dim);
    }
    const MatrixView q = view(s.q, item.first_row, q_column), d_out = view(g.d_out, item.first_row, q_column);
    gemm(item.rows, item.keys, dim, 1.0F, q, view(s.k, item.first_key, column, true), 0.0F, scores.data(),
         item.keys);
    gemm(item.rows, item.keys, dim, 1.0F, d_out, view(s.v, item.first_key, column, true), 0.0F, dp.data(),
         item.keys);
    kernels::cpu::attention_softmax_backward(
        scores.data(), dp.data(), item.rows, item.keys, item.keys, scale_of(shape), item.visible,
        s.logsumexp + item.first_row * shape.heads + item.head, shape.heads, delta, 1);
    const MatrixView p = {.data = scores.data(), .stride = item.keys, .transposed = true};
    const MatrixView ds = {.data = dp.data(), .stride = item.keys, .transposed = true};
    gemm(item.keys, dim, item.rows, 1.0F, p, d_out, 1.0F, sums.dv.data() + item.first_key * dim, dim);
    gemm(item.keys, dim, item.rows, 1.0F, ds, q, 1.0F, sums.dk.data() + item.first_key * dim, dim);
    gemm(item.rows, dim, item.keys, 1.0F, {.data = dp.data(), .stride = item.keys},
         view(s.k, item.first_key, column), 0.0F, g.dq.row(item.first_row) + q_column, g.dq.stride);
}

/// Sums each head's part into the keys and values it shares, in the order of the pieces: the same for the
/// same number of threads.
void add_to_shared_heads(const std::vector<std::vector<KeyValueSums>>& pieces,
                         const std::vector<AttentionSequence>& sequences,
                         const std::vector<AttentionGradients>& gradients, const AttentionShape& shape) {
    std::int64_t longest = 0;
    for (const AttentionSequence& s : sequences) longest = std::max(longest, s.m);
    at::parallel_for(0, longest, 32, [&](std::int64_t begin, std::int64_t end) {
        for (std::size_t s = 0; s < sequences.size(); ++s) {
            for (std::int64_t row = begin; row < std::min(end, sequences[s].m); ++row) {
                std::fill_n(gradients[s].dk.row(row), shape.kv_size(), 0.0F);
                std::fill_n(gradients[s].dv.row(row), shape.kv_size(), 0.0F);
            }
        }
        for (const std::vector<KeyValueSums>& piece : pieces) {
            for (const KeyValueSums& sums : piece) {
                const AttentionGradients& g = gradients[sums.sequence];
                const std::int64_t column = kv_column(shape, sums.head);
                for (std::int64_t row = begin; row < std::min(end, sequences[sums.sequence].m); ++row) {
                    const std::size_t from = static_cast<std::size_t>(row * shape.head_dim);
                    float *dk = g.dk.row(row) + column, *dv = g.dv.row(row) + column;
                    for (std::int64_t c = 0; c < shape.head_dim; ++c) {
                        dk[c] += sums.dk[from + static_cast<std::size_t>(c)];
                        dv[c] += sums.dv[from + static_cast<std::size_t>(c)];
                    }
                }
            }
        }
    });
}

}  // namespace

void attention_backward(const std::vector<AttentionSequence>& sequences,
                        const std::vector<AttentionGradients>& gradients, const AttentionShape& shape) {
    const std::vector<Item> items = items_of(sequences, shape);
    const auto largest = static_cast<std::size_t>(largest_block(items));
    std::vector<std::vector<KeyValueSums>> pieces(
        static_cast<std::size_t>(std::max(1, at::get_num_threads())) + 1);
    in_parallel(items, [&](std::size_t piece, std::size_t begin, std::size_t end) {
        std::vector<float> scores(largest), dp(largest);
        std::vector<KeyValueSums>& heads = pieces[piece];
        for (std::size_t i = begin; i < end; ++i) {
            const Item& item = items[i];
            const AttentionSequence& s = sequences[item.sequence];
            if (heads.empty() || heads.back().sequence != item.sequence || heads.back().head != item.head) {
                const auto size = static_cast<std::size_t>(s.m * shape.head_dim);
                heads.push_back(
                    {item.sequence, item.head, std::vector<float>(size), std::vector<float>(size)});
            }
            backward_block(item, s, gradients[item.sequence], shape, scores, dp, heads.back());
        }
    });
    add_to_shared_heads(pieces, sequences, gradients, shape);
}

}  // namespace qlora::ops
