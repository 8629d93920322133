#include "sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstdint>
#include <set>

#include "folder_files.h"
#include "folder_tokens.h"
#include "llama_class.h"
#include "qlora/core/lfs_pointer.h"
#include "qlora/core/utf8.h"
#include "qlora/core/whole_file.h"
#include "unicode.h"

namespace qlora::tokenizer {
namespace {

using sentencepiece::SentencePieceProcessor;

// A second `normalizer_spec { add_dummy_prefix: false }`: protobuf merges it into the model's own.
constexpr std::string_view kNoDummyPrefix("\x1A\x02\x18\x00", 4);

constexpr std::string_view kMark = "▁";  // sentencepiece's blank

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

class PieceVocabulary final : public ModelVocabulary {
  public:
    explicit PieceVocabulary(const SentencePieceProcessor& processor) : processor_(processor) {}
    std::size_t size() const override { return static_cast<std::size_t>(processor_.GetPieceSize()); }
    std::optional<TokenId> token_to_id(std::string_view token) const override {
        const int id = processor_.PieceToId(token);
        // sentencepiece answers with the unknown piece for what it does not have.
        const bool is_known = id >= 0 && id < processor_.GetPieceSize() && processor_.IdToPiece(id) == token;
        return is_known ? std::optional<TokenId>(id) : std::nullopt;
    }
    const std::string& id_to_token(TokenId id) const override {
        static const std::string kNone;
        return id >= 0 && id < processor_.GetPieceSize() ? processor_.IdToPiece(id) : kNone;
    }

