#include "normalizer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "component_reader.h"
#include "regex.h"
#include "unicode.h"
#include "unicode_normal_form.h"

namespace qlora::tokenizer {
namespace {

class UnicodeNormalizer final : public Normalizer {
  public:
    explicit UnicodeNormalizer(NormalForm form) : form_(form) {}
    void apply(AlignedText& text) const override {
        const std::vector<std::size_t> cuts = text.cuts(0, text.text().size());
        if (cuts.empty() && to_normal_form(text.text(), form_) == text.text()) return;
        AlignedText out = text.rewritten();
        std::size_t begin = 0;
        for (std::size_t i = 0; i <= cuts.size(); ++i) {
            const std::size_t end = i < cuts.size() ? cuts[i] : text.text().size();
            append(text, begin, end, out);
            begin = end;
        }
        text = std::move(out);
    }
    bool keeps_start() const override { return true; }

  private:
    void append(const AlignedText& text, std::size_t begin, std::size_t end, AlignedText& out) const {
        const std::string_view part = std::string_view(text.text()).substr(begin, end - begin);
        const std::string normal = to_normal_form(part, form_);
        if (normal == part) return out.keep(text, begin, end);
        if (!text.tracks()) return out.put(normal, text, begin, end);
        for (const NormalPart& piece : normal_parts(part, form_)) {
            if (piece.normal == part.substr(piece.begin, piece.end - piece.begin)) {
                out.keep(text, begin + piece.begin, begin + piece.end);
            } else {
                out.put(piece.normal, text, begin + piece.begin, begin + piece.end);
            }
        }
    }

    NormalForm form_;
};

class LowercaseNormalizer final : public Normalizer {
  public:
    void apply(AlignedText& text) const override {
        AlignedText out = text.rewritten();
        const std::string_view whole = text.text();
        for (std::size_t at = 0; at < whole.size();) {
            const std::size_t length = code_point_at(whole, at).length;
            const std::string lower = to_lower_case(whole.substr(at, length));
            if (lower == whole.substr(at, length)) {
                out.keep(text, at, at + length);
            } else {
                out.put(lower, text, at, at + length);
            }
            at += length;
        }
        text = std::move(out);
    }
    bool keeps_start() const override { return true; }
};

class PrependNormalizer final : public Normalizer {
  public:
    explicit PrependNormalizer(std::string prefix) : prefix_(std::move(prefix)) {}
    void apply(AlignedText& text) const override {
        if (text.text().empty()) return;
        AlignedText out = text.rewritten();
        out.put(prefix_, text, 0, 0);
        out.keep(text, 0, text.text().size());
        text = std::move(out);
    }

  private:
    std::string prefix_;
};

class ReplaceNormalizer final : public Normalizer {
  public:
    ReplaceNormalizer(Regex pattern, std::string content, bool by_character)
        : pattern_(std::move(pattern)), content_(std::move(content)), by_character_(by_character) {}
    void apply(AlignedText& text) const override {
        AlignedText out = text.rewritten();
        append(text, 0, text.text().size(), out);
        text = std::move(out);
    }
    bool keeps_start() const override { return by_character_; }

  private:
    void append(const AlignedText& text, std::size_t begin, std::size_t end, AlignedText& out) const {
        const std::vector<Span> spans =
            pattern_.split(std::string_view(text.text()).substr(begin, end - begin));
        for (const Span& span : spans) {
            if (!span.is_match) continue;
            const auto cuts = text.cuts(begin + span.begin, begin + span.end);
            if (cuts.empty()) continue;
            // The two sides are replaced each by itself.
            append(text, begin, cuts.front(), out);
            return append(text, cuts.front(), end, out);
        }
        for (const Span& span : spans) {
            if (span.is_match) {
                out.put(content_, text, begin + span.begin, begin + span.end);
            } else {
                out.keep(text, begin + span.begin, begin + span.end);
            }
        }
    }

    Regex pattern_;
    std::string content_;
    bool by_character_;  // puts one character in the place of one
};

class StripNormalizer final : public Normalizer {
  public:
    StripNormalizer(bool left, bool right) : left_(left), right_(right) {}
    void apply(AlignedText& text) const override {
        const std::string_view whole = text.text();
        std::size_t begin = 0;
        std::size_t end = whole.size();
        while (right_ && end > 0 && is_white_space(code_point_before(whole, end).value)) {
            end -= code_point_before(whole, end).length;
        }
        while (left_ && begin < end && is_white_space(code_point_at(whole, begin).value)) {
            begin += code_point_at(whole, begin).length;
        }
        text = text.slice(begin, end);
    }

  private:
    bool left_;
    bool right_;
};

class NormalizerSequence final : public Normalizer {
  public:
    explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> steps) : steps_(std::move(steps)) {}
    void apply(AlignedText& text) const override {
        for (const auto& step : steps_) step->apply(text);
    }
    bool keeps_start() const override {
        return std::all_of(steps_.begin(), steps_.end(),
                           [](const auto& step) { return step->keeps_start(); });
    }

  private:
    std::vector<std::unique_ptr<Normalizer>> steps_;
};

std::unique_ptr<Normalizer> read_normalizer_sequence(ComponentReader& reader) {
    std::vector<std::unique_ptr<Normalizer>> steps;
    std::size_t index = 0;
    for (const Json& step : reader.list("normalizers")) {
        const std::string path = reader.path() + ".normalizers[" + std::to_string(index++) + "]";
        steps.push_back(read_normalizer(step, path, reader.faults()));
        if (step.is_null()) reader.faults().add("", path + " must be an object");
    }
    return std::make_unique<NormalizerSequence>(std::move(steps));
}

}  // namespace

std::string Normalizer::normalize(std::string_view text) const {
    const TextMarks marks = TextMarks::everywhere(true);
    AlignedText aligned(text, 0, marks);
    apply(aligned);
    return aligned.text();
}

std::unique_ptr<Normalizer> read_normalizer(const Json& json, const std::string& path, FaultList& faults) {
    if (json.is_null()) return nullptr;
    ComponentReader reader(json, path, faults);
    const std::string type = reader.type();
    if (type.empty()) return nullptr;
    if (type == "NFC") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfc);
    if (type == "NFD") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfd);
    if (type == "NFKC") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfkc);
    if (type == "NFKD") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfkd);
    if (type == "Lowercase") return std::make_unique<LowercaseNormalizer>();
    if (type == "Prepend") return std::make_unique<PrependNormalizer>(reader.string("prepend"));
    if (type == "Strip") {
        const bool left = reader.boolean("strip_left");
        return std::make_unique<StripNormalizer>(left, reader.boolean("strip_right"));
    }
    if (type == "Replace") {
        std::optional<Regex> pattern = reader.pattern("pattern");
        std::string content = reader.string("content");
        if (!pattern) return nullptr;
        const Json& searched = json.at("pattern").front();
        const bool by_character = json.at("pattern").contains("String") && is_one_character(content) &&
                                  is_one_character(searched.get_ref<const std::string&>());
        return std::make_unique<ReplaceNormalizer>(std::move(*pattern), std::move(content), by_character);
    }
    if (type == "Sequence") return read_normalizer_sequence(reader);
    reader.refuse_type(type, "NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip and Sequence");
    return nullptr;
}

}  // namespace qlora::tokenizer
