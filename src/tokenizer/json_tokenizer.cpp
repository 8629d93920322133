#include "json_tokenizer.h"

#include <algorithm>
#include <cstdint>

#include "component_reader.h"
#include "llama_class.h"
#include "qlora/core/utf8.h"
#include "unicode.h"

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
    const TokenFiles files = read_token_files(file.parent_path());
    if (takes_llama_class(files.config, files.model_config))
        json = as_llama_class(std::move(json), files.config);
    return std::make_unique<JsonTokenizer>(json, file.string(), files);
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
            added_.read_list(added_tokens, *model_, faults);
            added_.read_files(files, *model_, "tokenizer.json", faults);
        }
    }
    if (faults.empty() && pre_tokenizer_ && pre_tokenizer_->needs_start() && normalizer_ &&
        !normalizer_->keeps_start()) {
        // tokenizers decides by where the normalized text came from, which a removal at the start moves.
        faults.add("pre_tokenizer",
                   "prepend_scheme 'first' is not supported behind a normalizer that adds or removes text");
    }
    if (faults.empty()) added_.build_matchers(normalizer_.get(), faults);
    faults.throw_if_any<CheckpointError>(name);
}

std::vector<TokenId> JsonTokenizer::encode(std::string_view text, const EncodeOptions& options) const {
    const std::size_t invalid = find_invalid_utf8(text);
    if (invalid != std::string_view::npos) {
        throw DataError("the text to encode is not valid UTF-8 (byte " + std::to_string(invalid) + ")");
    }
    EncodedText encoded;
    if (options.add_special_tokens) encoded.ids = post_processor_.before;
    const TextMarks marks = TextMarks::everywhere(options.parse_special);
    encode_marked(text, marks, encoded);
    if (options.add_special_tokens) {
        encoded.ids.insert(encoded.ids.end(), post_processor_.after.begin(), post_processor_.after.end());
    }
    return std::move(encoded.ids);
}

EncodedText JsonTokenizer::encode_text(std::string_view text, const TextEncodingOptions& options) const {
    return encode_at_cuts(text, options, [&](const TextMarks& marks) {
        EncodedText encoded;
        encode_marked(text, marks, encoded);
        return encoded;
    });
}

void JsonTokenizer::encode_marked(std::string_view text, const TextMarks& marks, EncodedText& out) const {
    out.ids.reserve(out.ids.size() + text.size() / 3);
    if (marks.tracks()) out.ranges.reserve(text.size() / 3);
    for (auto& segment : added_.split(text, normalizer_.get(), marks)) {
        if (segment.token) {
            out.ids.push_back(*segment.token);
            if (marks.tracks()) out.ranges.push_back(segment.source);
            continue;
        }
        const std::size_t size = segment.text.text().size();
        Pieces pieces{std::move(segment.text), {{0, size, segment.at_start}}};
        if (pre_tokenizer_) pre_tokenizer_->apply(pieces);
        for (const Pieces::Piece& piece : pieces.pieces)
            encode_piece(pieces.text, piece.begin, piece.end, out);
    }
}

// The whole piece at first; where tokens cross cuts, the two sides of the middle one of these, which keeps
// many cuts in a long piece from taking quadratic time.
void JsonTokenizer::encode_piece(const AlignedText& text, std::size_t begin, std::size_t end,
                                 EncodedText& out) const {
    thread_local std::vector<WordToken> tokens;
    model_->encode(std::string_view(text.text()).substr(begin, end - begin), tokens);
    std::vector<std::size_t> crossed;
    for (const std::size_t cut : text.cuts(begin, end)) {
        const auto token = std::partition_point(
            tokens.begin(), tokens.end(), [&](const WordToken& word) { return begin + word.end <= cut; });
        if (token == tokens.end() || begin + token->begin >= cut) continue;
        crossed.push_back(cut);
    }
    std::optional<std::size_t> split;
    if (!crossed.empty()) split = crossed[crossed.size() / 2];
    if (!split) split = inside_forged_token(text, begin, tokens);
    if (split) {
        encode_piece(text, begin, *split, out);
        return encode_piece(text, *split, end, out);
    }
    for (const WordToken& token : tokens) {
        out.ids.push_back(token.id);
        if (text.tracks()) out.ranges.push_back(text.source(begin + token.begin, begin + token.end));
    }
}

// Some vocabularies have merges that lead to the spelling of a control token; no message may take them. The
// place behind the first character of the middle one of such tokens.
std::optional<std::size_t> JsonTokenizer::inside_forged_token(const AlignedText& text, std::size_t begin,
                                                              const std::vector<WordToken>& tokens) const {
    std::vector<std::size_t> places;
    if (!text.tracks()) return std::nullopt;
    for (const WordToken& token : tokens) {
        const AddedToken* added = added_.find(token.id);
        if (added == nullptr) continue;
        const std::size_t first = begin + token.begin;
        const std::string_view spelling =
            std::string_view(text.text()).substr(first, token.end - token.begin);
        if (spelling != model_->id_to_token(token.id)) continue;  // an unknown character
        const std::size_t length = code_point_at(spelling, 0).length;
        const bool is_message = text.marks().is_plain_control(*added, text.source(first, begin + token.end));
        if (is_message && length < spelling.size()) places.push_back(first + length);
    }
    return places.empty() ? std::nullopt : std::optional(places[places.size() / 2]);
}

std::string JsonTokenizer::decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const TokenId id : ids) {
        const AddedToken* added = added_.find(id);
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

std::int64_t JsonTokenizer::vocab_size() const {
    return std::max(static_cast<std::int64_t>(model_->id_limit()), std::int64_t{added_.id_limit()});
}

std::optional<TokenId> JsonTokenizer::token_to_id(std::string_view token) const {
    const std::optional<TokenId> added = added_.find(token);
    return added ? added : model_->token_to_id(token);
}

std::string JsonTokenizer::id_to_token(TokenId id) const {
    const AddedToken* added = added_.find(id);
    return added != nullptr ? added->content : model_->id_to_token(id);
}

bool JsonTokenizer::is_special(TokenId id) const {
    const AddedToken* added = added_.find(id);
    return added != nullptr && added->special;
}

}  // namespace qlora::tokenizer
