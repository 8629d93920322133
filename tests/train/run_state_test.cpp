#include "qlora/train/run_state.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <set>

#include "qlora/core/error.h"

namespace qlora {
namespace {

using train::RunState;

/// Every member another value than the default and than its neighbours.
RunState filled() {
    RunState state;
    std::int64_t next = 1;
    RunState::fields(state, [&]<class T>(const char*, T& value) {
        if constexpr (std::is_same_v<T, bool>) {
            value = true;
        } else if constexpr (std::is_same_v<T, std::vector<std::int64_t>>) {
            value = {next++, next++};
        } else {
            value = static_cast<std::int64_t>(next++);
        }
    });
    return state;
}

TEST(RunState, comes_back_from_json_as_it_was) {
    const RunState state = filled();
    const Json json = state.to_json();
    const RunState back = RunState::from_json(parse_json(json.dump(2), "state"), "state");
    EXPECT_EQ(back.to_json(), json);
    std::set<std::string> values;
    for (const auto& [key, value] : json.items()) {
        EXPECT_NE(value, RunState().to_json().at(key)) << key;
        if (value.is_boolean()) continue;
        EXPECT_TRUE(values.insert(value.dump()).second) << key;
    }
}

TEST(RunState, doubles_keep_every_bit) {
    RunState state;
    for (const double value : {0.1, 1.0 / 3.0, 5.0e-324, 1.7976931348623157e308, -0.0}) {
        state.logged_loss_sum = value;
        state.best_eval_loss = value;
        const RunState back = RunState::from_json(parse_json(state.to_json().dump(), "state"), "state");
        EXPECT_EQ(std::memcmp(&back.logged_loss_sum, &value, sizeof(value)), 0) << value;
        EXPECT_EQ(std::memcmp(&*back.best_eval_loss, &value, sizeof(value)), 0) << value;
    }
}

TEST(RunState, a_loss_that_is_no_number_is_saved_as_none) {
    RunState state;
    state.last_eval_loss = std::numeric_limits<double>::quiet_NaN();
    const RunState back = RunState::from_json(parse_json(state.to_json().dump(), "state"), "state");
    EXPECT_FALSE(back.last_eval_loss);
}

TEST(RunState, a_missing_or_misshapen_member_is_refused_by_name) {
    const Json whole = filled().to_json();
    for (const auto& [key, value] : whole.items()) {
        Json missing = whole, other = whole;
        missing.erase(key);
        other[key] = "text";
        for (const Json& json : {missing, other}) {
            try {
                RunState::from_json(json, "step-1/run_state.json");
                ADD_FAILURE() << key << " accepted";
            } catch (const CheckpointError& error) {
                EXPECT_NE(std::string(error.what()).find("step-1/run_state.json"), std::string::npos);
            }
        }
    }
}

}  // namespace
}  // namespace qlora
