#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "qlora/core/json.h"

namespace qlora::data {

enum class Role { kSystem, kDeveloper, kUser, kAssistant, kTool };

/// The role as chat templates spell it: "system", "developer", "user", "assistant", "tool".
std::string_view name_of(Role role);
std::optional<Role> role_from_name(std::string_view name);
/// Does the turn say what the answers are to be like, rather than take part in the conversation?
bool gives_instructions(Role role);

/// One turn of a conversation: an object as chat templates of transformers take it. Its `role` is one of the
/// names above, its `content`, where it has one, a string. An answer may call tools (`tool_calls`) and hold
/// reasoning (`reasoning_content`, and the same as `thinking`, as transformers gives it to templates).
class Message {
  public:
    Message(Role role, const std::string& content);
    /// `object`: the fields but for `role`, which is put first; `content` and `reasoning_content` are strings
    /// where they are there, `tool_calls` a list of {"type": "function", "function": {"name", "arguments"}}.
    static Message from_fields(Role role, const Json& object);

    Role role() const { return role_; }
    /// Empty where the turn has none, as one that only calls a tool.
    const std::string& content() const { return text_at("content"); }
    const std::string& reasoning() const { return text_at("reasoning_content"); }
    bool calls_tools() const { return object_.contains("tool_calls"); }
    const Json& object() const { return object_; }

    /// The row says that this turn is never trained (`weight` 0, `train` false): it is context only.
    bool is_switched_off() const { return is_switched_off_; }
    void switch_off() { is_switched_off_ = true; }

    bool operator==(const Message&) const = default;

  private:
    explicit Message(Role role);
    const std::string& text_at(const char* name) const;

    Role role_;
    Json object_;
    bool is_switched_off_ = false;
};

}  // namespace qlora::data
