#include "qlora/train/memory_choice.h"

#include <algorithm>

#include "qlora/core/log.h"

namespace qlora::train {
namespace {

bool fits(const MemoryPlan& plan, std::int64_t available) {
    return plan.needed() <= available / 10 * 9;
}

/// The level with kept fp32 forms where they fit, else without; or as `cache` says.
MemoryChoice at_level(MemoryRequest request, nn::Recomputation level, std::int64_t available,
                      CacheDequantized cache) {
    request.recomputation = level;
    request.keep_dense = cache != CacheDequantized::kOff;
    MemoryPlan plan = plan_memory(request);
    if (cache == CacheDequantized::kAuto &&
        (plan.dense_copies > dense_limit(available) || !fits(plan, available))) {
        request.keep_dense = false;
        plan = plan_memory(request);
    }
    return {.recomputation = level,
            .keep_dense = request.keep_dense,
            .request = request,
            .plan = plan,
            .text = {}};
}

bool needs_less(const MemoryChoice& a, const MemoryChoice& b) {
    return a.plan.needed() < b.plan.needed();
}

}  // namespace

MemoryChoice choose_memory(MemoryRequest request, GradientCheckpointing setting, std::int64_t available,
                           CacheDequantized cache) {
    std::vector<MemoryChoice> choices;
    std::string needs;
    for (const auto& [name, level] : enum_table(nn::Recomputation{})) {
        choices.push_back(at_level(request, level, available, cache));
        needs +=
            fmt::format("{}{} {}", needs.empty() ? "" : ", ", name, gigabytes(choices.back().plan.needed()));
    }
    std::size_t chosen = 0;
    if (setting == GradientCheckpointing::kOn) chosen = choices.size() - 1;
    if (setting == GradientCheckpointing::kAuto) {
        while (chosen < choices.size() && !fits(choices[chosen].plan, available)) ++chosen;
    }
    MemoryChoice out = chosen < choices.size()
                           ? choices[chosen]
                           : *std::min_element(choices.begin(), choices.end(), needs_less);
    out.text = fmt::format("gradient checkpointing {}: recomputes {} (memory needed: {}; available: {})",
                           enum_name(setting), enum_name(out.recomputation), needs, gigabytes(available));
    return out;
}

std::string memory_advice(std::vector<MemoryOption> options, std::int64_t needed) {
    constexpr std::size_t kNamed = 3;
    // A change that saves less than 1 % is not worth naming.
    std::erase_if(options, [&](const MemoryOption& option) { return option.needed > needed / 100 * 99; });
    std::stable_sort(options.begin(), options.end(),
                     [](const MemoryOption& a, const MemoryOption& b) { return a.needed < b.needed; });
    if (options.size() > kNamed) options.resize(kNamed);
    if (options.empty()) return "no setting makes it much less: it takes a smaller model or more memory";
    std::string out;
    for (const MemoryOption& option : options) {
        out +=
            fmt::format("{}{} (then {})", out.empty() ? "" : ", ", option.setting, gigabytes(option.needed));
    }
    return "what helps most: " + out;
}

}  // namespace qlora::train
