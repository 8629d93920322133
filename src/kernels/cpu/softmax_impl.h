#pragma once

#include <cmath>

#include "qlora/kernels/tanh_math.h"
#include "vector_exp.h"

namespace qlora::kernels::cpu::QLORA_PATH {

inline constexpr float kNoScore = -__builtin_inff();

/// sum = sum over the row of e^(x - max).
struct ExpSum {
    float max;
    double sum;
};

/// A row in blocks that stay in the first cache, at most kMostBlocks of them.
inline constexpr int64_t kMostBlocks = 256;

QLORA_LANES_INLINE int64_t block_size(int64_t size) {
    constexpr int64_t kBlock = 1024;
    return size <= kBlock * kMostBlocks ? kBlock : (size + kMostBlocks - 1) / kMostBlocks;
}

/// -infinity minus -infinity would be NaN: before the first finite value of a row nothing is subtracted.
QLORA_LANES_INLINE Floats shift_by(float max) {
    return all<Floats>(max == kNoScore ? 0.0f : max);
}

/// One pass over memory: visit(begin, count, max so far) gives a block's sum of e^(x - max), and what was
/// summed before is scaled down when the maximum grows. Pairs are added in fp32 and all else in double, so an
/// error of 2^-24 joins those of x - max and of the exponential. NaN in the row makes the sum NaN.
template <class Visit>
QLORA_LANES_INLINE ExpSum exp_sum(const float* row, int64_t size, Visit visit) {
    ExpSum found = {kNoScore, 0.0};
    const int64_t block = block_size(size);
    for (int64_t begin = 0; begin < size; begin += block) {
        const int64_t count = size - begin < block ? size - begin : block;
        const float block_max = largest_of_row(
            count, [&](auto place)
                       __attribute__((always_inline)) { return load(row + begin, place, kNoScore); });
        if (block_max > found.max) {
            found.sum *= std::exp(static_cast<double>(found.max) - static_cast<double>(block_max));
            found.max = block_max;
        }
        found.sum += visit(begin, count, found.max);
    }
    return found;
}

static void softmax_cross_entropy(float* logits, const int64_t* targets, int64_t rows, int64_t columns,
                                  double* losses) {
    const int64_t block = block_size(columns);
    for (int64_t row = 0; row < rows; ++row, logits += columns) {
        const double score = logits[targets[row]];
        // The exponentials stay in place of the logits, each block's by the maximum known then.
        float block_max[kMostBlocks];
        const ExpSum found = exp_sum(
            logits, columns, [&](int64_t begin, int64_t count, float max) __attribute__((always_inline)) {
                block_max[begin / block] = max;
                const Floats shift = shift_by(max);
                return sum_row(
                    count, [&](auto place) __attribute__((always_inline)) {
                        const Floats e = exp_nonpositive(load(logits + begin, place, kNoScore) - shift);
                        store(logits + begin, place, e);
                        return e;
                    });
            });
        losses[row] = std::log(found.sum) + (static_cast<double>(found.max) - score);
        for (int64_t begin = 0; begin < columns; begin += block) {
            const int64_t count = columns - begin < block ? columns - begin : block;
            const double fade =
                static_cast<double>(block_max[begin / block]) - static_cast<double>(found.max);
            const Floats scale = all<Floats>(static_cast<float>(std::exp(fade) / found.sum));
            walk(
                count, [&](auto place) __attribute__((always_inline)) {
                    store(logits + begin, place, load(logits + begin, place) * scale);
                });
        }
        logits[targets[row]] -= 1.0f;
    }
}

static bool is_first_of_its_value(const float* row, int64_t column) {
    for (int64_t i = 0; i < column; ++i) {
        if (row[i] == row[column]) return false;
    }
    return true;
}

static void score_rows(const float* logits, const int64_t* targets, int64_t rows, int64_t columns,
                       float* logprobs, bool* correct) {
    for (int64_t row = 0; row < rows; ++row, logits += columns) {
        const ExpSum found = exp_sum(
            logits, columns, [&](int64_t begin, int64_t count, float max) __attribute__((always_inline)) {
                const Floats shift = shift_by(max);
                return sum_row(
                    count, [&](auto place) __attribute__((always_inline)) {
                        return exp_nonpositive(load(logits + begin, place, kNoScore) - shift);
                    });
            });
        const float score = logits[targets[row]];
        logprobs[row] = static_cast<float>((static_cast<double>(score) - static_cast<double>(found.max)) -
                                           std::log(found.sum));
        const bool is_largest = score == found.max && found.sum == found.sum;  // no NaN in the row
        correct[row] = is_largest && is_first_of_its_value(logits, targets[row]);
    }
}

/// Columns [first, last) that a row sees.
struct ColumnRange {
    int64_t first, last;
};

QLORA_LANES_INLINE ColumnRange columns_of(VisibleColumns visible, int64_t row) {
    const int64_t last = visible.limit + row;
    return {visible.window == 0 || last < visible.window ? 0 : last - visible.window, last};
}

static void clear_outside(float* row, ColumnRange range, int64_t columns) {
    __builtin_memset(row, 0, static_cast<size_t>(range.first) * sizeof(float));
    __builtin_memset(row + range.last, 0, static_cast<size_t>(columns - range.last) * sizeof(float));
}

static void attention_softmax(float* scores, int64_t rows, int64_t columns, int64_t stride, ScoreRule rule,
                              VisibleColumns visible, float* logsumexp, int64_t logsumexp_stride) {
    const bool capped = rule.softcap != 0.0f;
    const Floats factor = all<Floats>(capped ? 1.0f : rule.scale), cap = all<Floats>(rule.softcap);
    const Floats share = all<Floats>(capped ? rule.scale / rule.softcap : 0.0f);
    for (int64_t row = 0; row < rows; ++row, scores += stride) {
        const ColumnRange range = columns_of(visible, row);
        float* seen = scores + range.first;
        const int64_t count = range.last - range.first;
        if (capped) {
            walk(
                count, [&](auto place) __attribute__((always_inline)) {
                    store(seen, place, cap * tanh_lanes<RowLanes>(load(seen, place) * share));
                });
        }
        const auto scaled = [&](auto place) __attribute__((always_inline)) {
            return padded(load(seen, place) * factor, place, kNoScore);
        };
        const float max = largest_of_row(count, scaled);
        const Floats shift = shift_by(max);
        const double sum = sum_row(
            count, [&](auto place) __attribute__((always_inline)) {
                const Floats e = exp_nonpositive(scaled(place) - shift);
                store(seen, place, e);
                return e;
            });
        const Floats inverse = all<Floats>(static_cast<float>(1.0 / sum));
        walk(
            count, [&](auto place)
                       __attribute__((always_inline)) { store(seen, place, load(seen, place) * inverse); });
        logsumexp[row * logsumexp_stride] = static_cast<float>(static_cast<double>(max) + std::log(sum));
        clear_outside(scores, range, columns);
    }
}

static void attention_softmax_backward(float* scores, float* dp, int64_t rows, int64_t columns,
                                       int64_t stride, ScoreRule rule, VisibleColumns visible,
                                       const float* logsumexp, int64_t logsumexp_stride, const float* delta,
                                       int64_t delta_stride) {
    const bool capped = rule.softcap != 0.0f;
    const Floats factor = all<Floats>(rule.scale), cap = all<Floats>(rule.softcap);
    const Floats share = all<Floats>(capped ? rule.scale / rule.softcap : 0.0f);
    const Floats one = all<Floats>(1.0f);
    for (int64_t row = 0; row < rows; ++row, scores += stride, dp += stride) {
        const ColumnRange range = columns_of(visible, row);
        const int64_t count = range.last - range.first;
        float* seen = scores + range.first;
        float* gradient = dp + range.first;
        const Floats shift = all<Floats>(logsumexp[row * logsumexp_stride]);
        const Floats mean = all<Floats>(delta[row * delta_stride]);
        if (capped) {
            walk(
                count, [&](auto place) __attribute__((always_inline)) {
                    const Floats t = tanh_lanes<RowLanes>(load(seen, place) * share);
                    const Floats p = exp_lanes(cap * t - shift);
                    store(seen, place, p);
                    store(gradient, place, factor * (one - t * t) * p * (load(gradient, place) - mean));
                });
        } else {
            walk(
                count, [&](auto place) __attribute__((always_inline)) {
                    const Floats p = exp_lanes(load(seen, place) * factor - shift);
                    store(seen, place, p);
                    store(gradient, place, factor * p * (load(gradient, place) - mean));
                });
        }
        clear_outside(scores, range, columns);
        clear_outside(dp, range, columns);
    }
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
