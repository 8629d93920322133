#include "qlora/ops/recompute.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/silu.h>

#include "ops/linears.h"
#include "ops/reference.h"
#include "qlora/ops/norm.h"

namespace qlora::ops {
namespace {

using namespace test;

constexpr std::int64_t kLayerSize = 33, kLayerRank = 4;

/// Two layers of norm, adapter with dropout, activation and residual; run plainly or recomputed in backward.
struct Stack {
    std::vector<DenseWeight> weights;
    std::vector<at::Tensor> a, b, norms;
    int runs = 0;  // of a layer's forward pass

    Stack() {
        for (std::uint64_t layer = 0; layer < 2; ++layer) {
            weights.emplace_back(gaussian({kLayerSize, kLayerSize}, 10 + layer) * 0.2);
            a.push_back((gaussian({kLayerRank, kLayerSize}, 20 + layer) * 0.2).requires_grad_());
            b.push_back((gaussian({kLayerSize, kLayerRank}, 30 + layer) * 0.2).requires_grad_());
            norms.push_back(gaussian({kLayerSize}, 40 + layer).requires_grad_());
        }
    }
    at::Tensor layer(std::size_t i, const at::Tensor& x) {
        ++runs;
        const DropoutSite site{.p = 0.25, .seed = 5, .step = 6, .site = static_cast<std::uint32_t>(i)};
        const at::Tensor y = lora_linear(normed(x, {.weight = norms[i], .bias = {}, .eps = 1e-5}), weights[i],
                                         at::Tensor(), a[i], b[i], 2.0, site);
        return x + at::silu(y) * x;
    }
    at::Tensor forward(at::Tensor x, bool recomputes) {
        for (std::size_t i = 0; i < 2; ++i) {
            const auto segment = [this, i](const at::Tensor& in) { return layer(i, in); };
            x = recomputes ? recomputed(segment, x) : segment(x);
        }
        return x;
    }
    std::vector<at::Tensor> gradients(const at::Tensor& input, bool recomputes, at::Tensor* output) {
        for (auto* list : {&a, &b, &norms}) {
            for (at::Tensor& tensor : *list) tensor.mutable_grad() = at::Tensor();
        }
        const at::Tensor x = input.clone().requires_grad_();
        *output = forward(x, recomputes);
        torch::autograd::backward({*output}, {gaussian(input.sizes(), 77).to(input.scalar_type())});
        return {x.grad(),    a[0].grad(),     a[1].grad(),    b[0].grad(),
                b[1].grad(), norms[0].grad(), norms[1].grad()};
    }
};

TEST(Recomputed, output_and_every_gradient_are_bit_equal_with_dropout) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const at::Tensor x = gaussian({21, kLayerSize}, 1).to(dtype);
        Stack stack;
        at::Tensor plain_output, output;
        const std::vector<at::Tensor> plain = stack.gradients(x, false, &plain_output);
        EXPECT_EQ(stack.runs, 2);
        const std::vector<at::Tensor> again = stack.gradients(x, true, &output);
        EXPECT_EQ(stack.runs, 2 + 4) << "each layer runs again in backward";
        EXPECT_TRUE(output.equal(plain_output));
        for (std::size_t i = 0; i < plain.size(); ++i) {
            ASSERT_TRUE(again[i].defined());
            EXPECT_TRUE(again[i].equal(plain[i])) << "gradient " << i;
        }
    }
}

TEST(Recomputed, refuses_an_input_whose_segment_would_get_no_gradient) {
    Stack stack;
    const at::Tensor x = gaussian({3, kLayerSize}, 1);
    EXPECT_THROW(stack.forward(x, true), c10::Error);
}

TEST(Recomputed, runs_the_segment_once_without_gradients) {
    Stack stack;
    const at::AutoGradMode off(false);
    const at::Tensor x = gaussian({3, kLayerSize}, 1);
    EXPECT_TRUE(stack.forward(x, true).equal(stack.forward(x, false)));
    EXPECT_EQ(stack.runs, 4);
}

/// Each layer reads a part of what one node made: backward passes through that node once.
TEST(Recomputed, further_inputs_get_the_gradients_that_they_get_without) {
    const at::Tensor x = gaussian({5, kLayerSize}, 1), factor = gaussian({2, kLayerSize}, 2);
    std::vector<at::Tensor> of_x, of_factor;
    for (const bool recomputes : {false, true}) {
        Stack stack;
        at::Tensor hidden = x.clone().requires_grad_();
        const at::Tensor entered = hidden, parameter = factor.clone().requires_grad_();
        const std::vector<at::Tensor> parts = parameter.sin().unbind(0);
        for (std::size_t i = 0; i < 2; ++i) {
            const auto segment = [&, i](const at::Tensor& in, const at::Tensor& further) {
                return stack.layer(i, in * further);
            };
            hidden = recomputes ? recomputed(segment, hidden, parts[i]) : segment(hidden, parts[i]);
        }
        hidden.backward(gaussian(x.sizes(), 3));
        of_x.push_back(entered.grad());
        of_factor.push_back(parameter.grad());
    }
    EXPECT_TRUE(of_x[1].equal(of_x[0]));
    EXPECT_TRUE(of_factor[1].equal(of_factor[0]));
    EXPECT_TRUE(of_factor[0].any().item<bool>());
}

TEST(Recomputed, keeps_nothing_but_its_input) {
    Stack stack;
    const at::Tensor x = gaussian({3, kLayerSize}, 1).requires_grad_();
    at::Tensor inner;
    const auto segment = [&](const at::Tensor& in) {
        at::Tensor y = stack.layer(0, in);
        if (!inner.defined()) inner = y;  // of the first pass
        return y * 2;
    };
    const at::Tensor y = recomputed(segment, x);
    EXPECT_FALSE(inner.requires_grad()) << "the first pass must record no graph";
    EXPECT_EQ(inner.use_count(), 1U);
}

}  // namespace
}  // namespace qlora::ops
