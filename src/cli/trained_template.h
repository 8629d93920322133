#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "qlora/models/decoder_spec.h"
#include "qlora/models/folder_writer.h"
#include "session.h"

/// The template that was trained goes where the weights go: a model that learned to end its turns with
/// another token, in another format, is of no use with the base's own.
namespace qlora::cli {

/// Where a model's generation stops by generation_config.json, or by config.json without one.
std::vector<tokenizer::TokenId> model_stop_ids(const std::filesystem::path& model,
                                               const models::DecoderSpec& config);

/// Beside the weights of a model that is written anew: its tokenizer with all chat templates, and
/// generation_config.json.
models::CompanionFiles model_companions(const std::filesystem::path& model);

/// Beside a trained adapter: the base's tokenizer and its other named templates, with the chat template that
/// was trained as the default one.
models::CompanionFiles adapter_companions(const ModelFolder& folder,
                                          const data::PromptTemplate& prompt_template);

/// Metadata of an adapter whose template ends its answers with a token at which its base does not stop: that
/// token. Empty for other templates.
std::map<std::string, std::string> template_metadata(const ModelFolder& folder,
                                                     const data::PromptTemplate& prompt_template);

/// Beside a merged model: the base's tokenizer and generation_config.json, with the adapter's chat template,
/// where it has one, and its end token among those that end generation.
models::CompanionFiles merged_companions(const std::filesystem::path& model,
                                         const std::filesystem::path& adapter);

}  // namespace qlora::cli
