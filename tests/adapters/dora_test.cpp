#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "adapters/ia3_layer.h"
#include "ops/reference.h"
#include "qlora/adapters/lora.h"
#include "qlora/core/error.h"
#include "qlora/io/safetensors.h"
#include "qlora/nn/linear_group.h"
#include "qlora/ops/decoder_nodes.h"

namespace qlora::adapters {
namespace {

using ops::test::difference;
using ops::test::gaussian;

constexpr std::int64_t kRowsOfW = 700, kColumnsOfW = 128;
// The norms' own sums: 128 fp32 products, relative to a sum of squares.
constexpr double kNormBound = 3e-7;

nn::Weight packed_weight(const at::Tensor& values, at::ScalarType compute) {
    const at::Tensor dense = values.contiguous();
    const io::TensorView view{
        "weight",
        io::DType::kF32,
        {dense.size(0), dense.size(1)},
        std::as_bytes(std::span(dense.const_data_ptr<float>(), static_cast<std::size_t>(dense.numel())))};
    return nn::Weight(quant::quantize(view, {}), compute);
}

at::Tensor exact_norms(const nn::Weight& weight, const LoraLayer& layer) {
    const at::Tensor update = at::mm(layer.b().detach().to(at::kDouble), layer.a().detach().to(at::kDouble));
    return (weight.dense().to(at::kDouble) + layer.scaling() * update).square().sum(1).sqrt();
}

at::Tensor norms_of(const LoraLayer& layer) {
    return layer.update({}).output_scale->norm;
}

TEST(Dora, NormsAreThoseOfTheUpdatedRows) {
    const at::Tensor values = gaussian({kRowsOfW, kColumnsOfW}, 1) * 0.1;
    for (const nn::Weight& weight :
         {nn::Weight(values, at::kFloat), packed_weight(values, at::kFloat),
          packed_weight(values, at::kBFloat16), nn::Weight(values.to(at::kBFloat16), at::kFloat)}) {
        LoraLayer layer(kColumnsOfW, kRowsOfW, 6, 2.0, 0.0, 1, {.dora_base = &weight});
        layer.initialize(InitLoraWeights::kRandom, 3);
        EXPECT_LE(difference(norms_of(layer), exact_norms(weight, layer)), kNormBound);
        EXPECT_EQ(norms_of(layer).data_ptr(), norms_of(layer).data_ptr()) << "made once";
        EXPECT_FALSE(norms_of(layer).requires_grad());
        for (at::Tensor matrix : layer.matrices()) {
            const at::Tensor before = norms_of(layer);
            const at::AutoGradMode off(false);
            matrix.add_(0.05);
            EXPECT_FALSE(norms_of(layer).equal(before));
            EXPECT_LE(difference(norms_of(layer), exact_norms(weight, layer)), kNormBound);
        }
    }
}

TEST(Dora, TheMagnitudeStartsAtTheRowsNorms) {
    const nn::Weight weight = packed_weight(gaussian({kRowsOfW, kColumnsOfW}, 1) * 0.1, at::kFloat);
    for (const InitLoraWeights start : {InitLoraWeights::kDefault, InitLoraWeights::kRandom}) {
        LoraLayer layer(kColumnsOfW, kRowsOfW, 6, 2.0, 0.0, 1, {.dora_base = &weight});
        layer.initialize(start, 3);
        EXPECT_TRUE(layer.magnitude().equal(norms_of(layer))) << "so the factors are 1";
        EXPECT_LE(difference(layer.magnitude().detach(), exact_norms(weight, layer)), kNormBound);
        const auto parameters = layer.parameters();
        ASSERT_EQ(parameters.size(), 3U);
        EXPECT_EQ(parameters[2].first, "lora_magnitude_vector");
        EXPECT_TRUE(parameters[2].second.requires_grad());
    }
}

TEST(Dora, ABiasOfTheAdapterIsRefused) {
    const nn::Weight weight(gaussian({8, 16}, 1), at::kFloat);
    EXPECT_THROW(LoraLayer(16, 8, 2, 1.0, 0.0, 0, {.bias = true, .dora_base = &weight}), c10::Error);
}

/// Two linears of one input with DoRA, one of them packed, and a plain one between.
struct DoraLinears {
    explicit DoraLinears(at::ScalarType compute = at::kFloat, bool all_packed = false) {
        for (std::size_t i = 0; i < 3; ++i) {
            const at::Tensor values = gaussian({linears[i].out_features(), 64}, 10 + i) * 0.1;
            linears[i].set_weight(i == 0 || all_packed ? packed_weight(values, compute)
                                                       : nn::Weight(values, compute));
            if (i == 1) continue;
            auto adapter = std::make_unique<LoraLayer>(64, linears[i].out_features(), 3, 2.0, 0.0,
                                                       static_cast<std::uint32_t>(i),
                                                       LoraExtras{.dora_base = &linears[i].weight()});
            adapter->initialize(InitLoraWeights::kRandom, 3);
            const at::AutoGradMode off(false);
            at::Tensor magnitude = adapter->magnitude();
            magnitude.add_(gaussian(magnitude.sizes(), 30 + i) * 0.2);
            linears[i].set_adapter(std::move(adapter));
        }
        linears[0].set_bias(gaussian({48}, 20));
    }
    nn::LinearGroup group() { return nn::LinearGroup({&linears[0], &linears[1], &linears[2]}); }
    std::vector<at::Tensor> parameters() const {
        std::vector<at::Tensor> out;
        for (const nn::Linear& linear : linears) {
            if (linear.adapter() == nullptr) continue;
            for (const auto& [name, tensor] : linear.adapter()->parameters()) out.push_back(tensor);
        }
        return out;
    }

