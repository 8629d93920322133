#include "qlora/data/held_out_rows.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "qlora/core/error.h"
#include "qlora/kernels/philox.h"

namespace qlora::data {
namespace {

// The random stream of this choice: far from those of epochs and from the small numbers of initial weights.
constexpr std::uint64_t kHeldOutStream = std::uint64_t{0x68656c64} << 32;

std::int64_t count_of(const RowPart& part, std::int64_t rows) {
    if (part.rows > 0) return part.rows;
    // 0.07 * 100 lies a rounding above 7 and must not become 8.
    constexpr double kRounding = 1e-12;
    const double count = part.share * static_cast<double>(rows);
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(count * (1 - kRounding))));
}

/// What `train` counts of its rows, after they have become fewer.
void count_again(Dataset& train) {
    DatasetStatistics& statistics = train.statistics;
    statistics.kept = static_cast<std::int64_t>(train.examples.size());
    statistics.truncated = statistics.tokens = statistics.supervised_tokens = statistics.longest = 0;
    for (const Example& example : train.examples) {
        statistics.truncated += example.truncated ? 1 : 0;
        statistics.tokens += example.tokens();
        statistics.supervised_tokens += example.supervised_tokens();
        statistics.longest = std::max(statistics.longest, example.tokens());
    }
}

std::string_view bytes_of(const Example& example) {
    return {reinterpret_cast<const char*>(example.ids.data()), example.ids.size() * sizeof(example.ids[0])};
}

/// How many of the chosen rows, which are still in `all`, have the tokens of a row that is left.
std::int64_t repeats(const std::vector<Example>& all, const std::vector<std::int64_t>& chosen,
                     const std::vector<Example>& left) {
    std::unordered_set<std::string_view> trained;
    for (const Example& example : left) trained.insert(bytes_of(example));
    std::int64_t count = 0;
    for (const Example& example : all) {
        const bool is_chosen = std::binary_search(chosen.begin(), chosen.end(), example.row);
        count += is_chosen && !example.ids.empty() && trained.contains(bytes_of(example)) ? 1 : 0;
    }
    return count;
}

}  // namespace

std::vector<std::int64_t> hold_out(Dataset& train, const RowPart& part, std::uint64_t seed) {
    const auto rows = static_cast<std::int64_t>(train.examples.size());
    const std::int64_t count = count_of(part, rows);
    if (count >= rows) {
        throw ConfigError("data.eval: holding out " + std::to_string(count) +
                          " rows leaves none to train on: the training files have " + std::to_string(rows) +
                          " that can be used");
    }
    kernels::PhiloxStream random(seed, kHeldOutStream);
    std::vector<std::int64_t> chosen;
    std::vector<Example> left;
    left.reserve(static_cast<std::size_t>(rows - count));
    // Selection sampling (Knuth): each set of `count` rows is equally likely.
    for (std::int64_t i = 0; i < rows; ++i) {
        Example& example = train.examples[static_cast<std::size_t>(i)];
        const auto wanted = static_cast<std::uint64_t>(count) - chosen.size();
        if (random.below(static_cast<std::uint64_t>(rows - i)) < wanted) {
            chosen.push_back(example.row);
        } else {
            left.push_back(std::move(example));
        }
    }
    train.statistics.held_out = count;
    train.statistics.held_out_repeats = repeats(train.examples, chosen, left);
    train.examples = std::move(left);
    count_again(train);
    return chosen;
}

}  // namespace qlora::data
