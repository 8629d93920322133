#include "qlora/nn/linear_group.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "ops/reference.h"
#include "qlora/adapters/lora.h"
#include "qlora/io/safetensors.h"
#include "qlora/ops/decoder_nodes.h"

namespace qlora::nn {
namespace {

using ops::test::difference;
using ops::test::gaussian;

constexpr std::int64_t kIn = 96;
// Two orders of one sum of 96 fp32 products and a low-rank term.
constexpr double kBound = 2e-6;

/// Three linears of one input as q, k and v are: adapters of different ranks on the first and last, none
/// between.
struct Layer {
    explicit Layer(double dropout = 0.0, at::ScalarType compute = at::kFloat)
        : linears{Linear("q", kIn, 64, true), Linear("k", kIn, 16, false), Linear("v", kIn, 16, false)} {
        for (std::size_t i = 0; i < 3; ++i) {
            linears[i].set_weight(Weight(gaussian({linears[i].out_features(), kIn}, 10 + i) * 0.1, compute));
        }
        linears[0].set_bias(gaussian({64}, 20));
        set_adapter(0, 4, dropout);
        set_adapter(2, 7, dropout);
    }
    void set_adapter(std::size_t i, std::int64_t r, double dropout) {
        auto adapter = std::make_unique<adapters::LoraLayer>(kIn, linears[i].out_features(), r, 2.0, dropout,
                                                             static_cast<std::uint32_t>(i));
        adapter->initialize(adapters::InitLoraWeights::kRandom, 3);
        linears[i].set_adapter(std::move(adapter));
    }
    LinearGroup group() const { return LinearGroup({&linears[0], &linears[1], &linears[2]}); }
    std::vector<at::Tensor> parameters() const {
        std::vector<at::Tensor> out;
        for (const Linear& linear : linears) {
            if (linear.adapter() == nullptr) continue;
            for (const auto& [name, tensor] : linear.adapter()->parameters()) out.push_back(tensor);
        }
        return out;
    }

