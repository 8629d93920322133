#include "messages.h"

#include <nlohmann/json.hpp>

namespace qlora::io {

std::string shown(std::string_view name) {
    constexpr std::size_t kMaxShown = 200;
    const bool cut = name.size() > kMaxShown;
    const nlohmann::json text = std::string(name.substr(0, kMaxShown));
    const std::string out = text.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    return cut ? out + "..." : out;
}

void ListedFaults::throw_if_any(const std::string& headline) const {
    if (unlisted_ == 0) return list_.throw_if_any<CheckpointError>(headline);
    std::string text = headline + ": " + std::to_string(list_.size() + unlisted_) + " faults:";
    for (const std::string& fault : list_.faults()) text += "\n  " + fault;
    throw CheckpointError(text + "\n  and " + std::to_string(unlisted_) + " more");
}

}  // namespace qlora::io
