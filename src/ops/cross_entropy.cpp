#include "qlora/ops/cross_entropy.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "head_loss.h"
#include "qlora/kernels/elementwise.h"
#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
namespace cpu = kernels::cpu;

/// Calls f(rows of the head in fp32, first row, rows) for each panel.
template <class F>
void for_each_panel(const FrozenWeight& head, F&& f) {
    const std::int64_t total = head.out_features();
    const std::int64_t rows = std::max<std::int64_t>(256, kHeadPanelBytes / (4 * head.in_features()));
    for (std::int64_t first = 0; first < total; first += rows) {
        const std::int64_t count = std::min(rows, total - first);
        f(head.dense_rows(first, count), first, count);
    }
}

/// Logits of hidden [n, d] into the first rows of `buffer` [.., V], rounded to hidden's dtype.
at::Tensor logits_into(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& buffer) {
    const at::Tensor wide = fp32(hidden);
    const LibTorchSums sums(hidden.scalar_type() != at::kFloat);
    at::Tensor logits = buffer.narrow(0, 0, hidden.size(0));
    for_each_panel(head, [&](const at::Tensor& panel, std::int64_t first, std::int64_t count) {
        product(wide, {.b = panel.t(), .out = logits.narrow(1, first, count)});
    });
    if (hidden.scalar_type() != at::kFloat) logits.copy_(logits.to(hidden.scalar_type()));
    return logits;
}

at::Tensor chunk_buffer(std::int64_t rows, const FrozenWeight& head) {
    return empty_left_factor(std::min(rows, logits_rows(head.out_features())), head.out_features());
}

/// Calls f(first row, rows) for each chunk of rows.
template <class F>
void for_each_chunk(std::int64_t rows, const FrozenWeight& head, F&& f) {
    const std::int64_t chunk = logits_rows(head.out_features());
    for (std::int64_t first = 0; first < rows; first += chunk) f(first, std::min(chunk, rows - first));
}

/// Turns a chunk's logits [n, V] into softmax - onehot in place and returns the sum of its losses.
double softmax_minus_onehot_(at::Tensor& logits, const at::Tensor& targets) {
    const std::int64_t n = logits.size(0), vocabulary = logits.size(1);
    float* data = logits.mutable_data_ptr<float>();
    const std::int64_t* target = targets.const_data_ptr<std::int64_t>();
    const std::int64_t stride = logits.stride(0);
    std::vector<double> losses(static_cast<std::size_t>(n));
    at::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            cpu::softmax_cross_entropy(data + row * stride, target + row, 1, vocabulary, losses.data() + row);
        }
    });
    return std::accumulate(losses.begin(), losses.end(), 0.0);
}

at::Tensor scalar_of(double value) {
    return at::scalar_tensor(value, at::TensorOptions().dtype(at::kFloat));
}

