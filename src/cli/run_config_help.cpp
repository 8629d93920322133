#include <string>

#include "qlora/cli/run_config.h"

namespace qlora::cli {
namespace {

// "a number, > 0".
std::string value_text(const FieldInfo& info) {
    return info.range.empty() ? info.kind : info.kind + ", " + info.range;
}

std::string not_built_yet(const std::vector<FieldInfo>& infos) {
    std::string names;
    for (const FieldInfo& info : infos) {
        if (info.fixed) names += (names.empty() ? "" : ", ") + info.name;
    }
    return names;
}

// Which of a section's forms it is: " with peft_type LORA"; nothing where there is one.
template <class Section, class Struct>
std::string chosen_by() {
    if constexpr (kIsVariant<Section>) {
        if constexpr (std::variant_size_v < Section >> 1)
            return std::string(" with ") + Struct::kTagName + " " + std::string(enum_name(Struct::kTag));
    }
    return "";
}

// "training.learning_rate is 0.01 where it is missing"; nothing for a section that decides none.
template <class Struct>
std::string rate_text() {
    if constexpr (requires { Struct::kLearningRate; })
        return "training.learning_rate is " + Json(Struct::kLearningRate).dump() + " where it is missing";
    return "";
}

// A bar would end the cell.
std::string markdown_cell(const std::string& text) {
    std::string out;
    for (const char c : text) {
        if (c == '|') out += '\\';
        out += c;
    }
    return out;
}

}  // namespace

std::string config_help_text() {
    std::string out =
        "run.json has the sections below. Unknown keys are errors; relative paths are relative to the file.\n"
        "--set section.key=value changes one setting (the value is JSON, or else a bare string).\n";
    RunConfig::sections(RunConfig{}, [&]<class Section>(const char* name, const Section&, bool is_required) {
        for_each_alternative<Section>([&]<class Struct>() {
            out += "\n" + std::string(name) + chosen_by<Section, Struct>() +
                   (is_required ? "" : "  (may be left out)") + "\n";
            const std::vector<FieldInfo> infos = list_fields<Struct>();
            for (const FieldInfo& info : infos) {
                if (info.fixed) continue;
                const std::string default_text =
                    info.default_text == "required" ? "required" : "default " + info.default_text;
                out += "  " + info.name + "  (" + value_text(info) + "; " + default_text + ")\n      " +
                       info.help + "\n";
            }
            const std::string others = not_built_yet(infos);
            if (!others.empty()) out += "  Known, but accepted only at their defaults: " + others + "\n";
            if (const std::string rate = rate_text<Struct>(); !rate.empty()) out += "  " + rate + "\n";
        });
    });
    return out;
}

std::string config_table_markdown() {
    std::string out;
    RunConfig::sections(RunConfig{}, [&]<class Section>(const char* name, const Section&, bool) {
        for_each_alternative<Section>([&]<class Struct>() {
            out += "### `" + std::string(name) + "`" + chosen_by<Section, Struct>() +
                   "\n\n| setting | value | default | meaning |\n| --- | --- | --- | --- |\n";
            const std::vector<FieldInfo> infos = list_fields<Struct>();
            for (const FieldInfo& info : infos) {
                if (info.fixed) continue;
                const std::string default_text =
                    info.default_text == "required" ? "required" : "`" + info.default_text + "`";
                out += "| `" + info.name + "` | " + markdown_cell(value_text(info)) + " | " + default_text +
                       " | " + markdown_cell(info.help) + " |\n";
            }
            const std::string others = not_built_yet(infos);
            if (!others.empty()) out += "\nKnown, but accepted only at their defaults: " + others + ".\n";
            if (const std::string rate = rate_text<Struct>(); !rate.empty()) out += "\n" + rate + ".\n";
            out += "\n";
        });
    });
    return out;
}

}  // namespace qlora::cli
