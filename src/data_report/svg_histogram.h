#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qlora::data_report {

/// A histogram over bins of equal width.
struct Histogram {
    double width = 1;  ///< of a bin; the first begins at 0
    std::vector<std::int64_t> counts;
    bool last_is_open = false;  ///< the last bin holds all that is larger, too
};

/// About 30 bins of a round width that hold 99 % of the values, which must not be negative; what is larger
/// goes into one more bin.
Histogram count_values(std::vector<double> values);

/// As a figure with inline SVG. `caption` and `unit` are plain text; a line stands at `mark`, where it is
/// inside.
std::string svg_histogram(const Histogram& histogram, const std::string& caption, const std::string& unit,
                          std::optional<double> mark = {});

}  // namespace qlora::data_report
