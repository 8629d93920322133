#include "numbers.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>

namespace qlora::jinja {

std::string float_text(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
    char buffer[64];
    char* const end =
        std::to_chars(buffer, buffer + sizeof buffer - 1, value, std::chars_format::scientific).ptr;
    *end = '\0';  // for atoi
    const std::string_view all(buffer, static_cast<std::size_t>(end - buffer));
    const std::size_t e = all.find('e');
    std::string digits;
    std::string out = all.front() == '-' ? "-" : "";
    for (const char c : all.substr(0, e))
        if (c >= '0' && c <= '9') digits += c;
    const int exponent = std::atoi(buffer + e + 1);
    const int count = static_cast<int>(digits.size());
    if (exponent < -4 || exponent >= 16) {
        out += digits.substr(0, 1);
        if (count > 1) out += "." + digits.substr(1);
        char tail[16];
        std::snprintf(tail, sizeof tail, "e%+03d", exponent);
        return out + tail;
    }
    if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    if (count <= exponent + 1)
        return out + digits + std::string(static_cast<std::size_t>(exponent + 1 - count), '0') + ".0";
    return out + digits.substr(0, static_cast<std::size_t>(exponent + 1)) + "." +
           digits.substr(static_cast<std::size_t>(exponent + 1));
}

std::optional<double> parse_float(std::string_view text) {
    const char* const end = text.data() + text.size();
    double value = 0;
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    // from_chars also reads nan(...).
    if (stop != end || error == std::errc::invalid_argument || text.find('(') != std::string_view::npos)
        return {};
    if (error != std::errc::result_out_of_range) return value;
    const bool is_tiny = text.find("e-") != std::string_view::npos ||
                         text.find("E-") != std::string_view::npos ||
                         text.find_first_of("123456789") > text.find('.');
    value = is_tiny ? 0.0 : std::numeric_limits<double>::infinity();
    return text.starts_with('-') ? -value : value;
}

}  // namespace qlora::jinja
