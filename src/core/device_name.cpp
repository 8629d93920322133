#include "qlora/core/device_name.h"

#include <algorithm>
#include <charconv>

namespace qlora {

std::optional<DeviceName> parse_device_name(std::string_view text) {
    if (text == "auto") return DeviceName{DeviceName::Kind::kAuto};
    if (text == "cpu") return DeviceName{DeviceName::Kind::kCpu};
    if (text == "cuda") return DeviceName{DeviceName::Kind::kCuda};
    constexpr std::string_view kPrefix = "cuda:";
    constexpr std::size_t kMostDigits = 3;
    if (!text.starts_with(kPrefix)) return std::nullopt;
    const std::string_view number = text.substr(kPrefix.size());
    const bool is_number =
        !number.empty() && number.size() <= kMostDigits &&
        std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!is_number || (number.size() > 1 && number.front() == '0')) return std::nullopt;
    DeviceName out{DeviceName::Kind::kCuda};
    std::from_chars(number.data(), number.data() + number.size(), out.index);
    return out;
}

std::string wrong_device_name(std::string_view text) {
    return "must be auto, cpu, cuda or cuda:N with the number of a GPU (cuda:0 is the first), not \"" +
           std::string(text) + "\"";
}

}  // namespace qlora
