#include "decoder.h"

#include <string_view>

#include "byte_alphabet.h"
#include "component_reader.h"
#include "qlora/core/utf8.h"
#include "regex.h"

namespace qlora::tokenizer {
namespace {

class ByteLevelDecoder final : public Decoder {
  public:
    std::vector<std::string> decode(std::vector<std::string> tokens) const override {
        std::string bytes;
        for (const std::string& token : tokens) {
            // An added token is plain text as a rule, and then it stands for its own bytes.
            bytes += bytes_of_letters(token).value_or(token);
        }
        return {replace_invalid_utf8(bytes)};
    }
};

class ByteFallbackDecoder final : public Decoder {
  public:
    std::vector<std::string> decode(std::vector<std::string> tokens) const override {
        std::vector<std::string> out;
        std::string bytes;  // of the byte tokens that came last
        for (std::string& token : tokens) {
            if (const std::optional<char> byte = byte_of(token)) {
                bytes += *byte;
                continue;
            }
            flush(bytes, out);
            out.push_back(std::move(token));
        }
        flush(bytes, out);
        return out;
    }

  private:
    // "<0x0A>"; the hexadecimal reader that defines the format takes "<0x+A>" for the same.
    static std::optional<char> byte_of(const std::string& token) {
        if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return std::nullopt;
        int value = 0;
        for (const char c :
             std::string_view(token).substr(token[3] == '+' ? 4 : 3, token[3] == '+' ? 1 : 2)) {
            const char lower = static_cast<char>(c | 0x20);
            if (c >= '0' && c <= '9') {
                value = value * 16 + (c - '0');
            } else if (lower >= 'a' && lower <= 'f') {
                value = value * 16 + (lower - 'a' + 10);
            } else {
                return std::nullopt;
            }
        }
        return static_cast<char>(value);
    }

    // A run that is not UTF-8 as a whole becomes one U+FFFD for each byte.
    static void flush(std::string& bytes, std::vector<std::string>& out) {
        if (bytes.empty()) return;
        if (find_invalid_utf8(bytes) == std::string::npos) {
            out.push_back(bytes);
        } else {
            for (std::size_t i = 0; i < bytes.size(); ++i) out.emplace_back("\xEF\xBF\xBD");
        }
        bytes.clear();
    }
};

class FuseDecoder final : public Decoder {
  public:
    std::vector<std::string> decode(std::vector<std::string> tokens) const override {
        std::string all;
        for (const std::string& token : tokens) all += token;
        return {all};
    }
};

class ReplaceDecoder final : public Decoder {
  public:
    ReplaceDecoder(Regex pattern, std::string content)
        : pattern_(std::move(pattern)), content_(std::move(content)) {}
    std::vector<std::string> decode(std::vector<std::string> tokens) const override {
        for (std::string& token : tokens) token = pattern_.replace(token, content_);
        return tokens;
    }

  private:
    Regex pattern_;
    std::string content_;
};

// Takes up to `start` and `stop` copies of one character off the ends of each token.
class StripDecoder final : public Decoder {
  public:
    StripDecoder(std::string character, std::size_t start, std::size_t stop)
        : character_(std::move(character)), start_(start), stop_(stop) {}
    std::vector<std::string> decode(std::vector<std::string> tokens) const override {
        const std::size_t length = character_.size();
        for (std::string& token : tokens) {
            std::size_t begin = 0;
            std::size_t end = token.size();
            for (std::size_t i = 0; i < start_ && token.compare(begin, length, character_) == 0; ++i)
                begin += length;
            for (std::size_t i = 0; i < stop_ && end >= begin + length; ++i) {
                if (token.compare(end - length, length, character_) != 0) break;
                end -= length;
            }
            token = token.substr(begin, end - begin);
        }
        return tokens;
    }

  private:
    std::string character_;
    std::size_t start_;
    std::size_t stop_;
};

class MetaspaceDecoder final : public Decoder {
  public:
    MetaspaceDecoder(std::string replacement, bool drops_prefix)
        : replacement_(std::move(replacement)), drops_prefix_(drops_prefix) {}
    std::vector<std::string> decode(std::vector<std::string> tokens) const override {
        const Regex marks = Regex::from_literal(replacement_);
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            tokens[i] = marks.replace(tokens[i], i == 0 && drops_prefix_ ? "" : " ");
        }
        return tokens;
    }

  private:
    std::string replacement_;
    bool drops_prefix_;
};

class DecoderSequence final : public Decoder {
  public:
    explicit DecoderSequence(std::vector<std::unique_ptr<Decoder>> steps) : steps_(std::move(steps)) {}
    std::vector<std::string> decode(std::vector<std::string> tokens) const override {
        for (const auto& step : steps_) tokens = step->decode(std::move(tokens));
        return tokens;
    }

  private:
    std::vector<std::unique_ptr<Decoder>> steps_;
};

std::unique_ptr<Decoder> read_metaspace_decoder(ComponentReader& reader) {
    std::string replacement = reader.character("replacement");
    const std::string scheme = reader.string("prepend_scheme", "always");
    if (scheme != "always" && scheme != "first" && scheme != "never") {
        reader.fault("prepend_scheme", "'" + scheme + "' is not one of always, first, never");
    }
    const Json* add_prefix_space = reader.find("add_prefix_space");
    if (add_prefix_space != nullptr && *add_prefix_space == false && scheme != "never") {
        reader.fault("add_prefix_space", "false contradicts prepend_scheme '" + scheme + "'");
    }
    reader.find("str_rep");
    reader.find("split");  // concerns encoding only
    return std::make_unique<MetaspaceDecoder>(std::move(replacement), scheme != "never");
}

std::unique_ptr<Decoder> read_decoder_sequence(ComponentReader& reader) {
    std::vector<std::unique_ptr<Decoder>> steps;
    std::size_t index = 0;
    for (const Json& step : reader.list("decoders")) {
        const std::string path = reader.path() + ".decoders[" + std::to_string(index++) + "]";
        steps.push_back(read_decoder(step, path, reader.faults()));
        if (step.is_null()) reader.faults().add("", path + " must be an object");
    }
    return std::make_unique<DecoderSequence>(std::move(steps));
}

}  // namespace

std::unique_ptr<Decoder> read_decoder(const Json& json, const std::string& path, FaultList& faults) {
    if (json.is_null()) return nullptr;
    ComponentReader reader(json, path, faults);
    const std::string type = reader.type();
    if (type.empty()) return nullptr;
    if (type == "ByteLevel") {
        for (const char* field : {"add_prefix_space", "trim_offsets", "use_regex"})
            reader.boolean(field, true);
        return std::make_unique<ByteLevelDecoder>();
    }
    if (type == "ByteFallback") return std::make_unique<ByteFallbackDecoder>();
    if (type == "Fuse") return std::make_unique<FuseDecoder>();
    if (type == "Metaspace") return read_metaspace_decoder(reader);
    if (type == "Strip") {
        std::string content = reader.character("content");
        const std::size_t start = reader.count("start");
        return std::make_unique<StripDecoder>(std::move(content), start, reader.count("stop"));
    }
    if (type == "Replace") {
        std::optional<Regex> pattern = reader.pattern("pattern");
        std::string content = reader.string("content");
        if (!pattern) return nullptr;
        return std::make_unique<ReplaceDecoder>(std::move(*pattern), std::move(content));
    }
    if (type == "Sequence") return read_decoder_sequence(reader);
    reader.refuse_type(type, "ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip and Sequence");
    return nullptr;
}

}  // namespace qlora::tokenizer
