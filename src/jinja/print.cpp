#include "print.h"

#include <utf8proc.h>

#include "numbers.h"
#include "python_escape.h"
#include "qlora/core/code_points.h"

namespace qlora::jinja {
namespace {

bool is_printable(char32_t code) {
    if (code < 0x80) return code >= 0x20 && code < 0x7F;
    switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
        case UTF8PROC_CATEGORY_CN:
        case UTF8PROC_CATEGORY_CC:
        case UTF8PROC_CATEGORY_CF:
        case UTF8PROC_CATEGORY_CS:
        case UTF8PROC_CATEGORY_CO:
        case UTF8PROC_CATEGORY_ZL:
        case UTF8PROC_CATEGORY_ZP:
        case UTF8PROC_CATEGORY_ZS:
            return false;
        default:
            return true;
    }
}

void repr_of_text(TextBuilder& out, const Text& text) {
    const bool has_single = text.bytes.find('\'') != std::string::npos;
    const bool has_double = text.bytes.find('"') != std::string::npos;
    const char quote = has_single && !has_double ? '"' : '\'';
    out.append(std::string_view(&quote, 1));
    std::size_t plain = 0;  // from here on nothing is written
    for (std::size_t i = 0; i < text.bytes.size();) {
        const char32_t code = decode_utf8(text.bytes, i);
        const std::size_t next = i + utf8_length(text.bytes[i]);
        const bool needs_slash = code == '\\' || code == static_cast<char32_t>(quote);
        if (needs_slash || !is_printable(code)) {
            out.append(text, plain, i);
            out.append_for(text, i, needs_slash ? std::string{'\\', text.bytes[i]} : python_escape(code));
            plain = next;
        }
        i = next;
    }
    out.append(text, plain, text.bytes.size());
    out.append(std::string_view(&quote, 1));
}

void repr_of_items(Runtime& runtime, TextBuilder& out, const std::vector<Value>& items, std::string_view open,
                   std::string_view close) {
    out.append(open);
    for (std::size_t i = 0; i < items.size(); ++i) {
        if (i > 0) out.append(", ");
        print_repr(runtime, out, items[i]);
    }
    out.append(close);
}

void repr_of_namespace(Runtime& runtime, TextBuilder& out, Namespace& space) {
    if (space.is_printing) return out.append("<Namespace {...}>");
    struct Printing {
        explicit Printing(Namespace& s) : space(s) { space.is_printing = true; }
        ~Printing() { space.is_printing = false; }
        Namespace& space;
    } printing(space);
    out.append("<Namespace {");
    for (std::size_t i = 0; i < space.entries.size(); ++i) {
        if (i > 0) out.append(", ");
        print_repr(runtime, out, Value(space.entries[i].first));
        out.append(": ");
        print_repr(runtime, out, space.entries[i].second);
    }
    out.append("}>");
}

}  // namespace

void print_repr(Runtime& runtime, TextBuilder& out, const Value& value) {
    runtime.check_stack();
    runtime.budget.step();
    switch (value.kind()) {
        case Kind::kUndefined:
            return out.append("Undefined");
        case Kind::kNone:
            return out.append("None", value.mark());
        case Kind::kBoolean:
            return out.append(value.whole() != 0 ? "True" : "False", value.mark());
        case Kind::kInteger:
            return out.append(std::to_string(value.whole()), value.mark());
        case Kind::kFloat:
            return out.append(float_text(value.real()), value.mark());
        case Kind::kText:
            if (value.text().is_markup) out.append("Markup(");
            repr_of_text(out, value.text());
            if (value.text().is_markup) out.append(")");
            return;
        case Kind::kList:
            return repr_of_items(runtime, out, value.list().items, "[", "]");
        case Kind::kTuple:
            return repr_of_items(runtime, out, value.list().items, "(",
                                 value.list().items.size() == 1 ? ",)" : ")");
        case Kind::kView:
            out.append(value.list().view_type);
            return repr_of_items(runtime, out, value.list().items, "([", "])");
        case Kind::kDict: {
            out.append("{");
            bool is_first = true;
            for (const auto& [key, item] : value.dict().entries) {
                if (!is_first) out.append(", ");
                is_first = false;
                print_repr(runtime, out, key);
                out.append(": ");
                print_repr(runtime, out, item);
            }
            return out.append("}");
        }
        case Kind::kRange: {
            const Range& range = value.range();
            out.append("range(" + std::to_string(range.start) + ", " + std::to_string(range.stop) +
                       (range.step == 1 ? "" : ", " + std::to_string(range.step)) + ")");
            return;
        }
        case Kind::kNamespace:
            return repr_of_namespace(runtime, out, value.name_space());
        default:
            runtime.fail("a value of type " + std::string(type_name(value)) + " has no text of its own" +
                         (value.is(Kind::kIterator) ? ": use |list" : ""));
    }
}

void print(Runtime& runtime, TextBuilder& out, const Value& value) {
    if (value.is_text()) return out.append(value.text());
    if (!value.is_undefined()) print_repr(runtime, out, value);
}

TextPtr text_of(Runtime& runtime, const Value& value) {
    if (value.is_text()) return value.shared_text();
    TextBuilder out(runtime.budget);
    print(runtime, out, value);
    return out.finish();
}

}  // namespace qlora::jinja
