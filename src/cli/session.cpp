#include "session.h"
#include "compute_dtype.h"

#include <algorithm>

#include "qlora/adapters/carried_tables.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/log.h"
#include "qlora/core/optional_file.h"
#include "qlora/core/whole_file.h"
#include "qlora/models/base_loader.h"
#include "qlora/models/checkpoint_names.h"
#include "qlora/models/quantize_checkpoint.h"
#include "qlora/train/memory_plan.h"
#include "trained_template.h"

namespace qlora::cli {
ModelFolder::ModelFolder(const std::filesystem::path& path)
    : folder(path),
      config(models::load_decoder_spec(path)),
      checkpoint(path),
      stored(config.stored_in_4bit ? models::check_base(checkpoint, config).config : std::nullopt),
      tokenizer(tokenizer::load_tokenizer(path)),
      special(tokenizer::load_special_tokens(path, *tokenizer)),
      chat_template(data::read_chat_template(path)),
      tool_template(data::read_tool_template(path)) {
    models::log_passed_over(checkpoint, config);
}

data::PromptTemplate ModelFolder::prompt_template(const data::DataConfig& settings,
                                                  const jinja::LocalTime& clock) const {
    data::TemplateInputs inputs{.arguments = settings.template_arguments.values,
                                .tools = settings.tools.list,
                                .documents = settings.documents.list,
                                .clock = clock,
                                .tool_use = tool_template,
                                .end_ids = model_stop_ids(folder, config)};
    for (const auto& [name, text] : tokenizer::special_token_texts(folder))
        inputs.special_tokens[name] = text;
    const std::filesystem::path& file = settings.template_.file;
    if (file.empty())
        return data::PromptTemplate(settings.template_.name, chat_template, *tokenizer, special, inputs);
    if (!optional_file_exists(file)) throw ConfigError("data.template: there is no file " + file.string());
    return data::PromptTemplate(read_whole_file(file), file.string(), *tokenizer, special, inputs);
}

std::vector<tokenizer::TokenId> ModelFolder::stop_ids(const data::PromptTemplate& prompt_template) const {
    std::vector<tokenizer::TokenId> out = prompt_template.end_token_ids();
    const std::vector<tokenizer::TokenId> of_model = model_stop_ids(folder, config);
    out.insert(out.end(), of_model.begin(), of_model.end());
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
}

std::vector<std::filesystem::path> files_beside_weights(const std::filesystem::path& model) {
    std::vector<std::filesystem::path> files = tokenizer::tokenizer_files(model);
    constexpr const char* kNames[] = {"generation_config.json"};
    for (std::filesystem::path& file : existing_files(model, kNames)) files.push_back(std::move(file));
    return files;
}

LoadedModel load_model(const ModelFolder& folder, const quant::QuantConfig& quantization,
                       const AdapterRequest& adapter, at::Device device, std::optional<bool> keep_dense) {
    std::vector<std::string> whole;
    if (adapter.config != nullptr)
        whole = adapters::plan_adapter(*adapter.config, folder.config).modules_to_save;
    models::LoadOptions options{.quantization = quantization,
                                .compute_dtype = compute_dtype(quantization, device),
                                .device = device,
                                .stays_dense = [&](const std::string& path) {
                                    return std::find(whole.begin(), whole.end(), path) != whole.end();
                                }};
    LoadedModel out;
    out.model = models::load_base(folder.checkpoint, folder.config, options);
    if (adapter.config != nullptr) {
        const auto encode = [&](const std::string& text) {
            const std::vector<tokenizer::TokenId> ids =
                folder.tokenizer->encode(text, {.parse_special = true, .add_special_tokens = true});
            return std::vector<std::int64_t>(ids.begin(), ids.end());
        };
        out.adaptation = adapters::inject(*out.model, *adapter.config,
                                          {.seed = static_cast<std::uint64_t>(adapter.seed),
                                           .encode = encode,
                                           .finished = adapter.finished});
        for (const std::string& warning : out.adaptation.plan.warnings) spdlog::warn("{}", warning);
        if (adapter.folder) {
            adapters::load_adapter_weights(*adapter.folder, folder.config, out.adaptation);
            adapters::take_carried_tables(*adapter.folder, out.adaptation.plan, folder.checkpoint, *out.model,
                                          adapter.finished);
        }
    }
    out.model->to(device);
    const auto fits = [&] {
        return out.model->dense_bytes() <= train::dense_limit(train::available_memory_bytes(device));
    };
    out.model->keep_dense(keep_dense ? *keep_dense : fits());
    return out;
}

std::map<std::string, std::string> adapter_metadata_for(const ModelFolder& folder,
                                                        const quant::QuantConfig& quantization) {
    std::map<std::string, std::string> out = {
        {adapters::kBaseKey, folder.checkpoint.fingerprint()},
        {adapters::kQuantizationKey, write_fields(quantization).dump()},
        {adapters::kTokenizerKey, tokenizer::tokenizer_fingerprint(folder.folder)}};
    if (const auto original = folder.checkpoint.metadata(models::kOriginalKey); folder.stored && original)
        out[models::kOriginalKey] = *original;
    return out;
}

void check_adapter_base(const std::filesystem::path& adapter, const ModelFolder& folder) {
    adapters::check_adapter_base(adapter, folder.checkpoint);
}

}  // namespace qlora::cli
