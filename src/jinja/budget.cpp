#include "budget.h"

#include "messages.h"

namespace qlora::jinja {

void Budget::check_items(std::size_t count) const {
    if (count > limits_.list_items)
        exceed("a list of more than " + std::to_string(limits_.list_items) + " items is made");
}

void Budget::fail(const std::string& message) const {
    throw RenderError(RenderError::Kind::kFault, line_, at_line(name_, line_, message));
}

void Budget::refuse(const std::string& message) const {
    throw RenderError(RenderError::Kind::kRefused, line_, at_line(name_, line_, message));
}

void Budget::exceed(const std::string& message) const {
    throw RenderError(RenderError::Kind::kBudget, line_, at_line(name_, line_, message));
}

void Budget::exhausted_steps() const {
    exceed("the template takes more than " + std::to_string(limits_.steps) + " steps");
}

void Budget::exhausted_memory(std::size_t taken_back) {
    live_ -= taken_back;
    exceed("the template holds more than " + std::to_string(limits_.live_bytes >> 20) + " MB of values");
}

}  // namespace qlora::jinja
