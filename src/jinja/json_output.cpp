#include "json_output.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "compare.h"
#include "numbers.h"
#include "qlora/core/code_points.h"

namespace qlora::jinja {
namespace {

std::string u_escape(char32_t code) {
    char text[16];
    if (code < 0x10000) {
        std::snprintf(text, sizeof text, "\\u%04x", static_cast<unsigned>(code));
    } else {
        const auto low = static_cast<unsigned>(code - 0x10000);
        std::snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + (low >> 10), 0xDC00 + (low & 0x3FF));
    }
    return text;
}

class JsonWriter {
  public:
    JsonWriter(Runtime& runtime, const JsonStyle& style)
        : runtime_(runtime), style_(style), out_(runtime.budget) {}

    TextPtr run(const Value& value) {
        write(value, 0);
        return out_.finish();
    }

  private:
    void write(const Value& value, int level) {
        runtime_.check_stack();
        runtime_.budget.step();
        switch (value.kind()) {
            case Kind::kNone:
                return out_.append("null", value.mark());
            case Kind::kBoolean:
                return out_.append(value.whole() != 0 ? "true" : "false", value.mark());
            case Kind::kInteger:
                return out_.append(std::to_string(value.whole()), value.mark());
            case Kind::kFloat:
                return out_.append(real_text(value.real()), value.mark());
            case Kind::kText:
                return write_string(value.text());
            case Kind::kList:
            case Kind::kTuple:
                return write_list(value.list().items, level);
            case Kind::kDict:
                return write_dict(value.dict(), level);
            default:
                runtime_.fail("a value of type " + std::string(type_name(value)) + " has no form in JSON" +
                              (value.is(Kind::kIterator) ? ": use |list before |tojson" : ""));
        }
    }

    static std::string real_text(double value) {
        if (std::isnan(value)) return "NaN";
        if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
        return float_text(value);
    }

    void write_list(const std::vector<Value>& items, int level) {
        if (items.empty()) return out_.append("[]");
        out_.append("[");
        for (std::size_t i = 0; i < items.size(); ++i) {
            begin_item(i == 0, level + 1);
            write(items[i], level + 1);
        }
        end_items(level);
        out_.append("]");
    }

    void write_dict(const Dict& dict, int level) {
        if (dict.entries.empty()) return out_.append("{}");
        out_.append("{");
        bool is_first = true;
        const auto write_entry = [&](const std::pair<Value, Value>& entry) {
            begin_item(is_first, level + 1);
            is_first = false;
            write_key(entry.first);
            if (style_.key_separator != nullptr) {
                out_.append(*style_.key_separator);
            } else {
                out_.append(": ");
            }
            write(entry.second, level + 1);
        };
        if (style_.sort_keys) {
            runtime_.budget.step(static_cast<std::int64_t>(dict.entries.size()) * 16);
            const Charge charge(&runtime_.budget, dict.entries.size() * sizeof(Value) * 2);
            Dict::Entries sorted = dict.entries;
            std::stable_sort(sorted.begin(), sorted.end(), [&](const auto& a, const auto& b) {
                return less(runtime_.budget, a.first, b.first);
            });
            for (const auto& entry : sorted) write_entry(entry);
        } else {
            for (const auto& entry : dict.entries) write_entry(entry);
        }
        end_items(level);
        out_.append("}");
    }

    void begin_item(bool is_first, int level) {
        if (!is_first) {
            if (style_.item_separator != nullptr) {
                out_.append(*style_.item_separator);
            } else {
                out_.append(style_.indent ? "," : ", ");
            }
        }
        new_line(level);
    }

    void end_items(int level) { new_line(level); }

    void new_line(int level) {
        if (!style_.indent) return;
        out_.append("\n");
        for (int i = 0; i < level; ++i) out_.append(*style_.indent);
    }

    void write_key(const Value& key) {
        switch (key.kind()) {
            case Kind::kText:
                return write_string(key.text());
            case Kind::kBoolean:
            case Kind::kInteger:
            case Kind::kFloat:
            case Kind::kNone:
                out_.append("\"");
                write(key, 0);
                return out_.append("\"");
            default:
                runtime_.fail("a value of type " + std::string(type_name(key)) + " cannot be a key in JSON");
        }
    }

    // Empty for a character that stands for itself.
    std::string escape_of(char32_t code) const {
        switch (code) {
            case '"':
                return "\\\"";
            case '\\':
                return "\\\\";
            case '\b':
                return "\\b";
            case '\f':
                return "\\f";
            case '\n':
                return "\\n";
            case '\r':
                return "\\r";
            case '\t':
                return "\\t";
            default:
                break;
        }
        // Python takes 0x7f for ASCII only without ensure_ascii.
        if (code < 0x20 || (style_.ensure_ascii && code > 0x7E)) return u_escape(code);
        return {};
    }

    void write_string(const Text& text) {
        out_.append("\"");
        std::size_t plain = 0;
        for (std::size_t i = 0; i < text.bytes.size();) {
            const std::size_t next = i + utf8_length(text.bytes[i]);
            if (const std::string escape = escape_of(decode_utf8(text.bytes, i)); !escape.empty()) {
                out_.append(text, plain, i);
                out_.append_for(text, i, escape);
                plain = next;
            }
            i = next;
        }
        out_.append(text, plain, text.bytes.size());
        out_.append("\"");
    }

    Runtime& runtime_;
    const JsonStyle& style_;
    TextBuilder out_;
};

}  // namespace

TextPtr json_text(Runtime& runtime, const Value& value, const JsonStyle& style) {
    return JsonWriter(runtime, style).run(value);
}

}  // namespace qlora::jinja
