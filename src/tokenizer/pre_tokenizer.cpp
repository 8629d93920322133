#include "pre_tokenizer.h"

#include <algorithm>

#include "byte_alphabet.h"
#include "component_reader.h"
#include "regex.h"
#include "split_behavior.h"
#include "unicode.h"

namespace qlora::tokenizer {
namespace {

// `spans_of(view)` covers one piece; what the behaviour keeps of it replaces the piece. The text stays.
template <class SpansOf>
void split_pieces(Pieces& pieces, SplitBehavior behavior, const SpansOf& spans_of) {
    std::vector<Pieces::Piece> out;
    out.reserve(pieces.pieces.size() * 2);
    for (const Pieces::Piece& piece : pieces.pieces) {
        for (const Span& span : apply_split_behavior(spans_of(pieces.view(piece)), behavior)) {
            if (span.begin == span.end) continue;
            out.push_back(
                {piece.begin + span.begin, piece.begin + span.end, piece.at_start && span.begin == 0});
        }
    }
    pieces.pieces = std::move(out);
}

// Every code point of which `matches` holds is a match of its own.
template <class Matches>
std::vector<Span> spans_of_characters(std::string_view text, const Matches& matches) {
    std::vector<Span> spans;
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
        const CodePoint point = code_point_at(text, at);
        if (matches(point.value)) {
            if (done != at) spans.push_back({done, at, false});
            done = at + point.length;
            spans.push_back({at, done, true});
        }
        at += point.length;
    }
    if (done != text.size()) spans.push_back({done, text.size(), false});
    return spans;
}

class CharacterSplit final : public PreTokenizer {
  public:
    CharacterSplit(bool (*matches)(char32_t), SplitBehavior behavior)
        : matches_(matches), behavior_(behavior) {}
    void apply(Pieces& pieces) const override {
        split_pieces(pieces, behavior_,
                     [&](std::string_view text) { return spans_of_characters(text, matches_); });
    }

  private:
    bool (*matches_)(char32_t);
    SplitBehavior behavior_;
};

class PatternSplit final : public PreTokenizer {
  public:
    PatternSplit(Regex pattern, SplitBehavior behavior, bool invert)
        : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
    void apply(Pieces& pieces) const override {
        split_pieces(pieces, behavior_, [&](std::string_view text) {
            std::vector<Span> spans = pattern_.split(text);
            if (invert_) {
                for (Span& span : spans) span.is_match = !span.is_match;
            }
            return spans;
        });
    }

  private:
    Regex pattern_;
    SplitBehavior behavior_;
    bool invert_;
};

// Runs of word characters and runs of other visible characters.
class WhitespaceSplit final : public PreTokenizer {
  public:
    void apply(Pieces& pieces) const override {
        split_pieces(pieces, SplitBehavior::kIsolated, [](std::string_view text) {
            std::vector<Span> spans;
            int run_kind = 0;
            for (std::size_t at = 0; at < text.size();) {
                const CodePoint point = code_point_at(text, at);
                const int kind = is_word(point.value) ? 1 : is_white_space(point.value) ? 0 : 2;
                if (kind != 0 && kind == run_kind) {
                    spans.back().end += point.length;
                } else if (kind != 0) {
                    spans.push_back({at, at + point.length, true});
                }
                run_kind = kind;
                at += point.length;
            }
            return spans;
        });
    }
};

class ByteLevelPreTokenizer final : public PreTokenizer {
  public:
    ByteLevelPreTokenizer(bool add_prefix_space, bool use_regex) : add_prefix_space_(add_prefix_space) {
        if (use_regex) pattern_ = Regex::from_oniguruma(kWords);
    }

