#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "qlora/core/error.h"
#include "qlora/train/adamw.h"
#include "tiny_run.h"

namespace qlora {
namespace {

using test::TempDir;

std::vector<nn::Parameter> two_parameters() {
    std::vector<nn::Parameter> out;
    out.push_back({"a.weight", at::arange(12, at::kFloat).reshape({3, 4}).div(7).set_requires_grad(true)});
    out.push_back({"b.bias", at::ones({5}, at::kFloat).set_requires_grad(true), false});
    return out;
}

void step_with_gradients(train::AdamW& optimizer, std::vector<nn::Parameter>& parameters, int seed) {
    for (nn::Parameter& parameter : parameters) {
        const auto numbers = at::arange(parameter.tensor.numel(), at::kFloat).add(seed).sin();
        parameter.tensor.mutable_grad().copy_(numbers.reshape(parameter.tensor.sizes()));
    }
    optimizer.step(0.01, 0.5F);
}

/// One of them just large enough for 8-bit moments, with a short last block.
std::vector<nn::Parameter> large_and_small() {
    auto out = two_parameters();
    out.push_back({"c.weight", at::arange(4097, at::kFloat).div(5000).set_requires_grad(true)});
    out.push_back({"d.weight", at::arange(4095, at::kFloat).div(5000).set_requires_grad(true)});
    return out;
}

train::TrainingConfig eight_bits() {
    train::TrainingConfig config;
    config.optim = train::OptimizerType::kAdamw8bit;
    config.weight_decay = 0.1;
    return config;
}

/// Three steps, saved, loaded and three more, against six.
void expect_equal_resume(const std::function<std::vector<nn::Parameter>()>& parameters,
                         const train::TrainingConfig& config) {
    const TempDir folder;
    auto straight = parameters(), resumed = parameters();
    train::AdamW one(straight, config);
    for (int i = 0; i < 6; ++i) step_with_gradients(one, straight, i);

    train::AdamW first(resumed, config);
    for (int i = 0; i < 3; ++i) step_with_gradients(first, resumed, i);
    adapters::save_tensors(folder / "state.safetensors", first.state(), {});
    train::AdamW second(resumed, config);
    second.load_state(folder / "state.safetensors", first.steps());
    EXPECT_EQ(second.steps(), 3);
    for (int i = 3; i < 6; ++i) step_with_gradients(second, resumed, i);

    for (std::size_t i = 0; i < straight.size(); ++i) {
        EXPECT_TRUE(straight[i].tensor.equal(resumed[i].tensor)) << straight[i].key;
    }
    const auto expected = one.state(), found = second.state();
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(found[i].key, expected[i].key);
        EXPECT_TRUE(found[i].tensor.equal(expected[i].tensor)) << found[i].key;
    }
}

TEST(AdamWState, a_saved_and_loaded_optimizer_goes_on_bit_for_bit) {
    train::TrainingConfig config;
    config.weight_decay = 0.1;
    expect_equal_resume(two_parameters, config);
    expect_equal_resume(large_and_small, config);
}

TEST(AdamWState, with_8_bit_moments_it_goes_on_bit_for_bit_too) {
    expect_equal_resume(large_and_small, eight_bits());
}

TEST(AdamWState, only_large_tensors_have_8_bit_moments_and_their_scales_are_saved_beside_them) {
    auto parameters = large_and_small();
    train::AdamW optimizer(parameters, eight_bits());
    step_with_gradients(optimizer, parameters, 1);
    std::vector<std::string> keys;
    for (const nn::Parameter& each : optimizer.state()) {
        keys.push_back(each.key);
        const bool is_large = each.key.find("c.weight") != std::string::npos;
        const bool is_scale = each.key.ends_with(".absmax");
        EXPECT_EQ(each.tensor.scalar_type(), is_large && !is_scale ? at::kByte : at::kFloat) << each.key;
        if (is_scale) {
            EXPECT_EQ(each.tensor.sizes(), at::IntArrayRef({17})) << each.key;
        }
        EXPECT_TRUE(each.tensor.any().item<bool>()) << each.key;
    }
    EXPECT_EQ(keys, (std::vector<std::string>{
                        "exp_avg.a.weight", "exp_avg_sq.a.weight", "exp_avg.b.bias", "exp_avg_sq.b.bias",
                        "exp_avg.c.weight", "exp_avg.c.weight.absmax", "exp_avg_sq.c.weight",
                        "exp_avg_sq.c.weight.absmax", "exp_avg.d.weight", "exp_avg_sq.d.weight"}));
}

TEST(AdamWState, eight_bits_come_near_the_same_steps_in_32) {
    auto precise = large_and_small(), coarse = large_and_small();
    train::TrainingConfig config = eight_bits();
    train::AdamW one(coarse, config);
    config.optim = train::OptimizerType::kAdamwTorch;
    train::AdamW other(precise, config);
    for (int i = 0; i < 6; ++i) {
        step_with_gradients(one, coarse, i);
        step_with_gradients(other, precise, i);
    }
    const auto start = large_and_small();
    for (std::size_t i = 0; i < start.size(); ++i) {
        const double moved = (precise[i].tensor - start[i].tensor).abs().mean().item<double>();
        const double apart = (precise[i].tensor - coarse[i].tensor).abs().mean().item<double>();
        // Moments of eight bits are off by up to 2 percent of their size; small tensors have 32.
        EXPECT_LT(apart, 0.03 * moved) << start[i].key;
        EXPECT_EQ(apart > 0.0, start[i].key == "c.weight");
    }
}

TEST(AdamWState, gradients_are_views_of_one_buffer_that_stay_where_they_are) {
    auto parameters = large_and_small();
    train::AdamW optimizer(parameters, {});
    std::vector<const void*> places;
    for (const auto& each : parameters) places.push_back(each.tensor.grad().const_data_ptr());
    const at::Tensor first = parameters[0].tensor.grad();
    for (int pass = 1; pass <= 2; ++pass) {
        at::Tensor sum = at::zeros({}, at::kFloat);
        for (const auto& each : parameters) sum = sum + each.tensor.sum() * 3;
        sum.backward();
        for (std::size_t i = 0; i < parameters.size(); ++i) {
            const at::Tensor gradient = parameters[i].tensor.grad();
            EXPECT_EQ(gradient.const_data_ptr(), places[i]) << parameters[i].key;
            EXPECT_TRUE(gradient.is_alias_of(first));
            EXPECT_EQ(gradient.sizes(), parameters[i].tensor.sizes());
            EXPECT_TRUE(gradient.eq(3 * pass).all().item<bool>()) << "added in place";
        }
    }
    const double elements = 12 + 5 + 4097 + 4095;
    EXPECT_DOUBLE_EQ(optimizer.grad_norm(), std::sqrt(elements * 36)) << "nothing between the views";
    optimizer.zero_grad();
    EXPECT_EQ(optimizer.grad_norm(), 0.0);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
        EXPECT_EQ(parameters[i].tensor.grad().const_data_ptr(), places[i]);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(places[i]) % 16, 0U) << "vectors of four";
    }
}

