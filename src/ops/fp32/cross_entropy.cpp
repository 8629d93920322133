#include <ATen/Parallel.h>

#include <vector>

#include "../cpu_head.h"
#include "qlora/kernels/elementwise.h"

namespace qlora::ops::in_fp32 {
namespace {

namespace cpu = kernels::cpu;

class Fp32Head final : public CpuHead {
  public:
    using CpuHead::CpuHead;

  private:
    void finish(const at::Tensor& logits) const override {
        const kernels::LogitCurve curve = rule().curve();
        if (curve.is_identity()) return;
        float* data = logits.mutable_data_ptr<float>();
        const std::int64_t stride = logits.stride(0), vocabulary = logits.size(1);
        at::parallel_for(0, logits.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = begin; row < end; ++row) {
                cpu::curve_logits(data + row * stride, vocabulary, curve, nullptr);
            }
        });
    }

    double softmax(const at::Tensor& logits, const at::Tensor& targets, bool wants_gradient) const override {
        const std::int64_t vocabulary = logits.size(1);
        const kernels::LogitCurve curve = rule().curve();
        if (curve.is_identity()) {
            return sum_of_rows(logits, targets, [&](float* row, const std::int64_t* target, double* loss) {
                cpu::softmax_cross_entropy(row, target, 1, vocabulary, loss);
            });
        }
        const bool keeps_tanhs = wants_gradient && curve.softcap != 0.0F;
        return sum_of_rows(logits, targets, [&](float* row, const std::int64_t* target, double* loss) {
            // A row and its tangents stay in the cache from the first loop to the last.
            thread_local std::vector<float> tanhs;
            if (keeps_tanhs) tanhs.resize(static_cast<std::size_t>(vocabulary));
            float* kept = keeps_tanhs ? tanhs.data() : nullptr;
            cpu::curve_logits(row, vocabulary, curve, kept);
            cpu::softmax_cross_entropy(row, target, 1, vocabulary, loss);
            if (wants_gradient) cpu::curve_gradients(row, kept, vocabulary, curve);
        });
    }
};

}  // namespace

HeadLoss head_loss(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                   const LogitRule& rule, WantedGradients wanted) {
    return Fp32Head(head, rule).loss(hidden, targets, wanted);
}

at::Tensor head_logits(const at::Tensor& hidden, const FrozenWeight& head, const LogitRule& rule) {
    return Fp32Head(head, rule).logits(hidden);
}

TokenScores score_tokens(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                         const LogitRule& rule) {
    return Fp32Head(head, rule).score(hidden, targets);
}

}  // namespace qlora::ops::in_fp32
