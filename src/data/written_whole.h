#pragma once

#include <cstddef>
#include <string>

#include "qlora/data/message.h"
#include "qlora/jinja/template.h"

namespace qlora::data {

/// What of a turn a rendering does not hold just once: "leaves out reasoning_content", "changes content";
/// empty where all is there. White space at the ends of a text does not count.
std::string fault_of_writing(const jinja::Rendering& rendering, std::size_t place, const Message& message);

}  // namespace qlora::data
