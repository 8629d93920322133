#pragma once

#include <cstddef>
#include <string>

#include "answer_text.h"
#include "qlora/data/message.h"

namespace qlora::data {

/// What of a turn a rendering does not hold just once: "leaves out reasoning_content", "changes content";
/// empty where all is there. White space at the ends of a text does not count.
std::string fault_of_writing(const WrittenValues& written, std::size_t place, const Message& message);

}  // namespace qlora::data
