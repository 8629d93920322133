#include "blocked_attention.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <optional>

#include "qlora/kernels/elementwise.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops::in_fp32 {
namespace {

/// Query rows of a block: whole tiles of a product, enough to be near its rate, few enough that little is
/// computed above the diagonal.
constexpr std::int64_t kBlockRows = 48;
static_assert(kBlockRows % BlockFactor::kColumnStep == 0);

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
                const std::int64_t seen =
                    shape.window > 0 ? std::max<std::int64_t>(0, position + 1 - shape.window) : 0;
                const std::int64_t first = seen / BlockFactor::kColumnStep * BlockFactor::kColumnStep;
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

/// Query rows from which a head is two pieces of work, so that few heads still keep all threads busy.
constexpr std::int64_t kCutRows = 1024;

/// Consecutive items of one head. How heads are cut depends on lengths alone, so that the sums of a gradient
/// have one order with any number of threads.
struct Piece {
    std::size_t begin, end;
};

std::vector<Piece> pieces_of(const std::vector<Item>& items,
                             const std::vector<AttentionSequence>& sequences) {
    std::vector<Piece> pieces;
    for (std::size_t begin = 0; begin < items.size();) {
        std::size_t end = begin;
        std::int64_t work = 0;
        for (; end < items.size() && items[end].sequence == items[begin].sequence &&
               items[end].head == items[begin].head;
             ++end) {
            work += items[end].rows * items[end].keys;
        }
        std::size_t middle = end;
        if (sequences[items[begin].sequence].n >= kCutRows) {
            std::int64_t left = work;
            for (middle = begin; 2 * left > work; ++middle) left -= items[middle].rows * items[middle].keys;
        }
        pieces.push_back({begin, middle});
        if (middle < end) pieces.push_back({middle, end});
        begin = end;
    }
    return pieces;
}

std::int64_t largest_block(const std::vector<Item>& items) {
    std::int64_t largest = 0;
    for (const Item& item : items) largest = std::max(largest, item.rows * item.keys);
    return largest;
}

kernels::cpu::ScoreRule rule_of(const AttentionShape& shape) {
    return {.scale = static_cast<float>(shape.scale), .softcap = static_cast<float>(shape.softcap)};
}

/// The head of keys and values that a head of queries reads.
std::int64_t kv_head_of(const AttentionShape& shape, std::int64_t head) {
    return head / (shape.heads / shape.kv_heads);
}

MatrixView view(const HeadRows& rows, std::int64_t row, std::int64_t head, bool transposed = false) {
    return {.data = rows.at(row, head), .stride = rows.row_stride, .transposed = transposed};
}

/// A head's keys and values as right factors, packed for all query rows that read them.
struct HeadFactors {
    HeadFactors(const AttentionSequence& s, const AttentionShape& shape, std::int64_t kv_head)
        : keys_t(s.n, s.m, shape.head_dim, view(s.k, 0, kv_head, true)),
          values(s.n, shape.head_dim, s.m, view(s.v, 0, kv_head)) {}

    BlockFactor keys_t, values;
};

struct HeadBackwardFactors {
    HeadBackwardFactors(const AttentionSequence& s, const AttentionShape& shape, std::int64_t kv_head)
        : keys_t(s.n, s.m, shape.head_dim, view(s.k, 0, kv_head, true)),
          values_t(s.n, s.m, shape.head_dim, view(s.v, 0, kv_head, true)),
          keys(s.n, shape.head_dim, s.m, view(s.k, 0, kv_head)) {}

    BlockFactor keys_t, values_t, keys;
};

/// The factors of the last head; heads that share keys and values follow each other.
template <class Factors>
class LastFactors {
  public:
    const Factors& of(const AttentionSequence& s, const AttentionShape& shape, std::int64_t head) {
        const std::int64_t kv_head = kv_head_of(shape, head);
        if (sequence_ != &s || kv_head_ != kv_head) {
            factors_.reset();
            factors_.emplace(s, shape, kv_head);
            sequence_ = &s;
            kv_head_ = kv_head;
        }
        return *factors_;
    }

