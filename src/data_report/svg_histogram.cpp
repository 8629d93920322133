#include "svg_histogram.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>

#include "html_text.h"

namespace qlora::data_report {
namespace {

constexpr double kBars = 30;
constexpr double kWide = 640, kHigh = 160, kFoot = 20;

/// The least of 1, 2, 5 times a power of ten that is not below `value`.
double round_up(double value) {
    const double power = std::pow(10, std::floor(std::log10(value)));
    for (const double step : {1.0, 2.0, 5.0})
        if (step * power >= value) return step * power;
    return 10 * power;
}

}  // namespace

Histogram count_values(std::vector<double> values) {
    Histogram out;
    if (values.empty()) return out;
    std::sort(values.begin(), values.end());
    const double most = values[(values.size() - 1) * 99 / 100];
    if (most > 0) out.width = round_up(most / kBars);
    const auto bins = static_cast<std::size_t>(most / out.width) + 1;
    out.last_is_open = values.back() >= static_cast<double>(bins) * out.width;
    out.counts.resize(bins + out.last_is_open);
    for (const double value : values)
        ++out.counts[std::min(out.counts.size() - 1, static_cast<std::size_t>(value / out.width))];
    return out;
}

std::string svg_histogram(const Histogram& histogram, const std::string& caption, const std::string& unit,
                          std::optional<double> mark) {
    if (histogram.counts.empty()) return {};
    const auto bars = static_cast<double>(histogram.counts.size());
    const std::int64_t most = *std::max_element(histogram.counts.begin(), histogram.counts.end());
    const double bar = kWide / bars;
    std::string out = fmt::format(
        "<figure><figcaption>{}</figcaption>\n<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
        html_text(caption), kWide, kHigh + kFoot, html_text(caption));
    for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
        const double high = kHigh * static_cast<double>(histogram.counts[i]) /
                            static_cast<double>(std::max<std::int64_t>(most, 1));
        const double from = static_cast<double>(i) * histogram.width;
        const bool is_open = histogram.last_is_open && i + 1 == histogram.counts.size();
        const std::string upto = is_open ? "up" : fmt::format("{:g}", from + histogram.width);
        out += fmt::format(
            "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"><title>{:g} to {} {}: {} "
            "rows</title></rect>\n",
            static_cast<double>(i) * bar, kHigh - high, std::max(1.0, bar - 1), high, from, upto,
            html_text(unit), histogram.counts[i]);
    }
    const std::size_t every = std::max<std::size_t>(1, histogram.counts.size() / 6);
    for (std::size_t i = 0; i < histogram.counts.size(); i += every)
        out += fmt::format("<text x=\"{:.1f}\" y=\"{}\">{:g}</text>\n", static_cast<double>(i) * bar,
                           kHigh + kFoot - 5, static_cast<double>(i) * histogram.width);
    if (mark && *mark / histogram.width < bars)
        out += fmt::format(
            "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"0\" y2=\"{1}\"><title>max_length</title></line>\n",
            *mark / histogram.width * bar, kHigh);
    return out + "</svg></figure>\n";
}

}  // namespace qlora::data_report
