#include "qlora/train/lr_scheduler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <span>
#include <vector>

namespace qlora::train {
namespace {

/// Where a run stands, as the schedules of transformers are written.
struct Position {
    std::int64_t step, warmup_steps, total_steps;

    double after_warmup() const { return static_cast<double>(step - warmup_steps); }
    double length() const {
        return static_cast<double>(std::max<std::int64_t>(1, total_steps - warmup_steps));
    }
    /// Share of the way from the end of the warm-up to the last step; beyond 1 past it.
    double progress() const { return after_warmup() / length(); }
    double warmup_progress() const {
        return static_cast<double>(step) / static_cast<double>(std::max<std::int64_t>(1, warmup_steps));
    }
};

double half_cosine(double cycles, double progress) {
    return 0.5 * (1.0 + std::cos(std::numbers::pi * cycles * 2.0 * progress));
}

double raised_to(double lowest, double factor) {
    return std::max(0.0, factor * (1.0 - lowest) + lowest);
}

double linear_factor(const Position& at) {
    return std::max(0.0, static_cast<double>(at.total_steps - at.step) / at.length());
}

// Past the last step a half period would rise again; the rate stays at its end value instead.
double cosine_factor(const Position& at, const LrSchedulerKwargs& kwargs) {
    const double cycles = kwargs.num_cycles.value_or(0.5);
    return std::max(0.0, half_cosine(cycles, std::min(1.0, at.progress())));
}

double restarts_factor(const Position& at, const LrSchedulerKwargs& kwargs) {
    if (at.progress() >= 1.0) return 0.0;
    const double wave = std::fmod(kwargs.num_cycles.value_or(1.0) * at.progress(), 1.0);
    return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * wave)));
}

double lowest_share(const TrainingConfig& config) {
    const LrSchedulerKwargs& kwargs = config.lr_scheduler_kwargs;
    return kwargs.min_lr ? *kwargs.min_lr / config.learning_rate : kwargs.min_lr_rate.value_or(0.0);
}

double min_lr_factor(const Position& at, const TrainingConfig& config) {
    const double cycles = config.lr_scheduler_kwargs.num_cycles.value_or(0.5);
    return raised_to(lowest_share(config), half_cosine(cycles, at.progress()));
}

// Its steps are counted from 1: the first one of the warm-up has a rate, the last one of the run the lowest.
double warmup_with_min_lr_factor(const Position& at, const TrainingConfig& config) {
    const LrSchedulerKwargs& kwargs = config.lr_scheduler_kwargs;
    const auto warmup_steps = static_cast<double>(at.warmup_steps);
    const auto step = static_cast<double>(at.step);
    if (at.step < at.warmup_steps) {
        if (!kwargs.warmup_lr_rate) return (step + 1.0) / std::max(1.0, warmup_steps);
        const double first = *kwargs.warmup_lr_rate;
        return first + (1.0 - first) * step / std::max(1.0, warmup_steps - 1.0);
    }
    const double progress = (at.after_warmup() + 1.0) / at.length();
    return raised_to(lowest_share(config), half_cosine(kwargs.num_cycles.value_or(0.5), progress));
}

constexpr double kPolynomialEnd = 1e-7;  // transformers' default of lr_end

double polynomial_factor(const Position& at, const TrainingConfig& config) {
    const double end = config.lr_scheduler_kwargs.lr_end.value_or(kPolynomialEnd);
    const double peak = config.learning_rate;
    if (at.step >= at.total_steps) return end / peak;
    const double remaining = 1.0 - at.progress();
    const double power = config.lr_scheduler_kwargs.power.value_or(1.0);
    return ((peak - end) * std::pow(remaining, power) + end) / peak;
}

double inverse_sqrt_factor(const Position& at, const LrSchedulerKwargs& kwargs) {
    constexpr std::int64_t kTimescaleWithoutWarmup = 10000;
    const std::int64_t timescale =
        kwargs.timescale.value_or(at.warmup_steps > 0 ? at.warmup_steps : kTimescaleWithoutWarmup);
    const std::int64_t shift = timescale - at.warmup_steps;
    return 1.0 / std::sqrt(static_cast<double>(at.step + shift) / static_cast<double>(timescale));
}

