#pragma once

#include <string>
#include <vector>

#include "qlora/core/json.h"

namespace qlora::data {

/// Which of these variables for a chat template (an object or null) come from the row itself.
inline std::vector<std::string> own_variables_in(const Json& arguments) {
    std::vector<std::string> out;
    for (const char* name : {"messages", "tools", "documents", "add_generation_prompt"}) {
        if (arguments.is_object() && arguments.contains(name)) out.emplace_back(name);
    }
    return out;
}

}  // namespace qlora::data
