#include "turn_reader.h"

#include <algorithm>
#include <array>
#include <utility>

#include "qlora/core/error.h"
#include "row_fields.h"
#include "tool_calls.h"

namespace qlora::data::formats {
namespace {

struct RoleWord {
    std::string_view word;
    Role role;
};
// Roles of the chat APIs, of ShareGPT dumps and of LLaMA-Factory's tool rows.
constexpr std::array<RoleWord, 11> kRoleWords = {{{"system", Role::kSystem},
                                                  {"developer", Role::kDeveloper},
                                                  {"user", Role::kUser},
                                                  {"human", Role::kUser},
                                                  {"assistant", Role::kAssistant},
                                                  {"gpt", Role::kAssistant},
                                                  {"model", Role::kAssistant},
                                                  {"tool", Role::kTool},
                                                  {"observation", Role::kTool},
                                                  {"function", Role::kTool},
                                                  {"function_call", Role::kAssistant}}};
constexpr std::string_view kFunctionCall = "function_call";
// Names that reasoning goes by; the first one that is there counts, as in transformers.
constexpr std::array<const char*, 3> kReasoning = {"reasoning_content", "thinking", "reasoning"};

/// One turn on its way from the row to a message.
class TurnReader {
  public:
    TurnReader(const Json& turn, std::string where, const TurnNames& names)
        : turn_(turn), where_(std::move(where)), names_(names) {}

    Message read() {
        if (!turn_.is_object()) throw DataError(where_ + " must be an object, found " + type_of(turn_));
        const std::string role_key = key_of({"role", "from"}, names_.role);
        const std::string content_key = key_of({"content", "value"}, names_.content, /*may_be_missing=*/true);
        read_role(role_key);
        if (is_function_call_) {
            read_called_functions(content_key);
        } else {
            read_tool_calls();
            read_content(content_key);
        }
        read_reasoning();
        copy_others(role_key, content_key);
        Message message = Message::from_fields(role_, object_);
        if (is_switched_off()) message.switch_off();
        if (role_ == Role::kAssistant && !message.calls_tools())
            refuse_empty_answer(message.content(), "the answer in " + where_);
        return message;
    }

  private:
    /// The name under which the turn has its role or its content.
    std::string key_of(const std::array<const char*, 2>& keys, std::string_view usual,
                       bool may_be_missing = false) const {
        std::string found;
        for (const char* key : keys) {
            if (!holds(key)) continue;
            if (!found.empty()) throw DataError(where_ + " has both " + shown(found) + " and " + shown(key));
            found = key;
        }
        if (!found.empty()) return found;
        const std::string name(usual);
        if (!turn_.contains(name) && !may_be_missing) throw DataError(where_ + " has no " + shown(name));
        return name;
    }
    bool holds(const char* name) const {
        const auto found = turn_.find(name);
        return found != turn_.end() && !found->is_null();
    }
    std::string of_turn(const std::string& name) const { return shown(name) + " of " + where_; }

    void read_role(const std::string& key) {
        const Json& value = turn_.at(key);
        if (!value.is_string()) throw DataError(of_turn(key) + " must be a string, found " + type_of(value));
        const std::string& word = value.get_ref<const std::string&>();
        const auto entry = std::find_if(kRoleWords.begin(), kRoleWords.end(),
                                        [&](const RoleWord& known) { return known.word == word; });
        if (entry != kRoleWords.end()) {
            role_ = entry->role;
            is_function_call_ = word == kFunctionCall;
            return;
        }
        std::string known;
        for (const RoleWord& one : kRoleWords) known += (known.empty() ? "" : ", ") + std::string(one.word);
        throw DataError(where_ + " has the unknown role " + shown(word) + "; known are " + known);
    }

    /// ShareGPT rows with tools: the turn's text is the JSON of the call or of a list of calls.
    void read_called_functions(const std::string& key) {
        const auto found = turn_.find(key);
        if (found == turn_.end()) throw DataError(where_ + " has no " + shown(key));
        for (const char* name : {"tool_calls", "function_call"}) {
            if (holds(name) && !says_nothing(turn_.at(name)))
                throw DataError(where_ + " holds a call in both " + shown(key) + " and " + shown(name));
        }
        Json calls = *found;
        if (calls.is_string()) {
            try {
                calls = parse_json(calls.get_ref<const std::string&>(), "");
            } catch (const ConfigError&) {
                throw DataError(of_turn(key) +
                                " must be the JSON of a call, {\"name\": ..., \"arguments\": "
                                "{...}}, or of a list of calls, found " +
                                shown(found->get<std::string>()));
            }
        }
        if (!calls.is_structured() || calls.empty())
            throw DataError(of_turn(key) + " must be the JSON of a call or of a list of calls, found " +
                            type_of(calls));
        object_["content"] = "";
        object_["tool_calls"] = normal_tool_calls(calls, of_turn(key));
    }

    /// The chat APIs' `tool_calls`, and `function_call`, their older form of one call.
    void read_tool_calls() {
        std::string found;
        for (const char* name : {"tool_calls", "function_call"}) {
            if (!holds(name) || says_nothing(turn_.at(name))) continue;
            if (!found.empty()) throw DataError(where_ + " has both " + shown(found) + " and " + shown(name));
            found = name;
        }
        if (found.empty()) return;
        if (role_ != Role::kAssistant)
            throw DataError(of_turn(found) + " stands in a turn of the role " +
                            shown(std::string(qlora::data::name_of(role_))) +
                            "; only an assistant calls tools");
        const bool is_list = found == "tool_calls";
        const Json calls = parsed_value(
            turn_.at(found), is_list ? Json::value_t::array : Json::value_t::object, of_turn(found));
        if (!calls.empty()) calls_ = normal_tool_calls(calls, of_turn(found));
    }