  private:
    const AttentionSequence* sequence_ = nullptr;
    std::int64_t kv_head_ = -1;
    std::optional<Factors> factors_;
};

/// Scores: all of the head's dimensions, and the keys that the block sees.
kernels::cpu::SgemmPart keys_of(const Item& item, std::int64_t dim) {
    return {.first_row = 0, .rows = dim, .first_column = item.first_key, .columns = item.keys};
}
/// Sums over the keys that the block sees.
kernels::cpu::SgemmPart dims_of(const Item& item, std::int64_t dim) {
    return {.first_row = item.first_key, .rows = item.keys, .first_column = 0, .columns = dim};
}

/// The only query row of a sequence: nothing is packed for it.
void attend_one_row(const Item& item, const AttentionSequence& s, const AttentionShape& shape,
                    float* scores) {
    const std::int64_t kv_head = kv_head_of(shape, item.head);
    const auto seen = [&](const HeadRows& rows) -> kernels::cpu::Rows {
        return {rows.at(item.first_key, kv_head), item.keys, shape.head_dim, rows.row_stride};
    };
    kernels::cpu::dot_rows(seen(s.k), s.q.at(0, item.head), scores, 1);
    kernels::cpu::attention_softmax(scores, 1, item.keys, item.keys, rule_of(shape), item.visible,
                                    s.logsumexp + item.head, shape.heads);
    kernels::cpu::weigh_rows(seen(s.v), scores, s.out.at(0, item.head));
}

/// Runs make_worker() on each thread and what it returns, f(piece), for each piece, whichever thread is free.
template <class MakeWorker>
void in_parallel(std::size_t pieces, const MakeWorker& make_worker) {
    const std::int64_t threads =
        std::min(static_cast<std::int64_t>(pieces), static_cast<std::int64_t>(at::get_num_threads()));
    std::atomic<std::size_t> next{0};
    at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
        auto work = make_worker();
        for (std::size_t piece = next.fetch_add(1); piece < pieces; piece = next.fetch_add(1)) work(piece);
    });
}

}  // namespace

void attention_forward(const std::vector<AttentionSequence>& sequences, const AttentionShape& shape) {
    const std::vector<Item> items = items_of(sequences, shape);
    const std::vector<Piece> pieces = pieces_of(items, sequences);
    const std::int64_t dim = shape.head_dim;
    const auto largest = static_cast<std::size_t>(largest_block(items));
    const auto worker = [&] {
        return [&, last = LastFactors<HeadFactors>(),
                scores = std::vector<float>(largest)](std::size_t piece) mutable {
            for (std::size_t i = pieces[piece].begin; i < pieces[piece].end; ++i) {
                const Item& item = items[i];
                const AttentionSequence& s = sequences[item.sequence];
                if (s.n == 1) {
                    attend_one_row(item, s, shape, scores.data());
                    continue;
                }
                const HeadFactors& head = last.of(s, shape, item.head);
                head.keys_t.multiply(item.rows, view(s.q, item.first_row, item.head), keys_of(item, dim),
                                     false, scores.data(), item.keys);
                kernels::cpu::attention_softmax(
                    scores.data(), item.rows, item.keys, item.keys, rule_of(shape), item.visible,
                    s.logsumexp + item.first_row * shape.heads + item.head, shape.heads);
                head.values.multiply(item.rows, {.data = scores.data(), .stride = item.keys},
                                     dims_of(item, dim), false, s.out.at(item.first_row, item.head),
                                     s.out.row_stride);
            }
        };
    };
    in_parallel(pieces.size(), worker);
}