    nn::Linear linears[3] = {{"q", 64, 48, true}, {"k", 64, 16, false}, {"v", 64, 16, false}};
};

/// y, then the gradients of x and of all parameters.
std::vector<at::Tensor> pass_of(const DoraLinears& layer, const ops::Projections& projections) {
    for (at::Tensor parameter : layer.parameters()) parameter.mutable_grad() = at::Tensor();
    const at::Tensor x = gaussian({9, 64}, 1).requires_grad_();
    const at::Tensor y = ops::project_residual(x, at::zeros({9, 80}), projections);
    torch::autograd::backward({y}, {gaussian({9, 80}, 2)});
    std::vector<at::Tensor> out = {y.detach(), x.grad()};
    for (const at::Tensor& parameter : layer.parameters()) out.push_back(parameter.grad());
    return out;
}

TEST(Dora, AFoldedStackEqualsSeparateProductsAndItselfWhenItIsKept) {
    DoraLinears layer;
    const nn::LinearGroup fresh = layer.group();
    ops::Projections apart = fresh.projections({});
    ASSERT_TRUE(std::get<ops::Stacked>(apart.weights).folded);
    apart.weights = ops::Apart{};
    const std::vector<at::Tensor> expected = pass_of(layer, fresh.projections({})),
                                  separate = pass_of(layer, apart);
    nn::LinearGroup kept = layer.group();
    kept.keep_dense(true);
    for (int pass = 0; pass < 2; ++pass) {
        const std::vector<at::Tensor> found = pass_of(layer, kept.projections({}));
        for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(found[i].equal(expected[i])) << i;
    }
    for (std::size_t i = 0; i < expected.size(); ++i)
        EXPECT_LE(difference(separate[i], expected[i]), 4e-6) << i;
}

TEST(Dora, AMagnitudeDoesNotRemakeTheStack) {
    DoraLinears layer;
    nn::LinearGroup kept = layer.group();
    kept.keep_dense(true);
    const auto matrix = [&] { return std::get<ops::Stacked>(kept.projections({}).weights).matrix(); };
    const at::Tensor before = matrix();
    const at::AutoGradMode off(false);
    at::Tensor magnitude = layer.parameters()[2];
    magnitude.add_(1.0);
    EXPECT_EQ(matrix().data_ptr(), before.data_ptr());
}

TEST(Dora, AFewRowsComeFromTheStoredWeights) {
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
        DoraLinears layer(compute, true);
        const nn::LinearGroup group = layer.group();
        const at::AutoGradMode off(false);
        const ops::Projections stored = group.projections({});
        ASSERT_TRUE(stored.from_storage);
        ops::Projections whole = stored;
        whole.from_storage = false;
        const at::Tensor x = gaussian({5, 64}, 1).to(compute), residual = gaussian({5, 80}, 2).to(compute);
        EXPECT_LE(difference(ops::project(stored, x, residual), ops::project(whole, x, residual)),
                  compute == at::kFloat ? 4e-6 : 2 * ops::test::kBf16Rounding);
    }
}

TEST(Ia3, StartsAsTheBaseAndHasTheShapesOfPeft) {
    const Ia3Layer outputs(6, 4, false), inputs(6, 4, true);
    EXPECT_EQ(outputs.vector().sizes(), (std::vector<std::int64_t>{4, 1}));
    EXPECT_EQ(inputs.vector().sizes(), (std::vector<std::int64_t>{1, 6}));
    EXPECT_TRUE(outputs.vector().eq(1).all().item<bool>() && inputs.vector().eq(1).all().item<bool>());
    EXPECT_EQ(outputs.parameters().front().first, "ia3_l");
    Ia3Layer drawn(6, 4000, false), other(6, 4000, false);
    drawn.draw(1, 2);
    other.draw(1, 3);
    EXPECT_FALSE(drawn.vector().equal(other.vector()));
    EXPECT_NEAR(drawn.vector().mean().item<double>(), 0.0, 0.08);
    EXPECT_NEAR(drawn.vector().detach().std().item<double>(), 1.0, 0.06);
}

TEST(Ia3, TheGradientReachesTheMatrixOfTheFile) {
    nn::Linear linear("k", 16, 8, true);
    linear.set_weight(nn::Weight(gaussian({8, 16}, 1), at::kFloat));
    linear.set_bias(gaussian({8}, 2));
    auto layer = std::make_unique<Ia3Layer>(16, 8, false);
    layer->draw(5, 1);
    const at::Tensor vector = layer->vector();
    linear.set_adapter(std::move(layer));
    const nn::LinearGroup group({&linear});
    const at::Tensor x = gaussian({7, 16}, 3);
    const at::Tensor y = ops::project_residual(x, {}, group.projections({}));
    const at::Tensor base = at::mm(x, linear.weight().dense().t()) + linear.bias();
    EXPECT_LE(difference(y.detach(), base * vector.detach().view({-1})), 2e-6);
    y.sum().backward();
    ASSERT_EQ(vector.grad().sizes(), vector.sizes());
    EXPECT_LE(difference(vector.grad().view({-1}), base.sum(0)), 4e-6);
}

TEST(Ia3, AnInputThatOtherLinearsReadIsRefusedByName) {
    nn::Linear gate("model.layers.0.mlp.gate_proj", 16, 8, false),
        up("model.layers.0.mlp.up_proj", 16, 8, false);
    for (nn::Linear* linear : {&gate, &up}) linear->set_weight(nn::Weight(gaussian({8, 16}, 1), at::kFloat));
    up.set_adapter(std::make_unique<Ia3Layer>(16, 8, true));
    const nn::LinearGroup group({&gate, &up});
    try {
        group.projections({});
        FAIL();
    } catch (const ConfigError& error) {
        const std::string text = error.what();
        EXPECT_NE(text.find(up.path()), std::string::npos);
        EXPECT_NE(text.find(gate.path()), std::string::npos);
    }
}

}  // namespace
}  // namespace qlora::adapters
