#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qlora::data_report {

/// A histogram over bins of equal width.
struct Histogram {
    double from = 0;   ///< where the first bin begins, a multiple of `width`
    double width = 1;  ///< of a bin
    std::vector<std::int64_t> counts;
    bool first_is_open = false;  ///< the first bin holds all that is smaller, too
    bool last_is_open = false;   ///< the last bin holds all that is larger, too
};

/// A place on the axis and what stands there.
struct Mark {
    double at = 0;
    std::string name;
};

/// About 30 bins of a round width that hold 0 and all values but the hundredth that is largest, and where
/// some are negative also the hundredth that is smallest; these go into one more bin at either end.
Histogram count_values(std::vector<double> values);

/// As a figure with inline SVG. All texts are plain; `counted` says what has the values. A line stands at
/// `mark`, where it is inside.
std::string svg_histogram(const Histogram& histogram, const std::string& caption, const std::string& unit,
                          const std::optional<Mark>& mark = {}, const std::string& counted = "rows");

}  // namespace qlora::data_report