namespace {

/// Gradients of the keys and values of one head, summed over the query blocks of one piece: [m, head_dim]
/// each.
struct KeyValueSums {
    std::size_t sequence = 0;
    std::int64_t head = -1;
    std::vector<float> dk, dv;
};

/// Eight sums in parallel: in a single one each addition would have to wait for the one before it.
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
                    const AttentionShape& shape, const HeadBackwardFactors& head, std::vector<float>& scores,
                    std::vector<float>& dp, KeyValueSums& sums) {
    const std::int64_t dim = shape.head_dim;
    float delta[kBlockRows];
    for (std::int64_t r = 0; r < item.rows; ++r) {
        delta[r] =
            dot(s.out.at(item.first_row + r, item.head), g.d_out.at(item.first_row + r, item.head), dim);
    }
    const MatrixView q = view(s.q, item.first_row, item.head),
                     d_out = view(g.d_out, item.first_row, item.head);
    head.keys_t.multiply(item.rows, q, keys_of(item, dim), false, scores.data(), item.keys);
    head.values_t.multiply(item.rows, d_out, keys_of(item, dim), false, dp.data(), item.keys);
    kernels::cpu::attention_softmax_backward(
        scores.data(), dp.data(), item.rows, item.keys, item.keys, rule_of(shape), item.visible,
        s.logsumexp + item.first_row * shape.heads + item.head, shape.heads, delta, 1);
    const MatrixView p = {.data = scores.data(), .stride = item.keys, .transposed = true};
    const MatrixView ds = {.data = dp.data(), .stride = item.keys, .transposed = true};
    block_product(item.keys, dim, item.rows, p, d_out, true, sums.dv.data() + item.first_key * dim, dim);
    block_product(item.keys, dim, item.rows, ds, q, true, sums.dk.data() + item.first_key * dim, dim);
    head.keys.multiply(item.rows, {.data = dp.data(), .stride = item.keys}, dims_of(item, dim), false,
                       g.dq.at(item.first_row, item.head), g.dq.row_stride);
}

/// Sums each head's part into the keys and values it shares, in the order of the pieces.
void add_to_shared_heads(const std::vector<KeyValueSums>& pieces,
                         const std::vector<AttentionSequence>& sequences,
                         const std::vector<AttentionGradients>& gradients, const AttentionShape& shape) {
    std::int64_t longest = 0;
    for (const AttentionSequence& s : sequences) longest = std::max(longest, s.m);
    at::parallel_for(0, longest, 32, [&](std::int64_t begin, std::int64_t end) {
        for (std::size_t s = 0; s < sequences.size(); ++s) {
            for (std::int64_t row = begin; row < std::min(end, sequences[s].m); ++row) {
                for (std::int64_t head = 0; head < shape.kv_heads; ++head) {
                    std::fill_n(gradients[s].dk.at(row, head), shape.head_dim, 0.0F);
                    std::fill_n(gradients[s].dv.at(row, head), shape.head_dim, 0.0F);
                }
            }
        }
        for (const KeyValueSums& sums : pieces) {
            const AttentionGradients& g = gradients[sums.sequence];
            const std::int64_t kv_head = kv_head_of(shape, sums.head);
            for (std::int64_t row = begin; row < std::min(end, sequences[sums.sequence].m); ++row) {
                const std::size_t from = static_cast<std::size_t>(row * shape.head_dim);
                float *dk = g.dk.at(row, kv_head), *dv = g.dv.at(row, kv_head);
                for (std::int64_t c = 0; c < shape.head_dim; ++c) {
                    dk[c] += sums.dk[from + static_cast<std::size_t>(c)];
                    dv[c] += sums.dv[from + static_cast<std::size_t>(c)];
                }
            }
        }
    });
}

}  // namespace

void attention_backward(const std::vector<AttentionSequence>& sequences,
                        const std::vector<AttentionGradients>& gradients, const AttentionShape& shape) {
    const std::vector<Item> items = items_of(sequences, shape);
    const std::vector<Piece> pieces = pieces_of(items, sequences);
    const auto largest = static_cast<std::size_t>(largest_block(items));
    std::vector<KeyValueSums> sums(pieces.size());
    const auto worker = [&] {
        return [&, last = LastFactors<HeadBackwardFactors>(), scores = std::vector<float>(largest),
                dp = std::vector<float>(largest)](std::size_t piece) mutable {
            const Item& first = items[pieces[piece].begin];
            const AttentionSequence& s = sequences[first.sequence];
            const auto size = static_cast<std::size_t>(s.m * shape.head_dim);
            sums[piece] = {first.sequence, first.head, std::vector<float>(size), std::vector<float>(size)};
            for (std::size_t i = pieces[piece].begin; i < pieces[piece].end; ++i) {
                backward_block(items[i], s, gradients[first.sequence], shape, last.of(s, shape, first.head),
                               scores, dp, sums[piece]);
            }
        };
    };
    in_parallel(pieces.size(), worker);
    add_to_shared_heads(sums, sequences, gradients, shape);
}

}  // namespace qlora::ops::in_fp32
