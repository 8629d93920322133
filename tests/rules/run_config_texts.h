#pragma once

#include <string>
#include <vector>

#include "qlora/cli/run_config.h"
#include "qlora/core/error.h"

namespace qlora::cli {

// Sections that are right, for the tests to spoil one setting.
inline constexpr const char* kModel = R"("model": {"path": "m"})";
inline constexpr const char* kData = R"("data": {"train": "t.jsonl"})";
inline constexpr const char* kTraining = R"("training": {"output_dir": "o"})";

inline std::string with_model(const std::string& more) {
    return std::string("{\"model\": {\"path\": \"m\", ") + more + "}, " + kData + ", " + kTraining + "}";
}
inline std::string with_data(const std::string& more) {
    return std::string("{") + kModel + R"(, "data": {"train": "t.jsonl", )" + more + "}, " + kTraining + "}";
}
inline std::string with_training(const std::string& more) {
    return std::string("{") + kModel + ", " + kData + R"(, "training": {"output_dir": "o", )" + more + "}}";
}
inline std::string with_section(const std::string& section) {
    return std::string("{") + kModel + ", " + kData + ", " + kTraining + ", " + section + "}";
}
inline std::string with_peft(const std::string& fields) {
    return with_section("\"peft\": {" + fields + "}");
}
inline std::string with_quantization(const std::string& fields) {
    return with_section("\"quantization\": {" + fields + "}");
}

inline std::string run_fault(const std::string& text, const std::vector<std::string>& overrides = {}) {
    try {
        parse_run_config(parse_json(text, "run.json"), "/base", "run.json", overrides);
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "no fault";
}

}  // namespace qlora::cli
