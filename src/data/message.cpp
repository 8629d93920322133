#include "qlora/data/message.h"

#include <array>

namespace qlora::data {
namespace {

struct RoleName {
    Role role;
    std::string_view name;
};
constexpr std::array<RoleName, 5> kRoles = {{{Role::kSystem, "system"},
                                             {Role::kDeveloper, "developer"},
                                             {Role::kUser, "user"},
                                             {Role::kAssistant, "assistant"},
                                             {Role::kTool, "tool"}}};

}  // namespace

std::string_view name_of(Role role) {
    for (const RoleName& entry : kRoles) {
        if (entry.role == role) return entry.name;
    }
    return {};
}

std::optional<Role> role_from_name(std::string_view name) {
    for (const RoleName& entry : kRoles) {
        if (entry.name == name) return entry.role;
    }
    return std::nullopt;
}

bool gives_instructions(Role role) {
    return role == Role::kSystem || role == Role::kDeveloper;
}

Message::Message(Role role) : role_(role) {
    object_["role"] = std::string(name_of(role));
}

Message::Message(Role role, const std::string& content) : Message(role) {
    object_["content"] = content;
}

Message Message::from_fields(Role role, const Json& object) {
    Message message(role);
    message.object_.update(object);
    return message;
}

const std::string& Message::text_at(const char* name) const {
    static const std::string none;
    const auto found = object_.find(name);
    return found == object_.end() ? none : found->get_ref<const std::string&>();
}

}  // namespace qlora::data
