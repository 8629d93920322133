#include "sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstdint>
#include <set>

#include "folder_files.h"
#include "folder_tokens.h"
#include "qlora/core/lfs_pointer.h"
#include "qlora/core/utf8.h"
#include "qlora/core/whole_file.h"

namespace qlora::tokenizer {
namespace {

using sentencepiece::SentencePieceProcessor;

// A second `normalizer_spec { add_dummy_prefix: false }`: protobuf merges it into the model's own.
constexpr std::string_view kNoDummyPrefix("\x1A\x02\x18\x00", 4);

std::unique_ptr<SentencePieceProcessor> make_processor(const std::string& model, const std::string& name) {
    auto processor = std::make_unique<SentencePieceProcessor>();
    const auto status = processor->LoadFromSerializedProto(model);
    if (!status.ok())
        throw CheckpointError(name + ": is not a sentencepiece model (" + status.ToString() + ")");
    return processor;
}

bool bool_or(const Json& object, const std::string& field, bool fallback, FaultList& faults) {
    const auto value = object.find(field);
    if (value == object.end() || value->is_null()) return fallback;
    if (value->is_boolean()) return value->get<bool>();
    faults.add("tokenizer_config.json " + field, "must be true or false");
    return fallback;
}

// Classes whose ids are the sentencepiece ids; others (T5, XLM-R, ...) move or add some.
void check_class(const Json& config, FaultList& faults) {
    static const std::set<std::string> kPlain = {
        "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer",      "CodeLlamaTokenizerFast",
        "GemmaTokenizer", "GemmaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"};
    const auto name = config.find("tokenizer_class");
    if (name == config.end() || name->is_null()) return;
    if (!name->is_string() || kPlain.count(name->get<std::string>()) == 0) {
        faults.add("tokenizer_config.json tokenizer_class",
                   name->dump() + " is not supported with tokenizer.model (Llama's and Gemma's are)");
    }
}

bool is_plain_ascii(const std::string& piece) {
    return std::all_of(piece.begin(), piece.end(), [](char c) { return c > 0x20 && c < 0x7F; });
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer() = default;
SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::unique_ptr<SentencePieceTokenizer> SentencePieceTokenizer::load(const std::filesystem::path& folder) {
    std::unique_ptr<SentencePieceTokenizer> tokenizer(new SentencePieceTokenizer());
    tokenizer->load_model(folder / "tokenizer.model");
    tokenizer->read_settings(folder);
    return tokenizer;
}

void SentencePieceTokenizer::load_model(const std::filesystem::path& file) {
    const std::string model = read_whole_file(file);
    if (const std::string pointer = fault_of_lfs_pointer(model); !pointer.empty())
        throw CheckpointError(file.string() + ": " + pointer);
    processor_ = make_processor(model, file.string());
    inner_processor_ = make_processor(model + std::string(kNoDummyPrefix), file.string());
    for (int id = 0; id < processor_->GetPieceSize(); ++id) {
        if (!processor_->IsControl(id) && !processor_->IsUnknown(id)) {
            if (!anchor_ && is_plain_ascii(processor_->IdToPiece(id)) && !processor_->IsByte(id))
                anchor_ = id;
            continue;
        }
        added_by_id_.emplace(id, added_tokens_.size());
        added_by_content_.emplace(processor_->IdToPiece(id), id);
        AddedToken control;
        control.id = id;
        control.content = processor_->IdToPiece(id);
        control.special = true;
        added_tokens_.push_back(std::move(control));
    }
}

void SentencePieceTokenizer::read_settings(const std::filesystem::path& folder) {
    const TokenFiles files = read_token_files(folder);
    const Json& config = files.config;
    FaultList faults;
    check_class(config, faults);
    for (FolderToken& more : numbered_tokens(files, faults)) {
        more.token.normalized = false;  // there is no normalizer outside the model
        add_token(std::move(more.token), more.place, faults);
    }
    for (const AddedToken& token : added_tokens_) matcher_.add(token, token.content);

    const bool legacy = bool_or(config, "legacy", false, faults);
    if (!bool_or(config, "add_prefix_space", true, faults)) std::swap(processor_, inner_processor_);
    repeats_prefix_ = legacy;
    const auto role_id = [&](const char* role, const char* usual, bool added) -> std::optional<TokenId> {
        if (!added) return std::nullopt;
        const std::string name = special_token_name(config, files.map, role).value_or(usual);
        const std::optional<TokenId> id = token_to_id(name);
        if (!id)
            faults.add(role, "'" + name + "' is not in the vocabulary, but is to be added to every text");
        return id;
    };
    bos_ = role_id("bos_token", "<s>", bool_or(config, "add_bos_token", true, faults));
    eos_ = role_id("eos_token", "</s>", bool_or(config, "add_eos_token", false, faults));
    faults.throw_if_any<CheckpointError>(folder.string());
}

void SentencePieceTokenizer::add_token(AddedToken token, const std::string& place, FaultList& faults) {
    const auto known = added_by_content_.find(token.content);
    if (known != added_by_content_.end()) {
        if (known->second != token.id) {
            return faults.add(place, "'" + token.content + "' has the id " + std::to_string(known->second) +
                                         ", not " + std::to_string(token.id));
        }
        AddedToken& mine = added_tokens_[added_by_id_.at(token.id)];
        token.special = token.special || mine.special;
        mine = std::move(token);
        return;
    }
    if (added_by_id_.count(token.id) != 0 ||
        (is_piece(token.id) && processor_->IdToPiece(token.id) != token.content)) {
        return faults.add(place, "the id " + std::to_string(token.id) + " belongs to '" +
                                     id_to_token(token.id) + "', not to '" + token.content + "'");
    }
    const std::optional<TokenId> piece = token_to_id(token.content);
    if (piece && *piece != token.id) {
        return faults.add(place, "'" + token.content + "' has the id " + std::to_string(*piece) +
                                     " in tokenizer.model, not " + std::to_string(token.id));
    }
    added_by_id_.emplace(token.id, added_tokens_.size());
    added_by_content_.emplace(token.content, token.id);
    added_tokens_.push_back(std::move(token));
}

std::vector<TokenId> SentencePieceTokenizer::encode(std::string_view text,
                                                    const EncodeOptions& options) const {
    const std::size_t invalid = find_invalid_utf8(text);
    if (invalid != std::string_view::npos) {
        throw DataError("the text to encode is not valid UTF-8 (byte " + std::to_string(invalid) + ")");
    }
    std::vector<TokenId> ids;
    if (options.add_special_tokens && bos_) ids.push_back(*bos_);
    for (const auto& segment : matcher_.split(text, options.parse_special)) {
        if (segment.token) {
            ids.push_back(*segment.token);
            continue;
        }
        const auto& processor = segment.begin == 0 || repeats_prefix_ ? processor_ : inner_processor_;
        std::vector<int> pieces;
        const auto status =
            processor->Encode(text.substr(segment.begin, segment.end - segment.begin), &pieces);
        if (!status.ok()) throw DataError("sentencepiece cannot encode the text: " + status.ToString());
        ids.insert(ids.end(), pieces.begin(), pieces.end());
    }
    if (options.add_special_tokens && eos_) ids.push_back(*eos_);
    return ids;
}

std::string SentencePieceTokenizer::decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const {
    std::string text;
    std::vector<int> pieces;
    bool at_start = true;  // nothing of the text has been written
    const auto flush = [&] {
        if (!pieces.empty()) decode_pieces(pieces, at_start, text);
        at_start = at_start && pieces.empty();
        pieces.clear();
    };
    for (const TokenId id : ids) {
        const AddedToken* added = added_token(id);
        if (added == nullptr) {
            if (is_piece(id)) pieces.push_back(id);
            continue;
        }
        if (added->special && skip_special_tokens) continue;
        flush();
        text += added->content;
        at_start = false;
    }
    flush();
    return text;
}

void SentencePieceTokenizer::decode_pieces(std::vector<int> pieces, bool at_start, std::string& text) const {
    // sentencepiece drops a space at the start of what it decodes: behind other text a piece without one
    // stands there.
    std::size_t cut = 0;
    if (!at_start && anchor_) {
        pieces.insert(pieces.begin(), *anchor_);
        cut = processor_->IdToPiece(*anchor_).size();
    }
    std::string part;
    const auto status = processor_->Decode(pieces, &part);
    if (!status.ok()) throw DataError("sentencepiece cannot decode the tokens: " + status.ToString());
    text.append(part, cut);
}

bool SentencePieceTokenizer::is_piece(TokenId id) const {
    return id >= 0 && id < processor_->GetPieceSize();
}

const AddedToken* SentencePieceTokenizer::added_token(TokenId id) const {
    const auto found = added_by_id_.find(id);
    return found == added_by_id_.end() ? nullptr : &added_tokens_[found->second];
}

std::int64_t SentencePieceTokenizer::vocab_size() const {
    std::int64_t size = processor_->GetPieceSize();
    for (const AddedToken& token : added_tokens_)
        size = std::max<std::int64_t>(size, std::int64_t{token.id} + 1);
    return size;
}

std::optional<TokenId> SentencePieceTokenizer::token_to_id(std::string_view token) const {
    const auto found = added_by_content_.find(std::string(token));
    if (found != added_by_content_.end()) return found->second;
    const int id = processor_->PieceToId(token);
    // sentencepiece answers with the unknown piece for what it does not have.
    return is_piece(id) && processor_->IdToPiece(id) == token ? std::optional<TokenId>(id) : std::nullopt;
}

std::string SentencePieceTokenizer::id_to_token(TokenId id) const {
    if (const AddedToken* added = added_token(id)) return added->content;
    return is_piece(id) && !processor_->IsUnused(id) ? processor_->IdToPiece(id) : "";
}

bool SentencePieceTokenizer::is_special(TokenId id) const {
    const AddedToken* added = added_token(id);
    return added != nullptr && added->special;
}

}  // namespace qlora::tokenizer