    void read_content(const std::string& key) {
        const auto found = turn_.find(key);
        const bool is_nothing = found == turn_.end() || found->is_null();
        if (is_nothing && calls_.is_null()) {
            if (found == turn_.end()) throw DataError(where_ + " has no " + shown(key));
            throw DataError(of_turn(key) + " must be a string, found null");
        }
        // What is null is not there for a template, as in transformers.
        if (!is_nothing) object_["content"] = text_of(*found, key);
        if (!calls_.is_null()) object_["tool_calls"] = std::move(calls_);
    }

    /// A string, or the texts of a list of parts, joined as templates that take such lists join them.
    std::string text_of(const Json& content, const std::string& key) const {
        if (content.is_string()) return content.get<std::string>();
        if (!content.is_array())
            throw DataError(of_turn(key) + " must be a string or a list of text parts, found " +
                            type_of(content));
        std::string text;
        for (std::size_t i = 0; i < content.size(); ++i) {
            const std::string place = "part " + std::to_string(i) + " of " + of_turn(key);
            const Json& part = content[i];
            if (!part.is_object()) throw DataError(place + " must be an object, found " + type_of(part));
            const auto type = part.find("type");
            if (type == part.end() || !type->is_string())
                throw DataError(place + " must have a \"type\", a string");
            if (*type != "text")
                throw DataError(place + " is of the type " + shown(type->get<std::string>()) +
                                "; only \"text\" can be trained on");
            const auto words = part.find("text");
            if (words == part.end() || !words->is_string())
                throw DataError(place + " must have a \"text\", a string");
            text += words->get_ref<const std::string&>();
        }
        return text;
    }

    void read_reasoning() {
        const Json* first = nullptr;
        for (const char* name : kReasoning) {
            if (!holds(name)) continue;
            const Json& value = turn_.at(name);
            if (!value.is_string())
                throw DataError(of_turn(name) + " must be a string, found " + type_of(value));
            if (first != nullptr && !says_nothing(value) && value != *first)
                throw DataError(where_ +
                                " has reasoning under two names that differ; keep \"reasoning_content\"");
            if (first == nullptr || says_nothing(*first)) first = &value;
        }
        if (first == nullptr) return;
        if (role_ != Role::kAssistant && !says_nothing(*first))
            throw DataError(where_ + " has reasoning, but only an assistant reasons");
        object_["reasoning_content"] = *first;
        object_["thinking"] = *first;
    }

    static bool is_switch(const std::string& name) {
        return name == "weight" || name == "train" || name == "loss";
    }

    /// The rest goes to the template as it is, but for what is null.
    void copy_others(const std::string& role_key, const std::string& content_key) {
        for (const auto& [name, value] : turn_.items()) {
            if (name == "train_detail" || name == "loss_scale") {
                if (says_nothing(value)) continue;
                throw DataError(of_turn(name) +
                                " says what to train on inside a turn, which is not supported; "
                                "\"weight\" 0 or \"train\" false leave out a whole turn");
            }
            const bool is_read = name == role_key || name == content_key || name == "tool_calls" ||
                                 name == "function_call" || name == "reasoning" || is_switch(name);
            if (!is_read && !value.is_null() && !object_.contains(name)) object_[name] = value;
        }
    }

    /// OpenAI's `weight` (0 or 1), axolotl's `train` and ms-swift's `loss` (true or false).
    bool is_switched_off() const {
        const char* decides = nullptr;
        bool is_off = false;
        for (const char* name : {"weight", "train", "loss"}) {
            if (!holds(name)) continue;
            const bool off = switch_says_off(name);
            if (decides != nullptr && off != is_off)
                throw DataError(where_ + " has " + shown(decides) + " and " + shown(name) + ", which differ");
            decides = name;
            is_off = off;
        }
        return is_off;
    }
    bool switch_says_off(const std::string& name) const {
        const Json& value = turn_.at(name);
        const bool is_weight = name == "weight";
        if (is_weight && value.is_number() && (value == 0 || value == 1)) return value == 0;
        if (is_weight)
            throw DataError(of_turn(name) + " must be 0 or 1, found " +
                            (value.is_number() ? value.dump() : type_of(value)));
        if (!value.is_boolean())
            throw DataError(of_turn(name) + " must be true or false, found " + type_of(value));
        if (value.get<bool>() && role_ != Role::kAssistant)
            throw DataError(of_turn(name) + " asks to train a turn of the role " +
                            shown(std::string(qlora::data::name_of(role_))) +
                            "; only an assistant's turns are trained (or all, with data.train_on)");
        return !value.get<bool>();
    }

    const Json& turn_;
    std::string where_;
    TurnNames names_;
    Role role_ = Role::kUser;
    bool is_function_call_ = false;
    Json calls_;
    Json object_ = Json::object();
};

}  // namespace

Message read_turn(const Json& turn, const std::string& where, const TurnNames& names) {
    return TurnReader(turn, where, names).read();
}

}  // namespace qlora::data::formats
