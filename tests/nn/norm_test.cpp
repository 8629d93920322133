#include "qlora/nn/norm.h"

#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

namespace qlora::nn {
namespace {

TEST(Norm, an_offset_adds_one_to_the_stored_weight) {
    Norm norm("norm", 6, {.kind = kernels::NormKind::kRmsLate, .offset = true});
    const at::Tensor stored = at::randn({6}).to(at::kBFloat16);
    norm.set_weight(stored);
    EXPECT_TRUE(norm.weight().equal(stored.to(at::kFloat)));
    EXPECT_TRUE(norm.used().weight.equal(stored.to(at::kFloat) + 1));
    EXPECT_TRUE(norm.used().weight.is_same(norm.used().weight)) << "made once";

    norm.train_whole_module();
    norm.forward(at::randn({3, 6})).sum().backward();
    EXPECT_TRUE(norm.weight().grad().any().item<bool>()) << "the gradient is that of the stored weight";
    norm.weight().detach().add_(0.5);  // as an optimizer does
    EXPECT_TRUE(norm.used().weight.equal(stored.to(at::kFloat) + 0.5 + 1));
}

TEST(Norm, weights_that_no_kernel_rounds_are_held_as_the_compute_dtype_has_them) {
    const at::Tensor stored = at::randn({64}), rounded = stored.to(at::kBFloat16).to(at::kFloat);
    Norm late("norm", 64, {.kind = kernels::NormKind::kRmsLate}), early("norm", 64, {});
    late.set_weight(stored, at::kBFloat16);
    early.set_weight(stored, at::kBFloat16);
    EXPECT_TRUE(late.used().weight.equal(rounded));
    EXPECT_TRUE(early.used().weight.equal(stored));
    Norm layer("norm", 64, {.kind = kernels::NormKind::kLayer, .bias = true});
    layer.set_weight(stored, at::kBFloat16);
    layer.set_bias(stored, at::kBFloat16);
    EXPECT_TRUE(layer.used().weight.equal(rounded));
    EXPECT_TRUE(layer.used().bias.equal(rounded));
}

TEST(Norm, weight_and_bias_of_a_layer_norm_are_trained_together) {
    Norm norm("norm", 6, {.kind = kernels::NormKind::kLayer, .bias = true});
    EXPECT_TRUE(norm.has_bias());
    norm.set_weight(at::randn({6}));
    norm.set_bias(at::randn({6}).to(at::kHalf));
    EXPECT_EQ(norm.bias().scalar_type(), at::kFloat);
    norm.train_whole_module();
    norm.forward(at::randn({3, 6})).pow(2).sum().backward();
    EXPECT_TRUE(norm.weight().grad().any().item<bool>());
    EXPECT_TRUE(norm.bias().grad().any().item<bool>());
}

}  // namespace
}  // namespace qlora::nn
