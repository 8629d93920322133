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
    const std::size_t rank = (values.size() - 1) * 99 / 100;
    const double most = std::max(0.0, values[rank]);
    const double least = std::min(0.0, values[values.size() - 1 - rank]);
    if (most > least) out.width = round_up((most - least) / kBars);
    const double below = std::ceil(-least / out.width);  // bins left of 0
    out.from = 0 - below * out.width;
    out.first_is_open = values.front() < out.from;
    if (out.first_is_open) out.from -= out.width;
    const auto bins = static_cast<std::size_t>((most - out.from) / out.width) + 1;
    out.last_is_open = values.back() >= out.from + static_cast<double>(bins) * out.width;
    out.counts.resize(bins + out.last_is_open);
    for (const double value : values) {
        const double bin = std::max(0.0, (value - out.from) / out.width);
        ++out.counts[std::min(out.counts.size() - 1, static_cast<std::size_t>(bin))];
    }
    return out;
}

std::string svg_histogram(const Histogram& histogram, const std::string& caption, const std::string& unit,
                          const std::optional<Mark>& mark, const std::string& counted) {
    if (histogram.counts.empty()) return {};
    const auto bars = static_cast<double>(histogram.counts.size());
    const std::int64_t most = *std::max_element(histogram.counts.begin(), histogram.counts.end());
    const double bar = kWide / bars;
    // Of edges that are sums of a decimal fraction the rounding must not show.
    const auto edge = [&](std::size_t i) {
        return histogram.width * (std::round(histogram.from / histogram.width) + static_cast<double>(i));
    };
    std::string out = fmt::format(
        "<figure><figcaption>{}</figcaption>\n<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
        html_text(caption), kWide, kHigh + kFoot, html_text(caption));
    for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
        const double high = kHigh * static_cast<double>(histogram.counts[i]) /
                            static_cast<double>(std::max<std::int64_t>(most, 1));
        const bool is_lowest = histogram.first_is_open && i == 0;
        const bool is_open = histogram.last_is_open && i + 1 == histogram.counts.size();
        const std::string from = is_lowest ? "less" : fmt::format("{:g}", edge(i));
        const std::string upto = is_open ? "up" : fmt::format("{:g}", edge(i + 1));
        out += fmt::format(
            "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"><title>{} to {} {}: {} "
            "{}</title></rect>\n",
            static_cast<double>(i) * bar, kHigh - high, std::max(1.0, bar - 1), high, from, upto,
            html_text(unit), histogram.counts[i], html_text(counted));
    }
    const std::size_t every = std::max<std::size_t>(1, histogram.counts.size() / 6);
    const auto zero = static_cast<std::size_t>(std::round(-histogram.from / histogram.width));
    for (std::size_t i = zero % every; i < histogram.counts.size(); i += every)
        out += fmt::format("<text x=\"{:.1f}\" y=\"{}\">{:g}</text>\n", static_cast<double>(i) * bar,
                           kHigh + kFoot - 5, edge(i));
    const double place = mark ? (mark->at - histogram.from) / histogram.width : -1;
    if (place >= 0 && place < bars)
        out +=
            fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"0\" y2=\"{1}\"><title>{2}</title></line>\n",
                        place * bar, kHigh, html_text(mark->name));
    return out + "</svg></figure>\n";
}

}  // namespace qlora::data_report
