#include "qlora/data/message.h"

#include <array>

namespace qlora::data {
namespace {

struct RoleName {
    Role role;
    std::string_view name;
};
constexpr std::array<RoleName, 3> kRoles = {
    {{Role::kSystem, "system"}, {Role::kUser, "user"}, {Role::kAssistant, "assistant"}}};

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

}  // namespace qlora::data
