// Peer program of tests/peers/test_lora_rules.py: reads {"config", "modules", "model_type"} from stdin and
// writes what match_targets found, or {"error"}, as one JSON object.
#include <iostream>
#include <iterator>
#include <string>

#include "qlora/adapters/peft_config.h"
#include "qlora/adapters/target_matching.h"
#include "qlora/core/error.h"
#include "qlora/models/decoder_spec.h"

namespace {

using qlora::Json;
using namespace qlora::adapters;

std::vector<ModuleInfo> read_modules(const Json& list) {
    std::vector<ModuleInfo> modules;
    for (const Json& item : list) {
        ModuleInfo module;
        module.path = item.at("path").get<std::string>();
        module.is_linear = item.at("is_linear").get<bool>();
        module.is_output_embedding = item.at("is_output_embedding").get<bool>();
        module.is_embedding = item.at("is_embedding").get<bool>();
        module.is_norm = item.at("is_norm").get<bool>();
        modules.push_back(std::move(module));
    }
    return modules;
}

AdaptableModel read_model(const Json& request) {
    AdaptableModel model{.model_type = request.at("model_type").get<std::string>(),
                         .modules = read_modules(request.at("modules")),
                         .default_targets = {},
                         .tied = request.value("tied", false),
                         .tables = true};
    const Json config = {{"model_type", model.model_type}, {"vocab_size", 32},        {"hidden_size", 16},
                         {"intermediate_size", 24},        {"num_hidden_layers", 1},  {"head_dim", 8},
                         {"num_attention_heads", 2},       {"num_key_value_heads", 1}};
    model.default_targets = qlora::models::parse_decoder_spec(config, "config.json").lora_targets;
    return model;
}

Json describe(const MatchResult& result) {
    Json targets = Json::array();
    for (const Target& target : result.targets) {
        targets.push_back({{"path", target.path},
                           {"r", target.r},
                           {"lora_alpha", target.lora_alpha},
                           {"scaling", target.scaling}});
    }
    return {{"targets", targets},
            {"modules_to_save", result.modules_to_save},
            {"warnings", result.warnings},
            {"adapter_config", adapter_config_text(result.expanded)}};
}

}  // namespace

int main() {
    try {
        const std::string text{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
        const Json request = qlora::parse_json(text, "stdin");
        const auto config = std::get<LoraConfig>(parse_adapter_config(request.at("config"), "config"));
        const MatchResult result = match_targets(config, read_model(request));
        std::cout << describe(result).dump() << "\n";
        return 0;
    } catch (const qlora::Error& error) {
        std::cout << Json{{"error", error.what()}}.dump() << "\n";
        return static_cast<int>(error.code());
    }
}