double warmup_curve(CurveType type, double progress) {
    switch (type) {
        case CurveType::kLinear:
            return progress;
        case CurveType::kCosine:
            return 0.5 * (1.0 - std::cos(std::numbers::pi * progress));
        case CurveType::kOneMinusSqrt:
            break;
    }
    return 1.0 - std::sqrt(1.0 - progress);
}

double decay_curve(CurveType type, double progress, double cycles) {
    switch (type) {
        case CurveType::kLinear:
            return 1.0 - progress;
        case CurveType::kCosine:
            return half_cosine(cycles, progress);
        case CurveType::kOneMinusSqrt:
            break;
    }
    return 1.0 - std::sqrt(progress);
}

double warmup_stable_decay_factor(const Position& at, const LrSchedulerKwargs& kwargs) {
    const double lowest = kwargs.min_lr_ratio.value_or(0.0);
    const std::int64_t decay_steps = kwargs.num_decay_steps.value_or(0);
    const std::int64_t stable_steps =
        kwargs.num_stable_steps.value_or(at.total_steps - at.warmup_steps - decay_steps);
    if (at.step < at.warmup_steps) {
        return raised_to(lowest,
                         warmup_curve(kwargs.warmup_type.value_or(CurveType::kLinear), at.warmup_progress()));
    }
    const std::int64_t decay_begin = at.warmup_steps + stable_steps;
    if (at.step < decay_begin) return 1.0;
    if (at.step >= decay_begin + decay_steps) return lowest;
    const double progress = static_cast<double>(at.step - decay_begin) /
                            static_cast<double>(std::max<std::int64_t>(1, decay_steps));
    return raised_to(lowest, decay_curve(kwargs.decay_type.value_or(CurveType::kCosine), progress,
                                         kwargs.num_cycles.value_or(0.5)));
}

/// The keywords that a schedule takes.
std::span<const char* const> keywords_of(LrSchedulerType type) {
    static constexpr std::array kCycles = {"num_cycles"};
    static constexpr std::array kMinLr = {"num_cycles", "min_lr", "min_lr_rate"};
    static constexpr std::array kWarmupMinLr = {"num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"};
    static constexpr std::array kPolynomial = {"lr_end", "power"};
    static constexpr std::array kInverseSqrt = {"timescale"};
    static constexpr std::array kStable = {"num_decay_steps", "num_stable_steps", "warmup_type",
                                           "decay_type",      "min_lr_ratio",     "num_cycles"};
    switch (type) {
        case LrSchedulerType::kCosine:
        case LrSchedulerType::kCosineWithRestarts:
            return kCycles;
        case LrSchedulerType::kCosineWithMinLr:
            return kMinLr;
        case LrSchedulerType::kCosineWarmupWithMinLr:
            return kWarmupMinLr;
        case LrSchedulerType::kPolynomial:
            return kPolynomial;
        case LrSchedulerType::kInverseSqrt:
            return kInverseSqrt;
        case LrSchedulerType::kWarmupStableDecay:
            return kStable;
        case LrSchedulerType::kLinear:
        case LrSchedulerType::kConstant:
        case LrSchedulerType::kConstantWithWarmup:
            break;
    }
    return {};
}

}  // namespace

std::int64_t warmup_steps_for(std::int64_t total_steps, const TrainingConfig& config) {
    if (config.lr_scheduler_type == LrSchedulerType::kConstant) return 0;
    if (config.warmup_steps >= 1) return static_cast<std::int64_t>(config.warmup_steps);
    return static_cast<std::int64_t>(std::ceil(static_cast<double>(total_steps) * config.warmup_steps));
}

