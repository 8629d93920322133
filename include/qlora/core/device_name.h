#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace qlora {

/// Where tensors are to live, as users write it: "auto", "cpu", "cuda" (the first GPU) or "cuda:N".
struct DeviceName {
    enum class Kind { kAuto, kCpu, kCuda };

    Kind kind = Kind::kAuto;
    int index = 0;  ///< of a GPU, counted from 0

    bool operator==(const DeviceName&) const = default;
};

/// Nothing when `text` is no device's name. N has at most three digits and no zeros in front.
std::optional<DeviceName> parse_device_name(std::string_view text);

/// The end of a message about such a text: `must be auto, ..., not "cuda:007"`.
std::string wrong_device_name(std::string_view text);

}  // namespace qlora
