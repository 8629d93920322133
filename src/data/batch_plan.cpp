#include "qlora/data/batch_plan.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

#include "qlora/core/error.h"
#include "qlora/kernels/philox.h"

namespace qlora::data {
namespace {

// Random streams of epochs start here: far from the small numbers that initial weights use as streams.
constexpr std::uint64_t kShuffleStream = std::uint64_t{0x73687566} << 32;
// group_by_length sorts within so many micro-batches, as transformers' LengthGroupedSampler does.
constexpr std::int64_t kSortedMicroBatches = 50;

using Places = std::vector<std::int64_t>;

void check(const BatchPlanOptions& options) {
    if (options.max_tokens_per_batch < 0) throw ConfigError("data.max_tokens_per_batch: must be above 0");
    if (options.max_tokens_per_batch == 0 && options.per_device_train_batch_size < 1) {
        throw ConfigError("training.per_device_train_batch_size: must be at least 1");
    }
    if (options.gradient_accumulation_steps < 1) {
        throw ConfigError("training.gradient_accumulation_steps: must be at least 1");
    }
}

// Fisher-Yates.
void shuffle(Places& order, std::uint64_t seed, std::int64_t epoch) {
    kernels::PhiloxStream random(seed, kShuffleStream + static_cast<std::uint64_t>(epoch));
    for (std::size_t left = order.size(); left > 1; --left) {
        std::swap(order[left - 1], order[random.below(left)]);
    }
}

// Rows of one window: as many as 50 micro-batches take, by tokens estimated from the mean length.
std::int64_t window_rows(std::span<const std::int64_t> lengths, const BatchPlanOptions& options) {
    const auto rows = static_cast<std::int64_t>(lengths.size());
    if (options.max_tokens_per_batch == 0) return kSortedMicroBatches * options.per_device_train_batch_size;
    const std::int64_t tokens =
        std::max<std::int64_t>(1, std::reduce(lengths.begin(), lengths.end(), rows * options.tokens_before));
    return std::max<std::int64_t>(1, kSortedMicroBatches * options.max_tokens_per_batch * rows / tokens);
}

// Longest first in each window; the longest of all leads the epoch, so that a lack of memory shows at once.
void sort_windows(Places& order, std::span<const std::int64_t> lengths, std::int64_t window) {
    const auto longer = [&](std::int64_t a, std::int64_t b) {
        return lengths[static_cast<std::size_t>(a)] > lengths[static_cast<std::size_t>(b)];
    };
    auto longest_window = order.begin();
    for (auto begin = order.begin(); begin != order.end();) {
        const auto end = begin + std::min<std::int64_t>(window, order.end() - begin);
        std::stable_sort(begin, end, longer);
        if (longer(*begin, *longest_window)) longest_window = begin;
        begin = end;
    }
    if (!order.empty()) std::iter_swap(order.begin(), longest_window);
}

std::vector<Places> batches_by_rows(const Places& order, std::int64_t rows) {
    std::vector<Places> batches;
    for (std::size_t i = 0; i < order.size(); ++i) {
        if (i % static_cast<std::size_t>(rows) == 0) batches.emplace_back();
        batches.back().push_back(order[i]);
    }
    return batches;
}

// A row longer than the limit is a micro-batch of its own.
std::vector<Places> batches_by_tokens(const Places& order, std::span<const std::int64_t> lengths,
                                      const BatchPlanOptions& options) {
    std::vector<Places> batches;
    std::int64_t tokens = 0;
    for (const std::int64_t place : order) {
        const std::int64_t length = lengths[static_cast<std::size_t>(place)] + options.tokens_before;
        if (batches.empty() || tokens + length > options.max_tokens_per_batch) {
            batches.emplace_back();
            tokens = 0;
        }
        batches.back().push_back(place);
        tokens += length;
    }
    return batches;
}

}  // namespace

std::vector<StepPlan> plan_epoch(std::span<const std::int64_t> lengths, const BatchPlanOptions& options,
                                 std::int64_t epoch) {
    check(options);
    Places order(lengths.size());
    std::iota(order.begin(), order.end(), std::int64_t{0});
    if (options.shuffle) shuffle(order, options.seed, epoch);
    if (options.group_by_length) sort_windows(order, lengths, window_rows(lengths, options));
    std::vector<Places> batches = options.max_tokens_per_batch > 0
                                      ? batches_by_tokens(order, lengths, options)
                                      : batches_by_rows(order, options.per_device_train_batch_size);
    std::vector<StepPlan> steps;
    for (std::size_t i = 0; i < batches.size(); ++i) {
        if (i % static_cast<std::size_t>(options.gradient_accumulation_steps) == 0) steps.emplace_back();
        steps.back().micro_batches.push_back(std::move(batches[i]));
    }
    return steps;
}

std::int64_t steps_of_epoch(std::span<const std::int64_t> lengths, const BatchPlanOptions& options,
                            std::int64_t epoch) {
    check(options);
    if (options.max_tokens_per_batch > 0)
        return static_cast<std::int64_t>(plan_epoch(lengths, options, epoch).size());
    const auto groups = [](std::int64_t items, std::int64_t size) { return (items + size - 1) / size; };
    return groups(groups(static_cast<std::int64_t>(lengths.size()), options.per_device_train_batch_size),
                  options.gradient_accumulation_steps);
}

}  // namespace qlora::data