TEST(AdamWState, what_does_not_fit_is_refused_with_every_key) {
    const TempDir folder;
    auto parameters = two_parameters();
    train::AdamW optimizer(parameters, {});
    const auto load = [&](std::vector<nn::Parameter> state) -> std::string {
        adapters::save_tensors(folder / "state.safetensors", state, {});
        try {
            optimizer.load_state(folder / "state.safetensors", 1);
        } catch (const CheckpointError& error) {
            return error.what();
        }
        return "";
    };
    const auto copy = [&] {
        auto state = optimizer.state();
        for (auto& moment : state) moment.tensor = moment.tensor.clone();
        return state;
    };
    EXPECT_EQ(load(copy()), "");

    auto missing = copy();
    missing.pop_back();
    EXPECT_NE(load(missing).find("exp_avg_sq.b.bias"), std::string::npos);
    auto more = copy();
    more.push_back({"exp_avg.c", at::zeros({1})});
    EXPECT_NE(load(more).find("holds 5 tensors, the run needs 4"), std::string::npos);
    auto shape = copy();
    shape[0].tensor = at::zeros({4, 3});
    EXPECT_NE(load(shape).find("exp_avg.a.weight"), std::string::npos);
    auto bad = copy();
    bad[1].tensor[2][3] = std::numeric_limits<float>::infinity();
    bad[2].tensor[0] = std::numeric_limits<float>::quiet_NaN();
    const std::string message = load(bad);
    EXPECT_NE(message.find("exp_avg_sq.a.weight"), std::string::npos) << message;
    EXPECT_NE(message.find("exp_avg.b.bias"), std::string::npos) << message;
}

TEST(AdamWState, one_value_anywhere_that_is_not_finite_is_found) {
    for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity()}) {
        for (const char* key : {"a.weight", "b.bias", "exp_avg.a.weight", "exp_avg_sq.b.bias"}) {
            auto parameters = two_parameters();
            train::AdamW optimizer(parameters, {});
            EXPECT_EQ(optimizer.nonfinite_tensor(), "");
            auto all = optimizer.state();
            all.insert(all.end(), parameters.begin(), parameters.end());
            for (auto& each : all) {
                if (each.key == key) each.tensor.detach().view(-1)[-1] = value;
            }
            EXPECT_EQ(optimizer.nonfinite_tensor(), key);
        }
    }
}

TEST(AdamWState, a_scale_that_is_not_finite_is_found_and_refused) {
    const TempDir folder;
    for (const char* key : {"exp_avg.c.weight.absmax", "exp_avg_sq.c.weight.absmax"}) {
        auto parameters = large_and_small();
        train::AdamW optimizer(parameters, eight_bits());
        for (auto& each : optimizer.state()) {
            if (each.key == key) each.tensor[16] = std::numeric_limits<float>::infinity();
        }
        EXPECT_EQ(optimizer.nonfinite_tensor(), key);
        adapters::save_tensors(folder / "state.safetensors", optimizer.state(), {});
        train::AdamW other(parameters, eight_bits());
        try {
            other.load_state(folder / "state.safetensors", 1);
            FAIL();
        } catch (const CheckpointError& error) {
            EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
        }
    }
}

TEST(AdamWState, moments_of_another_type_are_refused) {
    const TempDir folder;
    auto parameters = large_and_small();
    train::AdamW coarse(parameters, eight_bits()), precise(parameters, {});
    adapters::save_tensors(folder / "8.safetensors", coarse.state(), {});
    adapters::save_tensors(folder / "32.safetensors", precise.state(), {});
    EXPECT_THROW(precise.load_state(folder / "8.safetensors", 1), CheckpointError);
    EXPECT_THROW(coarse.load_state(folder / "32.safetensors", 1), CheckpointError);
    EXPECT_NO_THROW(coarse.load_state(folder / "8.safetensors", 1));
}

TEST(AdamWState, the_largest_finite_numbers_are_finite) {
    auto parameters = two_parameters();
    const train::AdamW optimizer(parameters, {});
    parameters[0].tensor.detach().fill_(std::numeric_limits<float>::max());
    EXPECT_EQ(optimizer.nonfinite_tensor(), "");
}

}  // namespace
}  // namespace qlora
