#include "normalizer.h"

#include <algorithm>
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
    std::string normalize(std::string text) const override { return to_normal_form(text, form_); }
    bool keeps_start() const override { return true; }

  private:
    NormalForm form_;
};

class LowercaseNormalizer final : public Normalizer {
  public:
    std::string normalize(std::string text) const override { return to_lower_case(text); }
    bool keeps_start() const override { return true; }
};

class PrependNormalizer final : public Normalizer {
  public:
    explicit PrependNormalizer(std::string prefix) : prefix_(std::move(prefix)) {}
    std::string normalize(std::string text) const override {
        return text.empty() ? std::move(text) : prefix_ + text;
    }

  private:
    std::string prefix_;
};

class ReplaceNormalizer final : public Normalizer {
  public:
    ReplaceNormalizer(Regex pattern, std::string content, bool by_character)
        : pattern_(std::move(pattern)), content_(std::move(content)), by_character_(by_character) {}
    std::string normalize(std::string text) const override { return pattern_.replace(text, content_); }
    bool keeps_start() const override { return by_character_; }

  private:
    Regex pattern_;
    std::string content_;
    bool by_character_;  // puts one character in the place of one
};

class StripNormalizer final : public Normalizer {
  public:
    StripNormalizer(bool left, bool right) : left_(left), right_(right) {}
    std::string normalize(std::string text) const override {
        std::size_t begin = 0;
        std::size_t end = text.size();
        while (right_ && end > 0 && is_white_space(code_point_before(text, end).value)) {
            end -= code_point_before(text, end).length;
        }
        while (left_ && begin < end && is_white_space(code_point_at(text, begin).value)) {
            begin += code_point_at(text, begin).length;
        }
        return text.substr(begin, end - begin);
    }

  private:
    bool left_;
    bool right_;
};

class NormalizerSequence final : public Normalizer {
  public:
    explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> steps) : steps_(std::move(steps)) {}
    std::string normalize(std::string text) const override {
        for (const auto& step : steps_) text = step->normalize(std::move(text));
        return text;
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
