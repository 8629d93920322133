#include "unwritten_fields.h"

#include <algorithm>

#include "qlora/core/error.h"

namespace qlora::data {

void refuse_unwritten_fields(const Record& record, const std::string& template_name) {
    std::string fields;
    const auto add = [&](const char* name) { fields += (fields.empty() ? "" : ", ") + std::string(name); };
    if (!record.tools.is_null()) add("tools");
    if (!record.documents.is_null()) add("documents");
    if (!record.template_arguments.is_null()) add("chat_template_kwargs");
    const auto any_turn = [&](const auto& holds) {
        return std::any_of(record.messages.begin(), record.messages.end(), holds);
    };
    if (any_turn([](const Message& turn) { return turn.calls_tools(); })) add("calls of tools");
    if (any_turn([](const Message& turn) { return !turn.reasoning().empty(); })) add("reasoning_content");
    if (fields.empty()) return;
    throw DataError("the template " + template_name +
                    " does not write what the row holds besides its turns' "
                    "texts (" +
                    fields +
                    "), so it would not be trained; take it out of the row or write it "
                    "into the texts");
}

void refuse_switched_off_questions(const Record& record) {
    for (const Message& turn : record.messages) {
        if (!turn.is_switched_off() || turn.role() == Role::kAssistant) continue;
        throw DataError("a turn of the role \"" + std::string(name_of(turn.role())) +
                        "\" is switched off (weight, train or loss), but with data.train_on \"all\" only an "
                        "assistant's turns can be");
    }
}

std::vector<std::string> turn_fields_passed_over(const Record& record) {
    std::vector<std::string> out;
    for (const Message& turn : record.messages) {
        for (const auto& [name, value] : turn.object().items()) {
            const bool is_known = name == "role" || name == "content" || name == "reasoning_content" ||
                                  name == "thinking" || name == "tool_calls";
            const std::string shown = "turns: " + name;
            if (!is_known && std::find(out.begin(), out.end(), shown) == out.end()) out.push_back(shown);
        }
    }
    return out;
}

}  // namespace qlora::data
