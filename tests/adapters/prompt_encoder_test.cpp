#include "qlora/adapters/prompt_encoder.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/lstm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <map>

namespace qlora::adapters {
namespace {

using EncoderTensors = std::map<std::string, at::Tensor>;

/// Copies in fp64, by PEFT's names, with gradients of their own.
EncoderTensors exact_copies(const PromptEncoder& encoder) {
    EncoderTensors out;
    for (const nn::Parameter& parameter : encoder.parameters())
        out[parameter.key] = parameter.tensor.detach().to(at::kDouble).requires_grad_();
    return out;
}

std::string in_peft(const std::string& name) {
    return "prompt_encoder.default." + name;
}

/// torch.nn.LSTM(bidirectional=True, batch_first=True) of a batch of one.
at::Tensor torch_lstm(const at::Tensor& x, const EncoderTensors& tensors, std::int64_t hidden,
                      std::int64_t layers) {
    std::vector<at::Tensor> weights;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
        for (const char* direction : {"", "_reverse"}) {
            for (const char* part : {"weight_ih", "weight_hh", "bias_ih", "bias_hh"})
                weights.push_back(tensors.at(
                    in_peft("lstm_head." + std::string(part) + "_l" + std::to_string(layer) + direction)));
        }
    }
    const at::Tensor start = at::zeros({2 * layers, 1, hidden}, at::kDouble);
    return std::get<0>(
               at::lstm(x.unsqueeze(0), {start, start}, weights, true, layers, 0.0, false, true, true))
        .squeeze(0);
}

/// By torch's operations, in fp64.
at::Tensor exact_result(const PromptEncoderShape& shape, const EncoderTensors& tensors) {
    at::Tensor x = tensors.at(in_peft("embedding.weight"));
    if (shape.lstm) x = torch_lstm(x, tensors, shape.lstm->hidden, shape.lstm->layers);
    for (std::size_t i = 0; shape.linears && i + 1 < shape.linears->widths.size(); ++i) {
        const std::string name = in_peft(shape.linears->module + "." + std::to_string(2 * i) + ".");
        if (i > 0) x = shape.linears->module == "transform" ? x.tanh() : x.relu();
        x = at::linear(x, tensors.at(name + "weight"), tensors.at(name + "bias"));
    }
    return x;
}

struct EncoderCase {
    const char* name;
    PromptEncoderShape shape;
    std::int64_t elements;  ///< trained, as PEFT counts them
};

std::ostream& operator<<(std::ostream& out, const EncoderCase& value) {
    return out << value.name;
}

class Encoders : public testing::TestWithParam<EncoderCase> {};
INSTANTIATE_TEST_SUITE_P(
    Kinds, Encoders,
    testing::Values(EncoderCase{"prompt", prompt_embedding(5, 32), 160},
                    EncoderCase{"mlp", p_tuning_mlp(5, 32, 24), 160 + 792 + 600 + 800},
                    EncoderCase{"lstm", p_tuning_lstm(5, 32, 24, 2, 0.0),
                                160 + 2 * (96 * 32 + 96 * 24 + 192) + 2 * (96 * 48 + 96 * 24 + 192) +
                                    48 * 48 + 48 + 48 * 32 + 32},
                    EncoderCase{"lstm_of_one_layer", p_tuning_lstm(1, 8, 6, 1, 0.5),
                                8 + 2 * (24 * 8 + 24 * 6 + 48) + 12 * 12 + 12 + 12 * 8 + 8},
                    EncoderCase{"prefix", prefix_embedding(5, 3, 16), 480},
                    EncoderCase{"projection", prefix_projection(5, 3, 16, 20),
                                80 + 16 * 20 + 20 + 20 * 96 + 96}),
    [](const auto& chosen) { return chosen.param.name; });

TEST_P(Encoders, equal_torchs_modules_in_fp64) {
    const PromptEncoder encoder(GetParam().shape, 1);
    const EncoderTensors exact = exact_copies(encoder);
    const at::Tensor ours = encoder.forward({}), theirs = exact_result(GetParam().shape, exact);
    ASSERT_EQ(ours.sizes(), theirs.sizes());
    ASSERT_EQ(ours.sizes().vec(), GetParam().shape.saved_sizes());
    EXPECT_LE((ours - theirs).abs().max().item<double>(), 2e-6 * theirs.abs().max().item<double>());
    (ours * 3).sin().sum().backward();
    (theirs * 3).sin().sum().backward();
    std::int64_t elements = 0;
    for (const nn::Parameter& parameter : encoder.parameters()) {
        elements += parameter.tensor.numel();
        const at::Tensor expected = exact.at(parameter.key).grad();
        const double gap = (parameter.tensor.grad() - expected).abs().max().item<double>();
        EXPECT_LE(gap, 1e-5 * std::max(1e-2, expected.abs().max().item<double>())) << parameter.key;
    }
    EXPECT_EQ(elements, GetParam().elements);
}

TEST_P(Encoders, start_as_torchs_modules_do) {
    const PromptEncoder encoder(GetParam().shape, 1), same(GetParam().shape, 1), other(GetParam().shape, 2);
    const std::vector<PromptEncoderShape::Tensor> described = GetParam().shape.tensors();
    for (std::size_t i = 0; i < described.size(); ++i) {
        const at::Tensor values = encoder.parameters()[i].tensor.detach();
        EXPECT_EQ(values.sizes().vec(), described[i].sizes);
        EXPECT_TRUE(values.equal(same.parameters()[i].tensor));
        EXPECT_FALSE(values.equal(other.parameters()[i].tensor));
        EXPECT_EQ(described[i].decays, values.dim() == 2) << described[i].key;
        // The deviation of uniform values is bound / sqrt(3).
        const bool is_embedding = described[i].key == in_peft("embedding.weight");
        const double bound = described[i].bound;
        EXPECT_EQ(bound > 0, !is_embedding);
        EXPECT_LE(is_embedding ? 0.0 : values.abs().max().item<double>(), bound);
        if (values.numel() < 100) continue;
        const double deviation = is_embedding ? 1.0 : bound / std::sqrt(3.0);
        EXPECT_NEAR(values.std().item<double>(), deviation, 0.2 * deviation) << described[i].key;
    }
}

TEST_P(Encoders, are_saved_as_what_they_give) {
    PromptEncoder encoder(GetParam().shape, 1);
    const nn::Parameter saved = encoder.saved();
    EXPECT_EQ(saved.key, "prompt_embeddings");
    EXPECT_TRUE(saved.tensor.equal(encoder.forward({.training = false})));
    EXPECT_FALSE(saved.tensor.requires_grad());
    EXPECT_EQ(GetParam().shape.is_embedding(), encoder.parameters().size() == 1);
    if (GetParam().shape.lstm) return;  // PEFT's "zero" is one of prefixes
    encoder.set_results_to_zero();
    EXPECT_FALSE(encoder.forward({}).any().item<bool>());
    encoder.set_embedding(at::zeros({GetParam().shape.tokens, GetParam().shape.width}) + 2);
    EXPECT_TRUE(encoder.parameters()[0].tensor.eq(2).all().item<bool>());
}

/// Between the layers, counter-based: the same numbers give the same mask, and none without training.
TEST(EncoderDropout, is_that_of_the_step) {
    const PromptEncoder encoder(p_tuning_lstm(5, 32, 24, 2, 0.3), 1);
    const auto result = [&](bool training, std::uint32_t step) {
        return encoder.forward({.training = training, .seed = 3, .micro_step = step});
    };
    EXPECT_TRUE(result(true, 1).equal(result(true, 1)));
    EXPECT_FALSE(result(true, 1).equal(result(true, 2)));
    EXPECT_FALSE(result(true, 1).equal(result(false, 1)));
    EXPECT_TRUE(result(false, 1).equal(encoder.saved().tensor));
    const PromptEncoder one_layer(p_tuning_lstm(5, 32, 24, 1, 0.3), 1);
    EXPECT_TRUE(one_layer.forward({.training = true}).equal(one_layer.forward({})));
    // What is dropped gets no gradient: that of the first layer goes along the mask.
    const at::Tensor kept = result(true, 1);
    kept.sum().backward();
    EXPECT_TRUE(encoder.parameters()[0].tensor.grad().any().item<bool>());
}

}  // namespace
}  // namespace qlora::adapters
