#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::data {

enum class Role { kSystem, kUser, kAssistant };

/// The role as chat templates spell it: "system", "user", "assistant".
std::string_view name_of(Role role);
std::optional<Role> role_from_name(std::string_view name);

/// One turn of a conversation.
struct Message {
    Role role = Role::kUser;
    std::string content;

    bool operator==(const Message&) const = default;
};

}  // namespace qlora::data
