#include "cpu_head.h"
#include "head_low_rank.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "qlora/kernels/elementwise.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops {
namespace {

/// Calls f(rows of the head in fp32, first row, rows) for each panel.
template <class F>
void for_each_head_panel(const FrozenWeight& head, F&& f) {
    const std::int64_t total = head.out_features();
    const std::int64_t rows = std::max<std::int64_t>(256, kHeadPanelBytes / (4 * head.in_features()));
    for (std::int64_t first = 0; first < total; first += rows) {
        const std::int64_t count = std::min(rows, total - first);
        f(head.dense_rows(first, count), first, count);
    }
}

at::Tensor chunk_buffer(std::int64_t rows, const FrozenWeight& head) {
    return empty_left_factor(std::min(rows, logits_rows(head.out_features())), head.out_features());
}

/// Calls f(first row, rows) for each chunk of rows.
template <class F>
void for_each_chunk_of_rows(std::int64_t rows, const FrozenWeight& head, F&& f) {
    const std::int64_t chunk = logits_rows(head.out_features());
    for (std::int64_t first = 0; first < rows; first += chunk) f(first, std::min(chunk, rows - first));
}

}  // namespace

double sum_of_rows(const at::Tensor& logits, const at::Tensor& targets,
                   const std::function<void(float*, const std::int64_t*, double*)>& row) {
    float* data = logits.mutable_data_ptr<float>();
    const std::int64_t* target = targets.const_data_ptr<std::int64_t>();
    const std::int64_t stride = logits.stride(0);
    std::vector<double> losses(static_cast<std::size_t>(logits.size(0)));
    at::parallel_for(0, logits.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) row(data + i * stride, target + i, losses.data() + i);
    });
    return std::accumulate(losses.begin(), losses.end(), 0.0);
}

/// Into the first rows of `buffer` [.., V].
at::Tensor CpuHead::products_into(const at::Tensor& hidden, const at::Tensor& buffer) const {
    const at::Tensor wide = fp32(hidden);
    const LibTorchSums sums(hidden.scalar_type() != at::kFloat);
    const at::Tensor logits = buffer.narrow(0, 0, hidden.size(0));
    for_each_head_panel(head_, [&](const at::Tensor& panel, std::int64_t first, std::int64_t count) {
        at::Tensor columns = logits.narrow(1, first, count);
        product(wide, {.b = panel.t(), .out = columns});
        if (rule_.bias.defined()) columns.add_(fp32(rule_.bias.narrow(0, first, count)));
    });
    return logits;
}

HeadLoss CpuHead::loss(const at::Tensor& hidden, const at::Tensor& targets, WantedGradients wanted) const {
    const LibTorchSums sums(hidden.scalar_type() != at::kFloat);
    HeadLoss result;
    double loss = 0.0;
    const std::int64_t rows = hidden.size(0);
    if (wanted.hidden) result.gradient_hidden = at::empty_like(hidden);
    if (wanted.head)
        result.gradient_head = at::zeros({head_.out_features(), head_.in_features()}, at::kFloat);
    const at::Tensor buffer = chunk_buffer(rows, head_);
    std::optional<HeadLowRank> low_rank = low_rank_of(rule_, hidden);
    for_each_chunk_of_rows(rows, head_, [&](std::int64_t begin, std::int64_t n) {
        const at::Tensor logits = products_into(hidden.narrow(0, begin, n), buffer);
        if (low_rank) low_rank->add_to(logits, begin);
        loss += softmax(logits, targets.narrow(0, begin, n), wanted.any());
        if (wanted.low_rank) low_rank->take_gradient(logits, begin);
        if (wanted.hidden) {
            at::Tensor gradient = at::empty({n, hidden.size(1)}, at::kFloat);
            for_each_head_panel(head_, [&](const at::Tensor& panel, std::int64_t first, std::int64_t count) {
                product(logits.narrow(1, first, count),
                        {.b = panel, .out = gradient, .start = first == 0 ? at::Tensor() : gradient});
            });
            result.gradient_hidden.narrow(0, begin, n).copy_(gradient);
        }
        if (wanted.head) {
            const at::Tensor& sum = result.gradient_head;
            product(logits.t(), {.b = fp32(hidden.narrow(0, begin, n)), .out = sum, .start = sum});
        }
    });
    if (wanted.low_rank) low_rank->finish(result);
    result.loss = at::scalar_tensor(loss, at::TensorOptions().dtype(at::kFloat));
    return result;
}

at::Tensor CpuHead::logits(const at::Tensor& hidden) const {
    const std::optional<HeadLowRank> low_rank = low_rank_of(rule_, hidden);
    if (hidden.size(0) <= kFewRows) {
        at::Tensor few = head_.multiply_few(fp32(hidden));
        if (few.defined()) {
            if (rule_.bias.defined()) few.add_(fp32(rule_.bias));
            if (low_rank) low_rank->add_to(few, 0);
            finish(few);
            return few;
        }
    }
    const at::Tensor logits =
        products_into(hidden, at::empty({hidden.size(0), head_.out_features()}, at::kFloat));
    if (low_rank) low_rank->add_to(logits, 0);
    finish(logits);
    return logits;
}

TokenScores CpuHead::score(const at::Tensor& hidden, const at::Tensor& targets) const {
    const std::int64_t rows = hidden.size(0), vocabulary = head_.out_features();
    TokenScores scores{.logprobs = at::empty({rows}, at::kFloat), .correct = at::empty({rows}, at::kBool)};
    float* logprobs = scores.logprobs.mutable_data_ptr<float>();
    bool* correct = scores.correct.mutable_data_ptr<bool>();
    const std::int64_t* target = targets.const_data_ptr<std::int64_t>();
    const at::Tensor buffer = chunk_buffer(rows, head_);
    const std::optional<HeadLowRank> low_rank = low_rank_of(rule_, hidden);
    for_each_chunk_of_rows(rows, head_, [&](std::int64_t first, std::int64_t n) {
        const at::Tensor logits = products_into(hidden.narrow(0, first, n), buffer);
        if (low_rank) low_rank->add_to(logits, first);
        finish(logits);
        const float* data = logits.const_data_ptr<float>();
        const std::int64_t stride = logits.stride(0);
        at::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = begin; row < end; ++row) {
                kernels::cpu::score_rows(data + row * stride, target + first + row, 1, vocabulary,
                                         logprobs + first + row, correct + first + row);
            }
        });
    });
    return scores;
}

}  // namespace qlora::ops
