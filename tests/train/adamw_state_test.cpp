#include <gtest/gtest.h>

#include <limits>

#include "qlora/core/error.h"
#include "qlora/train/adamw.h"
#include "tiny_run.h"

namespace qlora {
namespace {

using test::TempDir;

std::vector<adapters::TrainableParameter> two_parameters() {
    std::vector<adapters::TrainableParameter> out;
    out.push_back({"a.weight", at::arange(12, at::kFloat).reshape({3, 4}).div(7).set_requires_grad(true)});
    out.push_back({"b.bias", at::ones({5}, at::kFloat).set_requires_grad(true), false});
    return out;
}

void step_with_gradients(train::AdamW& optimizer, std::vector<adapters::TrainableParameter>& parameters,
                         int seed) {
    for (adapters::TrainableParameter& parameter : parameters) {
        const auto numbers = at::arange(parameter.tensor.numel(), at::kFloat).add(seed).sin();
        parameter.tensor.mutable_grad().copy_(numbers.reshape(parameter.tensor.sizes()));
    }
    optimizer.step(0.01, 0.5F);
}

TEST(AdamWState, a_saved_and_loaded_optimizer_goes_on_bit_for_bit) {
    const TempDir folder;
    train::TrainingConfig config;
    config.weight_decay = 0.1;
    auto straight = two_parameters(), resumed = two_parameters();
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
        EXPECT_TRUE(one.state()[2 * i].tensor.equal(second.state()[2 * i].tensor));
        EXPECT_TRUE(one.state()[2 * i + 1].tensor.equal(second.state()[2 * i + 1].tensor));
    }
}

TEST(AdamWState, what_does_not_fit_is_refused_with_every_key) {
    const TempDir folder;
    auto parameters = two_parameters();
    train::AdamW optimizer(parameters, {});
    const auto load = [&](std::vector<adapters::TrainableParameter> state) -> std::string {
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

TEST(AdamWState, the_largest_finite_numbers_are_finite) {
    auto parameters = two_parameters();
    const train::AdamW optimizer(parameters, {});
    parameters[0].tensor.detach().fill_(std::numeric_limits<float>::max());
    EXPECT_EQ(optimizer.nonfinite_tensor(), "");
}

}  // namespace
}  // namespace qlora
