#include "strict_sax.h"

#include <utility>

#include "qlora/core/error.h"

namespace qlora::io {

void StrictSax::parse(std::string_view text, const std::string& file, const std::string& what) {
    what_ = what;
    // The parser takes a NUL byte for the end of its input.
    if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
        throw CheckpointError(file + ": " + what + " has a NUL byte at byte " + std::to_string(nul));
    }
    if (!nlohmann::json::sax_parse(text.data(), text.data() + text.size(), this)) {
        throw CheckpointError(file + ": " + message_);
    }
}

bool StrictSax::refuse(std::string message) {
    message_ = std::move(message);
    return false;
}

bool StrictSax::parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) {
    // The parser counts the byte it stumbled over.
    const std::size_t byte = position == 0 ? 0 : position - 1;
    return refuse(what_ + " is not JSON in UTF-8: fault at byte " + std::to_string(byte));
}

}  // namespace qlora::io
