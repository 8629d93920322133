#include "json_tokenizer.h"

#include <algorithm>
#include <cstdint>

#include "component_reader.h"
#include "qlora/core/utf8.h"

namespace qlora::tokenizer {
namespace {

const Json& field_or_null(ComponentReader& file, std::string_view name) {
    static const Json kNull;
    const Json* value = file.find(name);
    return value == nullptr ? kNull : *value;
}

std::unique_ptr<BpeModel> read_model(const Json& json, FaultList& faults) {
    ComponentReader reader(json, "model", faults);
    if (!json.is_object()) return nullptr;
    // Files older than the field hold a BPE model when they have merges.
    const std::string type = json.contains("type") || !json.contains("merges") ? reader.type() : "BPE";
    if (type.empty()) return nullptr;
    if (type != "BPE") {
        reader.refuse_type(type, "only BPE models");
        return nullptr;
    }
    return std::make_unique<BpeModel>(reader);
}

}  // namespace

std::unique_ptr<JsonTokenizer> JsonTokenizer::load(const std::filesystem::path& file) {
    Json json;
    try {
        json = read_json_file(file);
    } catch (const ConfigError& error) {
        throw CheckpointError(error.what());
    }
    return std::make_unique<JsonTokenizer>(json, file.string(),
                                           tokenizer::read_token_files(file.parent_path()));
}

JsonTokenizer::JsonTokenizer(const Json& json, const std::string& name, const TokenFiles& files) {
    FaultList faults;
    {
        ComponentReader file(json, "", faults);
        const std::string version = file.string("version", "1.0");
        if (version != "1.0") file.fault("version", "'" + version + "' is not supported (1.0 is)");
        file.find("truncation");
        file.find("padding");
        normalizer_ = read_normalizer(field_or_null(file, "normalizer"), "normalizer", faults);
        pre_tokenizer_ = read_pre_tokenizer(field_or_null(file, "pre_tokenizer"), "pre_tokenizer", faults);
        post_processor_ =
            read_post_processor(field_or_null(file, "post_processor"), "post_processor", faults);
        decoder_ = read_decoder(field_or_null(file, "decoder"), "decoder", faults);
        const Json* model = file.find("model");
        if (model == nullptr) {
            file.fault("model", "missing");
        } else {
            model_ = read_model(*model, faults);
        }
        const Json& added_tokens = field_or_null(file, "added_tokens");
        if (model_ != nullptr) {
            read_added_tokens(added_tokens, faults);
            read_token_files(files, faults);
        }
    }
    if (faults.empty() && pre_tokenizer_ && pre_tokenizer_->needs_start() && normalizer_ &&
        !normalizer_->keeps_start()) {
        // tokenizers decides by where the normalized text came from, which a removal at the start moves.
        faults.add("pre_tokenizer",
                   "prepend_scheme 'first' is not supported behind a normalizer that adds or removes text");
    }
    if (faults.empty()) build_matchers(faults);
    faults.throw_if_any<CheckpointError>(name);
}

void JsonTokenizer::read_added_tokens(const Json& list, FaultList& faults) {
    if (list.is_null()) return;
    if (!list.is_array()) return faults.add("added_tokens", "must be a list");
    for (std::size_t i = 0; i < list.size(); ++i) {
        ComponentReader reader(list[i], "added_tokens[" + std::to_string(i) + "]", faults);
        const std::size_t faults_before = faults.size();
        AddedToken token;
        token.id = static_cast<TokenId>(std::min<std::size_t>(reader.count("id"), INT32_MAX - 1));
        token.content = reader.string("content");
        token.single_word = reader.boolean("single_word");
        token.lstrip = reader.boolean("lstrip");
        token.rstrip = reader.boolean("rstrip");
        token.normalized = reader.boolean("normalized");
        token.special = reader.boolean("special");
        if (faults.size() == faults_before) register_added_token(std::move(token), reader.path(), faults);
    }
}

// A token that the folder's other files describe otherwise than tokenizer.json takes their flags, yet stays
// special once it is; one that tokenizer.json lacks is added behind its own.
void JsonTokenizer::read_token_files(const TokenFiles& files, FaultList& faults) {
    const std::vector<FolderToken> with_role = role_tokens(files);
    const auto has_role = [&](const std::string& content) {
        return std::any_of(with_role.begin(), with_role.end(),
                           [&](const FolderToken& token) { return token.token.content == content; });
    };
    const bool changes_flags = files.config.contains("added_tokens_decoder");
    for (auto& [token, place] : numbered_tokens(files, faults)) {
        const auto known = added_by_content_.find(token.content);
        if (known == added_by_content_.end()) {
            token.special = token.special || has_role(token.content);
            register_added_token(std::move(token), place, faults);
        } else if (token.id != known->second) {
            faults.add(place, "'" + token.content + "' has the id " + std::to_string(known->second) +
                                  " in tokenizer.json, not " + std::to_string(token.id));
        } else if (AddedToken& mine = added_tokens_[added_by_id_.at(token.id)];
                   changes_flags && token != mine) {
            token.special = token.special || mine.special || has_role(token.content);
            mine = std::move(token);
        }
    }
    const auto add_missing = [&](AddedToken token, const std::string& place) {
        if (added_by_content_.count(token.content) != 0) return;
        token.id = id_to_add(token.content);
        register_added_token(std::move(token), place, faults);
    };
    for (const auto& [token, role] : with_role) {
        // A model that knows no such end or start has a wrong name in its configuration.
        const bool must_be_known = role == "bos_token" || role == "eos_token";
        if (!must_be_known || model_->token_to_id(token.content)) add_missing(token, role);
    }
    for (const auto& [token, list] : listed_tokens(files)) add_missing(token, list);
}

TokenId JsonTokenizer::id_to_add(const std::string& content) const {
    const auto next = std::max(static_cast<TokenId>(model_->size()), added_id_limit_);
    return model_->token_to_id(content).value_or(next);
}

// Hugging Face tokenizers does not take the ids of the file: a content that the model has keeps the model's
// id, any other gets the next free one. A file that says otherwise would mean different ids to different
// readers.
void JsonTokenizer::register_added_token(AddedToken token, const std::string& place, FaultList& faults) {
    if (token.content.empty()) return faults.add(place, "the content is empty");
    if (added_by_content_.count(token.content) != 0) {
        return faults.add(place, "'" + token.content + "' is listed twice");
    }
    const TokenId expected = id_to_add(token.content);
    const std::string& holder = model_->id_to_token(token.id);
    if (!holder.empty() && holder != token.content) {
        return faults.add(place, "the id " + std::to_string(token.id) + " of '" + token.content +
                                     "' belongs to '" + holder + "' in the vocabulary");
    }
    if (token.id != expected) {
        return faults.add(place, "the id of '" + token.content + "' must be " + std::to_string(expected) +
                                     ", which the vocabulary and the tokens before it imply, not " +
                                     std::to_string(token.id));
    }
    added_id_limit_ = std::max(added_id_limit_, token.id + 1);
    added_by_id_.emplace(token.id, added_tokens_.size());
    added_by_content_.emplace(token.content, token.id);
    added_tokens_.push_back(std::move(token));
}

void JsonTokenizer::build_matchers(FaultList& faults) {
    // Where two spellings become the same, a special token wins.
    for (const bool special : {true, false}) {
        for (AddedToken& token : added_tokens_) {
            if (token.special != special) continue;
            token.decoded = token.content;
            if (!token.normalized) {
                raw_matcher_.add(token, token.content);
                continue;
            }
            if (normalizer_) token.decoded = normalizer_->normalize(token.content);
            if (token.decoded.empty()) {
                faults.add("added_tokens", "the normalizer leaves nothing of '" + token.content + "'");
            } else {
                normalized_matcher_.add(token, token.decoded);
            }
        }
    }
}

std::vector<TokenId> JsonTokenizer::encode(std::string_view text, const EncodeOptions& options) const {
    const std::size_t invalid = find_invalid_utf8(text);
    if (invalid != std::string_view::npos) {
        throw DataError("the text to encode is not valid UTF-8 (byte " + std::to_string(invalid) + ")");
    }
    std::vector<TokenId> ids;
    if (options.add_special_tokens) ids = post_processor_.before;
    for (const auto& segment : raw_matcher_.split(text, options.parse_special)) {
        if (segment.token) {
            ids.push_back(*segment.token);
            continue;
        }
        const std::string_view raw = text.substr(segment.begin, segment.end - segment.begin);
        const std::string normalized =
            normalizer_ ? normalizer_->normalize(std::string(raw)) : std::string(raw);
        for (const auto& part : normalized_matcher_.split(normalized, options.parse_special)) {
            if (part.token) {
                ids.push_back(*part.token);
            } else {
                encode_text(std::string_view(normalized).substr(part.begin, part.end - part.begin),
                            segment.begin == 0 && part.begin == 0, ids);
            }
        }
    }
    if (options.add_special_tokens) {
        ids.insert(ids.end(), post_processor_.after.begin(), post_processor_.after.end());
    }
    return ids;
}

void JsonTokenizer::encode_text(std::string_view text, bool at_start, std::vector<TokenId>& ids) const {
    Pieces pieces{std::string(text), {{0, text.size(), at_start}}};
    if (pre_tokenizer_) pre_tokenizer_->apply(pieces);
    for (const Pieces::Piece& piece : pieces.pieces) model_->encode(pieces.view(piece), ids);
}

std::string JsonTokenizer::decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const TokenId id : ids) {
        const AddedToken* added = added_token(id);
        if (added != nullptr && added->special && skip_special_tokens) continue;
        std::string token = added != nullptr ? added->decoded : model_->id_to_token(id);
        if (!token.empty()) tokens.push_back(std::move(token));
    }
    const std::string_view joint = decoder_ ? "" : " ";
    if (decoder_) tokens = decoder_->decode(std::move(tokens));
    std::string text;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        if (i > 0) text += joint;
        text += tokens[i];
    }
    return text;
}

const AddedToken* JsonTokenizer::added_token(TokenId id) const {
    const auto found = added_by_id_.find(id);
    return found == added_by_id_.end() ? nullptr : &added_tokens_[found->second];
}

std::int64_t JsonTokenizer::vocab_size() const {
    return std::max(static_cast<std::int64_t>(model_->id_limit()), std::int64_t{added_id_limit_});
}

std::optional<TokenId> JsonTokenizer::token_to_id(std::string_view token) const {
    const auto found = added_by_content_.find(std::string(token));
    return found != added_by_content_.end() ? found->second : model_->token_to_id(token);
}

std::string JsonTokenizer::id_to_token(TokenId id) const {
    const AddedToken* added = added_token(id);
    return added != nullptr ? added->content : model_->id_to_token(id);
}

bool JsonTokenizer::is_special(TokenId id) const {
    const AddedToken* added = added_token(id);
    return added != nullptr && added->special;
}

}  // namespace qlora::tokenizer