  private:
    const SentencePieceProcessor& processor_;
};

// Of the byte pieces of one character sentencepiece gives the last the whole range and the others none.
void share_out_bytes(const SentencePieceProcessor& processor, EncodedText& encoded, std::size_t first) {
    for (std::size_t begin = first; begin < encoded.ids.size(); ++begin) {
        if (!processor.IsByte(encoded.ids[begin])) continue;
        std::size_t last = begin;
        while (encoded.ranges[last].begin == encoded.ranges[last].end && last + 1 < encoded.ids.size() &&
               processor.IsByte(encoded.ids[last + 1]))
            ++last;
        const ByteRange whole = encoded.ranges[last];
        const bool one_each = whole.end - whole.begin == last + 1 - begin;
        for (std::size_t i = begin; i <= last; ++i) {
            const std::size_t byte = whole.begin + (i - begin);
            encoded.ranges[i] = one_each ? ByteRange{byte, byte + 1} : whole;
        }
        begin = last;
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
    pieces_ = std::make_unique<PieceVocabulary>(*processor_);
    FaultList faults;
    for (int id = 0; id < processor_->GetPieceSize(); ++id) {
        if (!processor_->IsControl(id) && !processor_->IsUnknown(id)) {
            if (!anchor_ && is_plain_ascii(processor_->IdToPiece(id)) && !processor_->IsByte(id))
                anchor_ = id;
            continue;
        }
        AddedToken control;
        control.id = id;
        control.content = processor_->IdToPiece(id);
        control.special = true;
        added_.add(std::move(control), *pieces_, "piece " + std::to_string(id), faults);
    }
    faults.throw_if_any<CheckpointError>(file.string());
}

void SentencePieceTokenizer::read_settings(const std::filesystem::path& folder) {
    const TokenFiles files = read_token_files(folder);
    const Json& config = files.config;
    FaultList faults;
    check_class(config, faults);
    added_.read_files(files, *pieces_, "tokenizer.model", faults);
    added_.build_matchers(nullptr, faults);

    const bool llama_class = takes_llama_class(config, files.model_config);
    const bool legacy = bool_or(config, "legacy", !llama_class, faults);
    blank_is_prefix_ = llama_class || !legacy;
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

std::vector<TokenId> SentencePieceTokenizer::encode(std::string_view text,
                                                    const EncodeOptions& options) const {
    const std::size_t invalid = find_invalid_utf8(text);
    if (invalid != std::string_view::npos) {
        throw DataError("the text to encode is not valid UTF-8 (byte " + std::to_string(invalid) + ")");
    }
    EncodedText encoded;
    if (options.add_special_tokens && bos_) encoded.ids.push_back(*bos_);
    const TextMarks marks = TextMarks::everywhere(options.parse_special);
    encode_marked(text, marks, encoded);
    if (options.add_special_tokens && eos_) encoded.ids.push_back(*eos_);
    return std::move(encoded.ids);
}

EncodedText SentencePieceTokenizer::encode_text(std::string_view text,
                                                const TextEncodingOptions& options) const {
    return encode_at_cuts(text, options, [&](const TextMarks& marks) {
        EncodedText encoded;
        encode_marked(text, marks, encoded);
        return encoded;
    });
}

// Also where the model drops it.
bool SentencePieceTokenizer::begins_with_blank(std::string_view text) const {
    const std::string_view first = text.substr(0, code_point_at(text, 0).length);
    if (first == " " || first == kMark) return true;
    std::vector<int> ids;
    return inner_processor_->Encode(first, &ids).ok() && ids.empty();
}

void SentencePieceTokenizer::encode_marked(std::string_view text, const TextMarks& marks,
                                           EncodedText& out) const {
    for (const auto& segment : added_.split(text, nullptr, marks)) {
        if (!segment.token) {
            const std::size_t offset = segment.text.source(0, 0).begin;
            const std::string& part = segment.text.text();
            const bool may_have_prefix = segment.at_start || repeats_prefix_;
            const bool has_prefix = may_have_prefix && !(blank_is_prefix_ && begins_with_blank(part));
            encode_pieces(part, offset, has_prefix, marks, out);
        } else {
            out.ids.push_back(*segment.token);
            if (marks.tracks()) out.ranges.push_back(segment.source);
        }
    }
}

// The whole text at first; where pieces cross cuts, the two sides of the middle one of these.
void SentencePieceTokenizer::encode_pieces(std::string_view text, std::size_t offset, bool has_prefix,
                                           const TextMarks& marks, EncodedText& out) const {
    const auto& processor = has_prefix ? *processor_ : *inner_processor_;
    if (!marks.tracks()) {
        std::vector<int> ids;
        const auto status = processor.Encode(text, &ids);
        if (!status.ok()) throw DataError("sentencepiece cannot encode the text: " + status.ToString());
        out.ids.insert(out.ids.end(), ids.begin(), ids.end());
        return;
    }
    const std::size_t first = out.ids.size();
    const auto pieces = processor.EncodeAsImmutableProto(text);
    for (const auto& piece : pieces.pieces()) {
        out.ids.push_back(static_cast<TokenId>(piece.id()));
        out.ranges.push_back({offset + piece.begin(), offset + piece.end()});
    }
    share_out_bytes(processor, out, first);
    std::vector<std::size_t> crossed;
    for (const std::size_t cut : marks.cuts_inside({offset, offset + text.size()})) {
        const auto range =
            std::partition_point(out.ranges.begin() + static_cast<std::ptrdiff_t>(first), out.ranges.end(),
                                 [&](const ByteRange& piece) { return piece.end <= cut; });
        if (range == out.ranges.end() || range->begin >= cut) continue;
        crossed.push_back(cut);
    }
    if (crossed.empty()) return;
    out.ids.resize(first);
    out.ranges.resize(first);
    const std::size_t middle = crossed[crossed.size() / 2];
    encode_pieces(text.substr(0, middle - offset), offset, has_prefix, marks, out);
    encode_pieces(text.substr(middle - offset), middle, false, marks, out);
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
        const AddedToken* added = added_.find(id);
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

std::int64_t SentencePieceTokenizer::vocab_size() const {
    return std::max<std::int64_t>(processor_->GetPieceSize(), added_.id_limit());
}

std::optional<TokenId> SentencePieceTokenizer::token_to_id(std::string_view token) const {
    const std::optional<TokenId> added = added_.find(token);
    return added ? added : pieces_->token_to_id(token);
}

std::string SentencePieceTokenizer::id_to_token(TokenId id) const {
    if (const AddedToken* added = added_.find(id)) return added->content;
    return is_piece(id) && !processor_->IsUnused(id) ? processor_->IdToPiece(id) : "";
}

bool SentencePieceTokenizer::is_special(TokenId id) const {
    const AddedToken* added = added_.find(id);
    return added != nullptr && added->special;
}

}  // namespace qlora::tokenizer
