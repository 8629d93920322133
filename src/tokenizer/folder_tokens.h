#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "added_tokens.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora::tokenizer {

/// The files of a model folder that tell how its vocabulary is read; empty objects for those it lacks.
struct TokenFiles {
    Json config = Json::object();        // tokenizer_config.json
    Json map = Json::object();           // special_tokens_map.json
    Json added_ids = Json::object();     // added_tokens.json
    Json model_config = Json::object();  // config.json
};
TokenFiles read_token_files(const std::filesystem::path& folder);

/// An added token that such a file names.
struct FolderToken {
    AddedToken token;
    std::string place;  // file and key, for messages
};

/// `added_tokens_decoder` of the configuration or, where it has none, added_tokens.json; by ascending id.
std::vector<FolderToken> numbered_tokens(const TokenFiles& files, FaultList& faults);
/// The tokens that have a role (`eos_token`, ...), in the order in which transformers adds those that the
/// tokenizer lacks. All are special; none has an id.
std::vector<FolderToken> role_tokens(const TokenFiles& files);
/// Those of `extra_special_tokens` or `additional_special_tokens`; likewise. For a tokenizer.model
/// transformers puts its control pieces in the place of a list that still has the older name: `older_name`
/// false.
std::vector<FolderToken> listed_tokens(const TokenFiles& files, bool older_name = true);

}  // namespace qlora::tokenizer
