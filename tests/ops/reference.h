#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <functional>
#include <vector>

#include "qlora/kernels/float16.h"
#include "qlora/ops/frozen_weight.h"

namespace qlora::ops::test {

/// Largest relative error of one rounding to bf16 (8 bits of precision): half the distance of neighbours.
inline constexpr double kBf16Rounding = 0x1p-8;

/// Standard normal fp32 values that depend on the seed alone.
inline at::Tensor gaussian(at::IntArrayRef sizes, std::uint64_t seed) {
    return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed),
                     at::TensorOptions().dtype(at::kFloat));
}

/// int64 values in [0, limit).
inline at::Tensor random_ids(std::int64_t count, std::int64_t limit, std::uint64_t seed) {
    return at::randint(limit, {count}, at::make_generator<at::CPUGeneratorImpl>(seed),
                       at::TensorOptions().dtype(at::kLong));
}

class DenseWeight final : public FrozenWeight {
  public:
    explicit DenseWeight(at::Tensor value) : value_(std::move(value)) {}
    std::int64_t out_features() const override { return value_.size(0); }
    std::int64_t in_features() const override { return value_.size(1); }
    at::Tensor dense_rows(std::int64_t first, std::int64_t count) const override {
        return value_.narrow(0, first, count);
    }

  private:
    at::Tensor value_;
};

inline float round_to_bf16(float value) {
    return kernels::bf16_to_float(kernels::float_to_bf16(value));
}

/// Largest difference, as a share of the reference's largest value or of `floor` if that is larger.
inline double difference(const at::Tensor& ours, const at::Tensor& reference, double floor = 1e-30) {
    const at::Tensor exact = reference.to(at::kDouble);
    if (exact.numel() == 0) return 0.0;
    const double largest = std::max(exact.abs().max().item<double>(), floor);
    return (ours.to(at::kDouble) - exact).abs().max().item<double>() / largest;
}

/// Share of bf16 elements that differ at all; every one must be within one spacing of its own value.
inline double share_of_neighbours(const at::Tensor& ours, const at::Tensor& reference) {
    const at::Tensor exact = reference.to(at::kDouble);
    const at::Tensor gap = (ours.to(at::kDouble) - exact).abs();
    // A spacing is at most 2^-7 of the value.
    EXPECT_TRUE(gap.le(exact.abs() * 0x1p-7 + 1e-30).all().item<bool>());
    return gap.gt(0).to(at::kDouble).mean().item<double>();
}

using Operation = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

/// A forward and a backward function as one autograd node of one input.
struct Pair : torch::autograd::Function<Pair> {
    using Forward = std::function<at::Tensor(const at::Tensor& x)>;
    using Backward = std::function<at::Tensor(const at::Tensor& g, const at::Tensor& x)>;
    static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const Forward& f,
                              const Backward* b) {
        ctx->save_for_backward({x});
        ctx->saved_data["backward"] = reinterpret_cast<std::int64_t>(b);
        return f(x);
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                   const torch::autograd::variable_list& grads) {
        const auto* b = reinterpret_cast<const Backward*>(ctx->saved_data["backward"].toInt());
        return {(*b)(grads[0], ctx->get_saved_variables()[0]), at::Tensor(), at::Tensor()};
    }
};

/// Runs `ours` on fp32 inputs and `reference` on the same in fp64 (through autograd), and holds outputs and
/// the gradients of all inputs together. `bound` is a share of each tensor's largest value.
inline void expect_equal_with_gradients(const std::vector<at::Tensor>& inputs, const Operation& ours,
                                        const Operation& reference, double bound) {
    std::vector<at::Tensor> mine, exact;
    for (const at::Tensor& input : inputs) {
        mine.push_back(input.clone().requires_grad_());
        exact.push_back(input.to(at::kDouble).requires_grad_());
    }
    const at::Tensor y = ours(mine), z = reference(exact);
    ASSERT_EQ(y.sizes(), z.sizes());
    EXPECT_EQ(y.scalar_type(), at::kFloat);
    EXPECT_LE(difference(y.detach(), z.detach()), bound) << "output";
    const at::Tensor g = gaussian(y.sizes(), 99);
    const at::Tensor kept = g.clone();
    torch::autograd::backward({y}, {g});
    torch::autograd::backward({z}, {g.to(at::kDouble)});
    EXPECT_TRUE(g.equal(kept)) << "an incoming gradient was written to";
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        ASSERT_TRUE(mine[i].grad().defined()) << "input " << i;
        // Values are of order 1: a gradient that cancels to nothing leaves the noise of its terms.
        EXPECT_LE(difference(mine[i].grad(), exact[i].grad(), 0.1), bound) << "gradient of input " << i;
    }
    // A gradient with zero strides, as sum() makes it.
    for (at::Tensor& input : mine) input.mutable_grad() = at::Tensor();
    for (at::Tensor& input : exact) input.mutable_grad() = at::Tensor();
    ours(mine).sum().backward();
    reference(exact).sum().backward();
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        // Sums of terms of both signs may cancel: compare with what the terms could add up to.
        const double gap = (mine[i].grad().to(at::kDouble) - exact[i].grad()).abs().max().item<double>();
        EXPECT_LE(gap, 10 * bound * std::max(1.0, exact[i].grad().abs().max().item<double>()))
            << "sum, input " << i;
    }
}

}  // namespace qlora::ops::test