double lr_factor(const TrainingConfig& config, std::int64_t step, std::int64_t warmup_steps,
                 std::int64_t total_steps) {
    const LrSchedulerKwargs& kwargs = config.lr_scheduler_kwargs;
    const Position at{step, warmup_steps, total_steps};
    switch (config.lr_scheduler_type) {
        case LrSchedulerType::kConstant:
            return 1.0;
        case LrSchedulerType::kWarmupStableDecay:
            return warmup_stable_decay_factor(at, kwargs);
        case LrSchedulerType::kCosineWarmupWithMinLr:
            return warmup_with_min_lr_factor(at, config);
        default:
            break;
    }
    if (step < warmup_steps) return at.warmup_progress();
    switch (config.lr_scheduler_type) {
        case LrSchedulerType::kLinear:
            return linear_factor(at);
        case LrSchedulerType::kCosine:
            return cosine_factor(at, kwargs);
        case LrSchedulerType::kCosineWithRestarts:
            return restarts_factor(at, kwargs);
        case LrSchedulerType::kCosineWithMinLr:
            return min_lr_factor(at, config);
        case LrSchedulerType::kPolynomial:
            return polynomial_factor(at, config);
        case LrSchedulerType::kInverseSqrt:
            return inverse_sqrt_factor(at, kwargs);
        default:
            return 1.0;
    }
}

void check_lr_scheduler(const TrainingConfig& config, const std::string& path, FaultList& faults) {
    const LrSchedulerKwargs& kwargs = config.lr_scheduler_kwargs;
    const std::string type(enum_name(config.lr_scheduler_type));
    const auto taken = keywords_of(config.lr_scheduler_type);
    const std::vector<std::string> names(taken.begin(), taken.end());
    const Json given = FieldType<LrSchedulerKwargs>::write(kwargs);
    for (const auto& [name, value] : given.items()) {
        if (std::find(names.begin(), names.end(), name) != names.end()) continue;
        std::string all;
        for (const std::string& other : names) all += (all.empty() ? "" : ", ") + other;
        faults.add(path + "." + name, "is not a keyword of the schedule \"" + type + "\", which takes " +
                                          (all.empty() ? "none" : all));
    }
    const bool takes_min_lr = std::find(names.begin(), names.end(), "min_lr") != names.end();
    if (takes_min_lr && kwargs.min_lr.has_value() == kwargs.min_lr_rate.has_value()) {
        faults.add(path, "the schedule \"" + type + "\" needs one of min_lr and min_lr_rate" +
                             (kwargs.min_lr ? ", not both" : ""));
    }
    const bool is_stable = config.lr_scheduler_type == LrSchedulerType::kWarmupStableDecay;
    if (is_stable && !kwargs.num_decay_steps) {
        faults.add(path, "the schedule \"" + type + "\" needs num_decay_steps");
    }
    if (takes_min_lr && kwargs.min_lr && *kwargs.min_lr > config.learning_rate) {
        faults.add(path + ".min_lr", "must not be above training.learning_rate");
    }
    const bool is_polynomial = config.lr_scheduler_type == LrSchedulerType::kPolynomial;
    if (is_polynomial && kwargs.lr_end.value_or(kPolynomialEnd) >= config.learning_rate) {
        faults.add(path + ".lr_end", "(1e-7 when left out) must be below training.learning_rate");
    }
}

}  // namespace qlora::train

namespace qlora {

std::string FieldType<train::LrSchedulerKwargs>::read(const Json& value, const FieldRule&,
                                                      train::LrSchedulerKwargs& out) {
    if (!fits(value)) return wrong_type(kind(), value);
    train::LrSchedulerKwargs kwargs;
    ReadState state;
    if (value.is_object()) read_fields(value, "", kwargs, state);
    std::string problems;
    for (const std::string& fault : state.faults.faults()) problems += (problems.empty() ? "" : "; ") + fault;
    if (problems.empty()) out = kwargs;
    return problems;
}

Json FieldType<train::LrSchedulerKwargs>::write(const train::LrSchedulerKwargs& value) {
    Json given = Json::object();
    const Json all = write_fields(value);
    for (const auto& [name, keyword] : all.items()) {
        if (!keyword.is_null()) given[name] = keyword;
    }
    return given;
}

}  // namespace qlora
