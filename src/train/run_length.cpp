#include "qlora/train/run_length.h"

#include <cmath>

namespace qlora::train {

std::int64_t steps_of_run(const TrainingConfig& config,
                          const std::function<std::int64_t(std::int64_t epoch)>& steps_of_epoch) {
    if (config.max_steps > 0) return config.max_steps;
    const auto whole = static_cast<std::int64_t>(std::floor(config.num_train_epochs));
    const double part = config.num_train_epochs - static_cast<double>(whole);
    const std::int64_t first = steps_of_epoch(0);
    bool all_equal = true;
    std::int64_t steps = 0;
    for (std::int64_t epoch = 0; epoch < whole; ++epoch) {
        const std::int64_t count = epoch == 0 ? first : steps_of_epoch(epoch);
        all_equal = all_equal && count == first;
        steps += count;
    }
    if (part > 0) {
        const std::int64_t count = whole == 0 ? first : steps_of_epoch(whole);
        all_equal = all_equal && count == first;
        steps += static_cast<std::int64_t>(std::ceil(part * static_cast<double>(count)));
    }
    // One product: 2.1 - 2 is a little more than 0.1, so that the sum of parts would round to another step.
    if (all_equal) {
        steps = static_cast<std::int64_t>(std::ceil(config.num_train_epochs * static_cast<double>(first)));
    }
    return steps;
}

}  // namespace qlora::train
