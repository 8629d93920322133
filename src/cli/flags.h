#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/field_types.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

/// The flags that mean the same in every program that has them, each declared once. A flag that was not given
/// leaves its value empty.
namespace qlora::cli {

using TextFlag = std::optional<std::string>;

CLI::Option* add_config_flag(CLI::App& app, TextFlag& value);
CLI::Option* add_set_flag(CLI::App& app, std::vector<std::string>& values);
CLI::Option* add_model_flag(CLI::App& app, TextFlag& value);
CLI::Option* add_adapter_flag(CLI::App& app, TextFlag& value);
CLI::Option* add_output_flag(CLI::App& app, TextFlag& value);
CLI::Option* add_device_flag(CLI::App& app, TextFlag& value);
CLI::Option* add_quantization_flag(CLI::App& app, TextFlag& value);
CLI::Option* add_tokens_per_batch_flag(CLI::App& app, std::optional<std::int64_t>& value);

/// Reads a flag whose texts are an enum's names in run.json; another text is a fault under the flag's name.
template <NamedEnum Enum>
void read_choice(const char* flag, const TextFlag& text, Enum& out, FaultList& faults) {
    if (!text) return;
    const std::string problem = FieldType<Enum>::read(Json(*text), {}, out);
    if (!problem.empty()) faults.add(flag, problem);
}

}  // namespace qlora::cli
