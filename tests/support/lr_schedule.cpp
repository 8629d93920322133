// Peer program of tests/peers/test_lr_schedule.py: reads a list of {"type", "warmup_steps", "total_steps",
// "learning_rate", "kwargs"} from stdin and writes, for each, the resolved number of warm-up steps and the
// factor of every step.
#include <iostream>
#include <iterator>
#include <string>

#include "qlora/core/error.h"
#include "qlora/train/lr_scheduler.h"

int main() {
    using qlora::Json;
    using namespace qlora::train;
    try {
        const std::string text{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
        Json out = Json::array();
        for (const Json& request : qlora::parse_json(text, "stdin")) {
            TrainingConfig config;
            const std::string problem =
                qlora::FieldType<LrSchedulerType>::read(request.at("type"), {}, config.lr_scheduler_type);
            if (!problem.empty()) throw qlora::ConfigError("type: " + problem);
            config.learning_rate = request.value("learning_rate", config.learning_rate);
            const std::string wrong = qlora::FieldType<LrSchedulerKwargs>::read(
                request.value("kwargs", Json::object()), {}, config.lr_scheduler_kwargs);
            if (!wrong.empty()) throw qlora::ConfigError("kwargs: " + wrong);
            qlora::FaultList faults;
            check_lr_scheduler(config, "kwargs", faults);
            faults.throw_if_any<qlora::ConfigError>("stdin");
            config.warmup_steps = request.at("warmup_steps").get<double>();
            const auto total_steps = request.at("total_steps").get<std::int64_t>();
            const std::int64_t warmup_steps = warmup_steps_for(total_steps, config);
            Json factors = Json::array();
            for (std::int64_t step = 0; step <= total_steps; ++step) {
                factors.push_back(lr_factor(config, step, warmup_steps, total_steps));
            }
            out.push_back({{"warmup_steps", warmup_steps}, {"factors", factors}});
        }
        std::cout << out.dump() << "\n";
        return 0;
    } catch (const qlora::Error& error) {
        std::cerr << error.what() << "\n";
        return static_cast<int>(error.code());
    }
}