    void apply(Pieces& pieces) const override {
        Pieces out{pieces.text.rewritten(), {}};
        for (const Pieces::Piece& piece : pieces.pieces) {
            const std::string_view text = pieces.view(piece);
            if (add_prefix_space_ && text.front() != ' ') {
                // What the pattern sees is the piece with a blank before it.
                append(out, pieces.text, " " + std::string(text), piece, 1);
            } else {
                append(out, pieces.text, text, piece, 0);
            }
        }
        pieces = std::move(out);
    }

  private:
    // GPT-2's words: contractions, then letters, digits or signs with one space before them, then white
    // space.
    static constexpr const char* kWords =
        R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

    // `text`: the piece behind `added` blanks.
    void append(Pieces& out, const AlignedText& from, std::string_view text, const Pieces::Piece& piece,
                std::size_t added) const {
        const auto append_word = [&](std::size_t begin, std::size_t end) {
            const std::size_t start = out.text.text().size();
            for (std::size_t at = begin; at < std::min(end, added); ++at)
                out.text.put(byte_letters()[' '], from, piece.begin, piece.begin);
            out.text.spell(from, piece.begin + std::max(begin, added) - added,
                           piece.begin + std::max(end, added) - added, byte_letters());
            out.pieces.push_back({start, out.text.text().size(), piece.at_start && begin == 0});
        };
        if (!pattern_) return append_word(0, text.size());
        for (std::size_t at = 0; at < text.size();) {
            const std::optional<Span> word = pattern_->find(text, at);
            const std::size_t begin = word ? word->begin : text.size();
            if (begin > at) append_word(at, begin);
            if (!word) break;
            append_word(begin, word->end);
            at = word->end;
        }
    }

    bool add_prefix_space_;
    std::optional<Regex> pattern_;
};

enum class PrependScheme { kAlways, kFirst, kNever };

class MetaspacePreTokenizer final : public PreTokenizer {
  public:
    MetaspacePreTokenizer(const std::string& replacement, PrependScheme scheme, bool split)
        : replacement_(replacement),
          scheme_(scheme),
          split_(split),
          at_replacement_(Regex::from_literal(replacement)) {}

    void apply(Pieces& pieces) const override {
        Pieces out{pieces.text.rewritten(), {}};
        for (const Pieces::Piece& piece : pieces.pieces) {
            const std::string_view text = pieces.view(piece);
            const std::size_t begin = out.text.text().size();
            const bool starts_marked =
                text.front() == ' ' || text.substr(0, replacement_.size()) == replacement_;
            const bool prepends =
                scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && piece.at_start);
            if (prepends && !starts_marked) out.text.put(replacement_, pieces.text, piece.begin, piece.begin);
            for (std::size_t at = piece.begin; at < piece.end;) {
                const std::size_t blank =
                    std::min(text.find(' ', at - piece.begin), text.size()) + piece.begin;
                out.text.keep(pieces.text, at, blank);
                if (blank < piece.end) out.text.put(replacement_, pieces.text, blank, blank + 1);
                at = blank + 1;
            }
            out.pieces.push_back({begin, out.text.text().size(), piece.at_start});
        }
        pieces = std::move(out);
        if (!split_) return;
        split_pieces(pieces, SplitBehavior::kMergedWithNext,
                     [&](std::string_view text) { return at_replacement_.split(text); });
    }
    bool needs_start() const override { return scheme_ == PrependScheme::kFirst; }

  private:
    std::string replacement_;
    PrependScheme scheme_;
    bool split_;
    Regex at_replacement_;
};

class PreTokenizerSequence final : public PreTokenizer {
  public:
    explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> steps)
        : steps_(std::move(steps)) {}
    void apply(Pieces& pieces) const override {
        for (const auto& step : steps_) step->apply(pieces);
    }
    bool needs_start() const override {
        return std::any_of(steps_.begin(), steps_.end(),
                           [](const auto& step) { return step->needs_start(); });
    }

  private:
    std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