    mutable Linear linears[3];  // a group may move their weights
};

Weight packed(const Weight& weight, at::ScalarType compute) {
    const at::Tensor dense = weight.dense().contiguous();
    const io::TensorView view{
        "weight",
        io::DType::kF32,
        {weight.out_features(), weight.in_features()},
        std::as_bytes(std::span(dense.const_data_ptr<float>(), static_cast<std::size_t>(dense.numel())))};
    return Weight(quant::quantize(view, {}), compute);
}

struct Pass {
    at::Tensor y, gx;
    std::vector<at::Tensor> gradients;
};

Pass run(const Layer& layer, const ops::Projections& projections, at::ScalarType dtype = at::kFloat) {
    const at::Tensor x = gaussian({9, kIn}, 1).to(dtype).requires_grad_();
    for (at::Tensor parameter : layer.parameters()) parameter.mutable_grad() = at::Tensor();
    Pass pass;
    pass.y = ops::project_residual(x, at::zeros({9, 96}, dtype), projections);
    torch::autograd::backward({pass.y}, {gaussian({9, 96}, 2).to(dtype)});
    pass.gx = x.grad();
    for (const at::Tensor& parameter : layer.parameters()) pass.gradients.push_back(parameter.grad());
    return pass;
}

void expect_close(const Pass& a, const Pass& b, double bound) {
    EXPECT_LE(difference(a.y, b.y.detach()), bound);
    EXPECT_LE(difference(a.gx, b.gx), bound);
    ASSERT_EQ(a.gradients.size(), b.gradients.size());
    for (std::size_t i = 0; i < a.gradients.size(); ++i) {
        EXPECT_LE(difference(a.gradients[i], b.gradients[i]), bound) << "parameter " << i;
    }
}

/// The same parts as separate products.
ops::Projections apart(const LinearGroup& group, const ForwardContext& context = {}) {
    ops::Projections projections = group.projections(context);
    projections.weights = ops::Apart{};
    return projections;
}

const ops::Stacked& stacked(const ops::Projections& projections) {
    return std::get<ops::Stacked>(projections.weights);
}

TEST(LinearGroup, one_folded_product_equals_separate_ones) {
    const Layer layer;
    const LinearGroup group = layer.group();
    const ops::Projections projections = group.projections({});
    ASSERT_TRUE(stacked(projections).folded);
    expect_close(run(layer, projections), run(layer, apart(group)), kBound);
}

TEST(LinearGroup, a_kept_matrix_gives_the_bits_of_a_fresh_one) {
    const Layer layer;
    const LinearGroup fresh = layer.group();
    LinearGroup kept = layer.group();
    kept.keep_dense(true);
    const Pass a = run(layer, fresh.projections({}));
    for (int pass = 0; pass < 2; ++pass) {
        const Pass b = run(layer, kept.projections({}));
        EXPECT_TRUE(a.y.equal(b.y));
        EXPECT_TRUE(a.gx.equal(b.gx));
        for (std::size_t i = 0; i < a.gradients.size(); ++i)
            EXPECT_TRUE(a.gradients[i].equal(b.gradients[i]));
    }
    EXPECT_EQ(stacked(kept.projections({})).matrix().data_ptr(),
              stacked(kept.projections({})).matrix().data_ptr());
}

// More rows than are made at once.
TEST(LinearGroup, blocks_of_rows_have_the_bits_of_the_whole) {
    constexpr std::int64_t kRows = 1501, kRank = 5;
    const Weight dense(gaussian({kRows, kIn}, 4) * 0.1, at::kFloat);
    for (const Weight& weight : {dense, packed(dense, at::kFloat)}) {
        Linear linear("q", kIn, kRows, false);
        linear.set_weight(weight);
        auto adapter = std::make_unique<adapters::LoraLayer>(kIn, kRows, kRank, 2.0, 0.0, 0);
        adapter->initialize(adapters::InitLoraWeights::kRandom, 3);
        at::Tensor whole = weight.dense().clone();
        adapter->add_delta(whole, 0);
        linear.set_adapter(std::move(adapter));
        EXPECT_FALSE(whole.equal(weight.dense()));
        EXPECT_TRUE(stacked(LinearGroup({&linear}).projections({})).matrix().equal(whole));
    }
}

TEST(LinearGroup, a_kept_matrix_follows_its_adapters) {
    const Layer layer;
    LinearGroup kept = layer.group();
    kept.keep_dense(true);
    const at::Tensor before = stacked(kept.projections({})).matrix().clone();
    for (at::Tensor parameter : layer.parameters()) {
        const at::AutoGradMode off(false);
        const at::Tensor earlier = stacked(kept.projections({})).matrix().clone();
        parameter.add_(0.01);
        const at::Tensor now = stacked(kept.projections({})).matrix();
        EXPECT_FALSE(now.equal(earlier));
        EXPECT_TRUE(now.equal(stacked(layer.group().projections({})).matrix()));
    }
}

TEST(LinearGroup, dropout_and_bf16_keep_the_adapter_apart) {
    const Layer dropping(0.3);
    const ForwardContext training{.training = true, .seed = 5, .micro_step = 2};
    for (const ForwardContext& context : {training, ForwardContext{}}) {
        const LinearGroup group = dropping.group();
        const ops::Projections projections = group.projections(context);
        EXPECT_FALSE(stacked(projections).folded);
        expect_close(run(dropping, projections), run(dropping, apart(group, context)), kBound);
    }
    const Layer rounded(0.0, at::kBFloat16);
    const LinearGroup group = rounded.group();
    EXPECT_FALSE(stacked(group.projections({})).folded);
    const Pass a = run(rounded, group.projections({}), at::kBFloat16),
               b = run(rounded, apart(group), at::kBFloat16);
    EXPECT_TRUE(a.y.equal(b.y)) << "the same products, only side by side";
    // The gradient of x sums the parts before or after rounding in fp32: one bf16 rounding.
    EXPECT_LE(difference(a.gx, b.gx), ops::test::kBf16Rounding);
}

TEST(LinearGroup, a_few_rows_are_multiplied_from_the_packed_weights_when_nothing_trains) {
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
        Layer layer(0.0, compute);
        for (Linear& linear : layer.linears) {
            linear.set_weight(packed(linear.weight(), compute));
        }
        const LinearGroup group = layer.group();
        EXPECT_FALSE(group.projections({}).from_storage) << "gradients are on";
        const at::AutoGradMode off(false);
        EXPECT_FALSE(group.projections({.training = true}).from_storage);
        EXPECT_FALSE(group.projections({.recomputation = Recomputation::kLayers}).from_storage);
        const ops::Projections projections = group.projections({});
        ASSERT_TRUE(projections.from_storage);
        for (const std::int64_t rows : {1, 8, 9}) {
            const at::Tensor x = gaussian({rows, kIn}, 1).to(compute),
                             residual = gaussian({rows, 96}, 2).to(compute);
            ops::Projections whole = projections;
            whole.from_storage = false;
            const at::Tensor expected = ops::project(whole, x, residual),
                             y = ops::project(projections, x, residual);
            EXPECT_LE(difference(y, expected), compute == at::kFloat ? kBound : ops::test::kBf16Rounding);
            EXPECT_TRUE(rows <= ops::kFewRows || y.equal(expected));
        }
    }
}

TEST(LinearGroup, a_part_that_trains_its_weight_is_multiplied_apart) {
    Layer layer;
    layer.linears[1].train_whole_module();
    const LinearGroup group = layer.group();
    const ops::Projections projections = group.projections({});
    EXPECT_TRUE(std::holds_alternative<ops::Apart>(projections.weights));
    EXPECT_EQ(projections.parameters().size(), 5U);
    run(layer, projections);
    const at::Tensor weight = layer.linears[1].trained_weight();
    const at::Tensor expected = at::mm(gaussian({9, 96}, 2).narrow(1, 64, 16).to(at::kDouble).t(),
                                       gaussian({9, kIn}, 1).to(at::kDouble));
    EXPECT_LE(difference(weight.grad(), expected), kBound);
}

}  // namespace
}  // namespace qlora::nn
