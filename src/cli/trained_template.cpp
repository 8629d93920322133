#include "trained_template.h"

#include <algorithm>

#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/core/log.h"
#include "qlora/core/optional_file.h"

namespace qlora::cli {
namespace {

namespace fs = std::filesystem;
using tokenizer::TokenId;

constexpr const char* kTemplateFile = "chat_template.jinja";
constexpr const char* kTokenizerConfigFile = "tokenizer_config.json";
constexpr const char* kGenerationConfigFile = "generation_config.json";
/// Metadata key of an adapter: the token that ends what it generates, where its base does not stop there.
constexpr const char* kEndTokenKey = "qlora.end_token_id";

bool holds(const std::vector<TokenId>& ids, TokenId id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
}

Json generation_config(const fs::path& model) {
    const fs::path file = model / kGenerationConfigFile;
    return optional_file_exists(file) ? read_json_file(file) : Json::object();
}

void put_named_templates(const fs::path& model, bool listed, models::CompanionFiles& files) {
    for (auto& [name, text] : data::read_named_templates(model, listed))
        files.written[data::named_template_file(name)] = std::move(text);
}

/// As transformers saves it: each template in a file of its own, and none in tokenizer_config.json.
void put_chat_template(const std::string& text, const fs::path& model, models::CompanionFiles& files) {
    files.written[kTemplateFile] = text;
    put_named_templates(model, true, files);
    const fs::path config_file = model / kTokenizerConfigFile;
    if (!optional_file_exists(config_file)) return;
    Json config = read_json_file(config_file);
    if (config.is_object() && config.erase("chat_template") > 0)
        files.written[kTokenizerConfigFile] = config.dump(2) + "\n";
}

/// The end token that an adapter's metadata name.
std::optional<TokenId> trained_end(const fs::path& adapter, std::int64_t vocab_size) {
    const auto metadata = adapters::adapter_metadata(adapter);
    const auto found = metadata.find(kEndTokenKey);
    if (found == metadata.end()) return std::nullopt;
    const std::string place = adapters::adapter_weights_file(adapter).string() + ": metadata " + kEndTokenKey;
    const Json id = parse_json(found->second, place);
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= vocab_size)
        throw CheckpointError(place + ": is " + id.dump() + ", must be a token id below " +
                              std::to_string(vocab_size));
    return id.get<TokenId>();
}

}  // namespace

std::vector<TokenId> model_stop_ids(const fs::path& model, const models::DecoderSpec& config) {
    const Json generation = generation_config(model);
    std::vector<TokenId> out;
    if (!generation.contains("eos_token_id")) {
        for (const std::int64_t id : config.eos_token_ids) out.push_back(static_cast<TokenId>(id));
        return out;
    }
    const Json& ids = generation["eos_token_id"];
    for (const Json& id : ids.is_array() ? ids : Json::array({ids})) {
        if (id.is_number_integer()) out.push_back(id.get<TokenId>());
    }
    return out;
}

models::CompanionFiles model_companions(const fs::path& model) {
    models::CompanionFiles files{.copied = files_beside_weights(model), .written = {}};
    put_named_templates(model, false, files);
    return files;
}

models::CompanionFiles adapter_companions(const ModelFolder& folder,
                                          const data::PromptTemplate& prompt_template) {
    models::CompanionFiles files{.copied = tokenizer::tokenizer_files(folder.folder), .written = {}};
    put_named_templates(folder.folder, false, files);
    const std::optional<std::string> trained = prompt_template.chat_template();
    if (trained && trained != folder.chat_template) put_chat_template(*trained, folder.folder, files);
    return files;
}

std::map<std::string, std::string> template_metadata(const ModelFolder& folder,
                                                     const data::PromptTemplate& prompt_template) {
    const std::optional<TokenId> end = prompt_template.answer_end();
    if (!end || holds(model_stop_ids(folder.folder, folder.config), *end)) return {};
    return {{kEndTokenKey, std::to_string(*end)}};
}

models::CompanionFiles merged_companions(const fs::path& model, const fs::path& adapter) {
    models::CompanionFiles files = model_companions(model);
    const std::optional<std::string> trained = data::read_chat_template(adapter);
    if (trained && trained != data::read_chat_template(model)) {
        spdlog::info(
            "the chat template beside the adapter is another one than the base's and goes into the merged "
            "folder");
        put_chat_template(*trained, model, files);
    }
    const models::DecoderSpec config = models::load_decoder_spec(model);
    std::vector<TokenId> stops = model_stop_ids(model, config);
    const std::optional<TokenId> end = trained_end(adapter, config.vocab_size);
    if (end && !holds(stops, *end)) {
        stops.push_back(*end);
        Json generation = generation_config(model);
        if (stops.size() == 1) {
            generation["eos_token_id"] = stops.front();
        } else {
            generation["eos_token_id"] = stops;
        }
        files.written[kGenerationConfigFile] = generation.dump(2) + "\n";
    }
    return files;
}

}  // namespace qlora::cli
