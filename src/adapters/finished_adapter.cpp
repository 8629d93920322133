#include "qlora/adapters/finished_adapter.h"

#include "adapter_hub.h"
#include "method.h"
#include "qlora/adapters/peft_format.h"

namespace qlora::adapters {

PeftConfig load_finished_adapter(const std::filesystem::path& folder, const AdapterFile& file,
                                 const models::DecoderSpec& model) {
    const std::filesystem::path config_file = folder / kAdapterConfigFile;
    Json json = read_json_file(config_file);
    if (adapter_hub::is_config(json)) return parse_adapter_config(json, config_file.string());
    PeftConfig config;
    const bool is_known = json.is_object() && choose_alternative(json, config);
    const auto finished = method_of(config).finished;
    if (!is_known || finished == nullptr) return parse_adapter_config(json, config_file.string());
    return finished(std::move(json), file, model);
}

}  // namespace qlora::adapters
