#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "qlora/core/json.h"

namespace qlora {

/// What a setting's value must satisfy beyond its type. Bounds hold for numbers, inside lists and maps too.
struct FieldRule {
    double min = -std::numeric_limits<double>::infinity();
    double max = std::numeric_limits<double>::infinity();
    bool min_excluded = false;
    bool max_excluded = false;
    bool required = false;
    bool power_of_two = false;
    /// A resumed run may change it.
    bool free_on_resume = false;
    /// Printed in the help instead of the member's default, where the default depends on other settings.
    const char* default_text = nullptr;
};

/// `"must be <kind>, not <value>"`, the value cut to a readable length.
std::string wrong_type(const std::string& kind, const Json& value);
/// Empty when the number obeys the rule.
std::string range_problem(double value, const FieldRule& rule);
/// `">= 1, < 2"`, empty without bounds.
std::string range_text(const FieldRule& rule);

/// How a C++ type stands in JSON: `kind` for messages and help, `fits` tells the JSON type alone, `read`
/// returns an empty string or the problem (a place inside the value in front, `[2]: ...`), `write` is its
/// inverse.
template <class T>
struct FieldType;

template <>
struct FieldType<bool> {
    static std::string kind() { return "true or false"; }
    static bool fits(const Json& value) { return value.is_boolean(); }
    static std::string read(const Json& value, const FieldRule& rule, bool& out);
    static Json write(bool value) { return value; }
};

template <>
struct FieldType<std::int64_t> {
    static std::string kind() { return "an integer"; }
    static bool fits(const Json& value) { return value.is_number_integer(); }
    static std::string read(const Json& value, const FieldRule& rule, std::int64_t& out);
    static Json write(std::int64_t value) { return value; }
};

template <>
struct FieldType<double> {
    static std::string kind() { return "a number"; }
    static bool fits(const Json& value) { return value.is_number(); }
    static std::string read(const Json& value, const FieldRule& rule, double& out);
    static Json write(double value) { return value; }
};

template <>
struct FieldType<std::string> {
    static std::string kind() { return "a string"; }
    static bool fits(const Json& value) { return value.is_string(); }
    static std::string read(const Json& value, const FieldRule& rule, std::string& out);
    static Json write(const std::string& value) { return value; }
};

template <>
struct FieldType<std::filesystem::path> {
    static std::string kind() { return "a path"; }
    static bool fits(const Json& value) { return value.is_string(); }
    static std::string read(const Json& value, const FieldRule& rule, std::filesystem::path& out);
    static Json write(const std::filesystem::path& value) { return value.string(); }
};

template <>
struct FieldType<std::monostate> {
    static std::string kind() { return "null"; }
    static bool fits(const Json& value) { return value.is_null(); }
    static std::string read(const Json& value, const FieldRule&, std::monostate&) {
        return fits(value) ? "" : wrong_type(kind(), value);
    }
    static Json write(std::monostate) { return nullptr; }
};

/// An enum read from JSON has a table `constexpr EnumTable<E, N> enum_table(E)` beside it; the texts "true"
/// and "false" stand for JSON's literals, all others for strings.
template <class E, std::size_t N>
using EnumTable = std::array<std::pair<std::string_view, E>, N>;

template <class E>
concept NamedEnum = std::is_enum_v<E> && requires {
    enum_table(E{});
};

/// Names besides those of the table that are read too, such as other programs' names for the same thing:
/// `constexpr EnumTable<E, N> enum_aliases(E)`. The table's own name is what is written and listed.
template <class E>
concept AliasedEnum = NamedEnum<E> && requires {
    enum_aliases(E{});
};

/// Names that are known but not built, each with a sentence: `constexpr UnbuiltNames<N> unbuilt_names(E)`.
template <std::size_t N>
using UnbuiltNames = std::array<std::pair<std::string_view, std::string_view>, N>;

template <class E>
concept EnumWithUnbuiltNames = NamedEnum<E> && requires {
    unbuilt_names(E{});
};

/// The name of an enum's value in JSON.
template <NamedEnum E>
std::string_view enum_name(E value) {
    for (const auto& [name, entry] : enum_table(E{})) {
        if (entry == value) return name;
    }
    return "?";
}

/// The literal or string that a table's text stands for.
Json enum_text_to_json(std::string_view text);
/// `"must be one of ...; did you mean ...?"`; the hint may name an alias too.
std::string wrong_choice(const std::vector<std::string>& names, const Json& value,
                         const std::vector<std::string>& aliases = {});
/// `"must be one of ..., not ...: reason"`.
std::string unbuilt_choice(const std::vector<std::string>& names, const Json& value, std::string_view reason);

template <NamedEnum E>
struct FieldType<E> {
    static std::vector<std::string> names() {
        std::vector<std::string> out;
        for (const auto& [name, entry] : enum_table(E{})) out.emplace_back(name);
        return out;
    }
    static std::string kind() {
        std::string out;
        for (const std::string& name : names())
            out += (out.empty() ? "" : " | ") + enum_text_to_json(name).dump();
        return out;
    }
    static bool fits(const Json& value) { return value.is_string() || value.is_boolean(); }
    static std::string read(const Json& value, const FieldRule&, E& out) {
        for (const auto& [name, entry] : enum_table(E{})) {
            if (enum_text_to_json(name) == value) {
                out = entry;
                return "";
            }
        }
        std::vector<std::string> others;
        if constexpr (AliasedEnum<E>) {
            for (const auto& [name, entry] : enum_aliases(E{})) {
                if (value == Json(std::string(name))) {
                    out = entry;
                    return "";
                }
                others.emplace_back(name);
            }
        }
        if constexpr (EnumWithUnbuiltNames<E>) {
            for (const auto& [name, reason] : unbuilt_names(E{})) {
                if (value == Json(std::string(name))) return unbuilt_choice(names(), value, reason);
            }
        }
        return wrong_choice(names(), value, others);
    }
    static Json write(E value) { return enum_text_to_json(enum_name(value)); }
};

template <class T>
struct FieldType<std::optional<T>> {
    static std::string kind() { return "null or " + FieldType<T>::kind(); }
    static bool fits(const Json& value) { return value.is_null() || FieldType<T>::fits(value); }
    static std::string read(const Json& value, const FieldRule& rule, std::optional<T>& out) {
        if (value.is_null()) {
            out.reset();
            return "";
        }
        if (!fits(value)) return wrong_type(kind(), value);
        T inner{};
        std::string problem = FieldType<T>::read(value, rule, inner);
        if (problem.empty()) out = std::move(inner);
        return problem;
    }
    static Json write(const std::optional<T>& value) {
        return value ? FieldType<T>::write(*value) : Json(nullptr);
    }
};

template <class T>
struct FieldType<std::vector<T>> {
    static std::string kind() { return "a list (each " + FieldType<T>::kind() + ")"; }
    static bool fits(const Json& value) { return value.is_array(); }
    static std::string read(const Json& value, const FieldRule& rule, std::vector<T>& out) {
        if (!fits(value)) return wrong_type(kind(), value);
        std::vector<T> items(value.size());
        std::string problems;
        for (std::size_t i = 0; i < value.size(); ++i) {
            const std::string problem = FieldType<T>::read(value[i], rule, items[i]);
            if (!problem.empty())
                problems += (problems.empty() ? "[" : "; [") + std::to_string(i) + "] " + problem;
        }
        if (problems.empty()) out = std::move(items);
        return problems;
    }
    static Json write(const std::vector<T>& value) {
        Json out = Json::array();
        for (const T& item : value) out.push_back(FieldType<T>::write(item));
        return out;
    }
};

/// A JSON object whose order counts.
template <class T>
struct FieldType<std::vector<std::pair<std::string, T>>> {
    static std::string kind() { return "an object (each value " + FieldType<T>::kind() + ")"; }
    static bool fits(const Json& value) { return value.is_object(); }
    static std::string read(const Json& value, const FieldRule& rule,
                            std::vector<std::pair<std::string, T>>& out) {
        if (!fits(value)) return wrong_type(kind(), value);
        std::vector<std::pair<std::string, T>> items;
        std::string problems;
        for (const auto& [name, inner] : value.items()) {
            T item{};
            const std::string problem = FieldType<T>::read(inner, rule, item);
            if (!problem.empty()) problems += (problems.empty() ? "[\"" : "; [\"") + name + "\"] " + problem;
            items.emplace_back(name, std::move(item));
        }
        if (problems.empty()) out = std::move(items);
        return problems;
    }
    static Json write(const std::vector<std::pair<std::string, T>>& value) {
        Json out = Json::object();
        for (const auto& [name, item] : value) out[name] = FieldType<T>::write(item);
        return out;
    }
};

/// The first alternative whose JSON type fits decides.
template <class... Ts>
struct FieldType<std::variant<Ts...>> {
    static std::string kind() {
        std::string out;
        ((out += (out.empty() ? "" : " or ") + FieldType<Ts>::kind()), ...);
        return out;
    }
    static bool fits(const Json& value) { return (FieldType<Ts>::fits(value) || ...); }
    static std::string read(const Json& value, const FieldRule& rule, std::variant<Ts...>& out) {
        if (!fits(value)) return wrong_type(kind(), value);
        std::string problem;
        const auto try_as = [&]<class T>(T inner) {
            if (!FieldType<T>::fits(value)) return false;
            problem = FieldType<T>::read(value, rule, inner);
            if (problem.empty()) out = std::move(inner);
            return true;
        };
        (try_as(Ts{}) || ...);
        return problem;
    }
    static Json write(const std::variant<Ts...>& value) {
        return std::visit([]<class T>(const T& inner) { return FieldType<T>::write(inner); }, value);
    }
};

}  // namespace qlora
