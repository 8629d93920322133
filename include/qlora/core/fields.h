#pragma once

#include <functional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/field_types.h"

namespace qlora {

// A configuration struct declares each setting once, in
//
//     template <class Self, class Visitor>
//     static void fields(Self& self, Visitor& visit) {
//         visit("learning_rate", self.learning_rate, {.min = 0}, "peak learning rate");
//         visit.fixed("use_dora", false, "DoRA is not built yet");
//         visit.ignored("peft_version", "written by PEFT");
//     }
//
// and the visitors below derive reading, writing and documentation from it. `fixed` names a setting that is
// known but not built: its default is accepted, any other value refused with the reason. `ignored` names one
// that says nothing.

/// null, false, 0, "", [] or {}: the values that switch nothing on.
bool is_empty_value(const Json& value);

/// What reading collects over all sections of a file.
struct ReadState {
    FaultList faults;
    std::set<std::string> given;         ///< full paths of the keys that were present
    std::vector<std::string> all_paths;  ///< full paths of all known keys, for hints; may be empty
    /// What a key that is no setting of ours means to us, as a sentence; empty when that is not known.
    std::function<std::string(const std::string& key, const Json& value)> explain_key;

    /// What goes behind "unknown key": the meaning, our setting of that name in another section, or a name
    /// out of `near`.
    std::string hint_for(const std::string& key, const Json& value,
                         const std::vector<std::string>& near) const;
};

/// One row of the documentation.
struct FieldInfo {
    std::string name;
    std::string kind;
    std::string default_text;  ///< as JSON, or "required"
    std::string range;
    std::string help;
    bool fixed = false;
    bool free_on_resume = false;
};

class FieldReader {
  public:
    FieldReader(const Json& object, std::string path, ReadState& state)
        : object_(object), path_(std::move(path)), state_(state) {}

    template <class T>
    void operator()(const char* name, T& member, const FieldRule& rule, const char*) {
        const Json* value = find(name, rule.required);
        if (value == nullptr) return;
        const std::string problem = FieldType<T>::read(*value, rule, member);
        if (!problem.empty()) state_.faults.add(path_to(name), problem);
    }
    void fixed(const char* name, const Json& default_value, const char* reason);
    void ignored(const char* name, const char*) { find(name, false); }

    /// Faults for the keys of the object that no field claimed; `tag` is the one that chose this struct of
    /// several, or null.
    void refuse_unknown_keys(const char* tag = nullptr);
    /// The keys that no field claimed.
    std::vector<std::string> unknown_keys() const;
    const std::vector<std::string>& known_keys() const { return names_; }

  private:
    const Json* find(const char* name, bool required);
    std::string path_to(const std::string& name) const { return path_.empty() ? name : path_ + "." + name; }

    const Json& object_;
    std::string path_;
    ReadState& state_;
    std::vector<std::string> names_;
};

class FieldWriter {
  public:
    template <class T>
    void operator()(const char* name, const T& member, const FieldRule&, const char*) {
        out[name] = FieldType<T>::write(member);
    }
    void fixed(const char*, const Json&, const char*) {}
    void ignored(const char*, const char*) {}

    Json out = Json::object();  ///< keys in declared order
};

class FieldLister {
  public:
    template <class T>
    void operator()(const char* name, const T& member, const FieldRule& rule, const char* help) {
        std::string text = rule.required ? "required" : FieldType<T>::write(member).dump();
        if (rule.default_text != nullptr) text = rule.default_text;
        infos.push_back(
            {name, FieldType<T>::kind(), text, range_text(rule), help, false, rule.free_on_resume});
    }
    void fixed(const char* name, const Json& default_value, const char* reason) {
        infos.push_back({name, default_value.dump(), default_value.dump(), "", reason, true, false});
    }
    void ignored(const char*, const char*) {}

    std::vector<FieldInfo> infos;
};

// A section may be a `std::variant` of such structs, chosen by one of their settings: each alternative has it
// under the name `kTagName`, and `kTag` is the enum's value that stands for the alternative.

template <class Section>
inline constexpr bool kIsVariant = false;
template <class... Alternatives>
inline constexpr bool kIsVariant<std::variant<Alternatives...>> = true;

/// Calls f.operator()<Struct>() for the section's struct, or for each alternative.
template <class Section, class F>
void for_each_alternative(F&& f) {
    if constexpr (kIsVariant<Section>) {
        [&]<class... Alternatives>(const std::variant<Alternatives...>*) {
            (f.template operator()<Alternatives>(), ...);
        }(static_cast<const Section*>(nullptr));
    } else {
        f.template operator()<Section>();
    }
}

/// Makes `section` the alternative that the object names, with its defaults; without a tag it stays what it
/// is. False where no alternative has the tag, which is a fault of the tag's field.
template <class... Alternatives>
bool choose_alternative(const Json& object, std::variant<Alternatives...>& section) {
    using First = std::variant_alternative_t<0, std::variant<Alternatives...>>;
    const auto tag = object.find(First::kTagName);
    if (tag == object.end()) return true;
    auto value = First::kTag;
    if (!FieldType<decltype(value)>::read(*tag, {}, value).empty()) return false;
    ((Alternatives::kTag == value ? void(section = Alternatives{}) : void()), ...);
    return true;
}

/// Reads one section; all faults go to `state`, none is thrown. An unknown key is a fault.
template <class Config>
void read_fields(const Json& object, const std::string& path, Config& config, ReadState& state) {
    if (!object.is_object()) {
        state.faults.add(path, wrong_type("an object", object));
        return;
    }
    if constexpr (kIsVariant<Config>) {
        const bool is_chosen = choose_alternative(object, config);
        std::visit(
            [&]<class Chosen>(Chosen& chosen) {
                FieldReader reader(object, path, state);
                Chosen::fields(chosen, reader);
                if (is_chosen)
                    reader.refuse_unknown_keys(Chosen::kTagName);  // else nobody knows what they belong to
            },
            config);
    } else {
        FieldReader reader(object, path, state);
        Config::fields(config, reader);
        reader.refuse_unknown_keys();
    }
}

template <class Config>
Json write_fields(const Config& config) {
    if constexpr (kIsVariant<Config>) {
        return std::visit([](const auto& chosen) { return write_fields(chosen); }, config);
    } else {
        FieldWriter writer;
        Config::fields(config, writer);
        return writer.out;
    }
}

template <class Config>
std::vector<FieldInfo> list_fields() {
    const Config defaults{};
    FieldLister lister;
    Config::fields(defaults, lister);
    return lister.infos;
}

/// Of the section's struct, or of the alternative that it is.
template <class Section>
std::vector<FieldInfo> list_fields_of(const Section& section) {
    if constexpr (kIsVariant<Section>) {
        return std::visit([]<class Chosen>(const Chosen&) { return list_fields<Chosen>(); }, section);
    } else {
        return list_fields<Section>();
    }
}

/// `section.key=value`: the value is JSON, or else a bare string. Only the named key of `root` changes; a
/// malformed text is a fault.
void apply_override(const std::string& text, const std::vector<std::string>& sections, Json& root,
                    FaultList& faults);

}  // namespace qlora