HeadLoss head_loss(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                   WantedGradients wanted) {
    if (device_kernels(hidden) != nullptr) return device_head_loss(hidden, head, targets, wanted);
    const LibTorchSums sums(hidden.scalar_type() != at::kFloat);
    HeadLoss result;
    double loss = 0.0;
    const std::int64_t rows = hidden.size(0);
    if (wanted.hidden) result.gradient_hidden = at::empty_like(hidden);
    if (wanted.head) result.gradient_head = at::zeros({head.out_features(), head.in_features()}, at::kFloat);
    const at::Tensor buffer = chunk_buffer(rows, head);
    for_each_chunk(rows, head, [&](std::int64_t begin, std::int64_t n) {
        at::Tensor logits = logits_into(hidden.narrow(0, begin, n), head, buffer);
        loss += softmax_minus_onehot_(logits, targets.narrow(0, begin, n));
        if (!wanted.hidden && !wanted.head) return;
        // The gradient of bf16 logits is bf16, as autograd's would be.
        if (hidden.scalar_type() != at::kFloat) logits.copy_(logits.to(hidden.scalar_type()));
        if (wanted.hidden) {
            at::Tensor gradient = at::empty({n, hidden.size(1)}, at::kFloat);
            for_each_panel(head, [&](const at::Tensor& panel, std::int64_t first, std::int64_t count) {
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
    result.loss = scalar_of(loss);
    return result;
}

struct LinearCrossEntropy : Function<LinearCrossEntropy> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& targets,
                              const FrozenWeight* head, bool want_gradient) {
        const HeadLoss result = head_loss(hidden, *head, targets, {.hidden = want_gradient});
        ctx->save_for_backward({result.gradient_hidden});
        return result.loss;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        return {(saved[0] * grads[0]).to(saved[0].scalar_type()), at::Tensor(), at::Tensor(), at::Tensor()};
    }
};

struct TrainableCrossEntropy : Function<TrainableCrossEntropy> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& head,
                              const at::Tensor& targets, bool want_hidden, bool want_head) {
        const HeadLoss result =
            head_loss(hidden, TrainedHead(head), targets, {.hidden = want_hidden, .head = want_head});
        ctx->save_for_backward({result.gradient_hidden, result.gradient_head});
        return result.loss;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        at::Tensor gradient_hidden, gradient_head;
        if (saved[0].defined()) gradient_hidden = (saved[0] * grads[0]).to(saved[0].scalar_type());
        if (saved[1].defined()) gradient_head = saved[1] * grads[0];
        return {gradient_hidden, gradient_head, at::Tensor(), at::Tensor(), at::Tensor()};
    }
};

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const FrozenWeight& head,
                                const at::Tensor& targets) {
    const bool want_gradient = at::GradMode::is_enabled() && hidden.requires_grad();
    return LinearCrossEntropy::apply(hidden, targets, &head, want_gradient);
}

at::Tensor trainable_linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head,
                                          const at::Tensor& targets) {
    const bool on = at::GradMode::is_enabled();
    return TrainableCrossEntropy::apply(hidden, head, targets, on && hidden.requires_grad(),
                                        on && head.requires_grad());
}

at::Tensor head_logits(const at::Tensor& hidden, const FrozenWeight& head) {
    const at::AutoGradMode no_gradients(false);
    if (device_kernels(hidden) != nullptr) return device_logits(hidden, head).to(at::kFloat);
    if (hidden.size(0) <= kFewRows) {
        const at::Tensor logits = head.multiply_few(fp32(hidden));
        if (logits.defined()) return logits.to(hidden.scalar_type()).to(at::kFloat);
    }
    return logits_into(hidden, head, at::empty({hidden.size(0), head.out_features()}, at::kFloat));
}

TokenScores score_tokens(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets) {
    const at::AutoGradMode no_gradients(false);
    if (device_kernels(hidden) != nullptr) return device_score_tokens(hidden, head, targets);
    const std::int64_t rows = hidden.size(0), vocabulary = head.out_features();
    TokenScores scores{.logprobs = at::empty({rows}, at::kFloat), .correct = at::empty({rows}, at::kBool)};
    float* logprobs = scores.logprobs.mutable_data_ptr<float>();
    bool* correct = scores.correct.mutable_data_ptr<bool>();
    const std::int64_t* target = targets.const_data_ptr<std::int64_t>();
    const at::Tensor buffer = chunk_buffer(rows, head);
    for_each_chunk(rows, head, [&](std::int64_t first, std::int64_t n) {
        const at::Tensor logits = logits_into(hidden.narrow(0, first, n), head, buffer);
        const float* data = logits.const_data_ptr<float>();
        const std::int64_t stride = logits.stride(0);
        at::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = begin; row < end; ++row) {
                cpu::score_rows(data + row * stride, target + first + row, 1, vocabulary,
                                logprobs + first + row, correct + first + row);
            }
        });
    });
    return scores;
}

}  // namespace qlora::ops