SplitBehavior read_behavior(ComponentReader& reader) {
    const std::string name = reader.string("behavior");
    const std::optional<SplitBehavior> behavior = split_behavior_from_name(name);
    if (!behavior) {
        reader.fault("behavior", "'" + name +
                                     "' is not one of Removed, Isolated, MergedWithPrevious, MergedWithNext, "
                                     "Contiguous");
    }
    return behavior.value_or(SplitBehavior::kIsolated);
}

std::unique_ptr<PreTokenizer> read_byte_level(ComponentReader& reader) {
    const bool add_prefix_space = reader.boolean("add_prefix_space");
    reader.boolean("trim_offsets");  // moves offsets only, never ids
    return std::make_unique<ByteLevelPreTokenizer>(add_prefix_space, reader.boolean("use_regex", true));
}

std::unique_ptr<PreTokenizer> read_split(ComponentReader& reader) {
    std::optional<Regex> pattern = reader.pattern("pattern");
    const SplitBehavior behavior = read_behavior(reader);
    const bool invert = reader.boolean("invert");
    if (!pattern) return nullptr;
    return std::make_unique<PatternSplit>(std::move(*pattern), behavior, invert);
}

std::unique_ptr<PreTokenizer> read_metaspace_split(ComponentReader& reader) {
    const std::string replacement = reader.character("replacement");
    const std::string name = reader.string("prepend_scheme", "always");
    PrependScheme scheme = PrependScheme::kAlways;
    if (name == "first") {
        scheme = PrependScheme::kFirst;
    } else if (name == "never") {
        scheme = PrependScheme::kNever;
    } else if (name != "always") {
        reader.fault("prepend_scheme", "'" + name + "' is not one of always, first, never");
    }
    // The older spelling of prepend_scheme "never"; it may only agree.
    const Json* add_prefix_space = reader.find("add_prefix_space");
    if (add_prefix_space != nullptr && *add_prefix_space == false && scheme != PrependScheme::kNever) {
        reader.fault("add_prefix_space", "false contradicts prepend_scheme '" + name + "'");
    }
    reader.find("str_rep");  // the replacement again, in files of older versions
    const Json* split = reader.find("split");
    const bool splits = split == nullptr || split->is_null() ? true : reader.boolean("split");
    return std::make_unique<MetaspacePreTokenizer>(replacement, scheme, splits);
}

std::unique_ptr<PreTokenizer> read_pre_tokenizer_sequence(ComponentReader& reader) {
    std::vector<std::unique_ptr<PreTokenizer>> steps;
    std::size_t index = 0;
    for (const Json& step : reader.list("pretokenizers")) {
        const std::string path = reader.path() + ".pretokenizers[" + std::to_string(index++) + "]";
        steps.push_back(read_pre_tokenizer(step, path, reader.faults()));
        if (step.is_null()) reader.faults().add("", path + " must be an object");
    }
    return std::make_unique<PreTokenizerSequence>(std::move(steps));
}

}  // namespace

std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Json& json, const std::string& path,
                                                 FaultList& faults) {
    if (json.is_null()) return nullptr;
    ComponentReader reader(json, path, faults);
    const std::string type = reader.type();
    if (type.empty()) return nullptr;
    if (type == "ByteLevel") return read_byte_level(reader);
    if (type == "Split") return read_split(reader);
    if (type == "Metaspace") return read_metaspace_split(reader);
    if (type == "Digits") {
        const bool individual = reader.boolean("individual_digits");
        return std::make_unique<CharacterSplit>(
            is_numeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
    }
    if (type == "Whitespace") return std::make_unique<WhitespaceSplit>();
    if (type == "WhitespaceSplit") {
        return std::make_unique<CharacterSplit>(is_white_space, SplitBehavior::kRemoved);
    }
    if (type == "Sequence") return read_pre_tokenizer_sequence(reader);
    reader.refuse_type(type, "ByteLevel, Split, Metaspace, Digits, Whitespace, WhitespaceSplit and Sequence");
    return nullptr;
}

}  // namespace qlora::tokenizer
