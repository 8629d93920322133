#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qlora/tokenizer/tokenizer.h"

namespace qlora::data::test {

using tokenizer::TokenId;

/// A tokenizer whose ids can be read off: a byte is its value, control tokens begin at 256, and a run of n >=
/// 2 line ends is the one token 300 + n, so that text joined across an answer's edge would show.
class FakeTokenizer final : public tokenizer::Tokenizer {
  public:
    explicit FakeTokenizer(bool adds_bos = false) : adds_bos_(adds_bos) {}

    static constexpr TokenId kBos = 256;
    static constexpr TokenId kEos = 257;
    static constexpr TokenId kImStart = 258;
    static constexpr TokenId kImEnd = 259;
    static constexpr TokenId kEot = 263;
    static constexpr TokenId kLineEnds = 300;

    std::vector<TokenId> encode(std::string_view text,
                                const tokenizer::EncodeOptions& options = {}) const override {
        std::vector<TokenId> ids;
        if (options.add_special_tokens && adds_bos_) ids.push_back(kBos);
        while (!text.empty()) {
            std::size_t size = 1;
            ids.push_back(next(text, options.parse_special, size));
            text.remove_prefix(size);
        }
        return ids;
    }

    tokenizer::EncodedText encode_text(std::string_view text,
                                       const tokenizer::TextEncodingOptions& options = {}) const override {
        const auto is_plain = [&](std::size_t begin, std::size_t end) {
            return std::any_of(options.plain_ranges.begin(), options.plain_ranges.end(),
                               [&](const auto& plain) { return plain.begin < end && begin < plain.end; });
        };
        tokenizer::EncodedText out;
        for (std::size_t at = 0; at < text.size();) {
            std::size_t size = 1;
            TokenId id = next(text.substr(at), true, size);
            if (is_special(id) && is_plain(at, at + size)) id = next(text.substr(at), false, size);
            for (const std::size_t cut : options.cuts) {
                if (cut <= at || cut >= at + size) continue;
                out.crossed_cuts.push_back(cut);
                id = next(text.substr(at, cut - at), false, size);
            }
            out.ids.push_back(id);
            out.ranges.push_back({at, at + size});
            at += size;
        }
        return out;
    }

    std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens = false) const override {
        std::string text;
        for (const TokenId id : ids) {
            if (skip_special_tokens && is_special(id)) continue;
            text += id < 256 || is_special(id) ? id_to_token(id)
                                               : std::string(static_cast<std::size_t>(id - kLineEnds), '\n');
        }
        return text;
    }

    std::int64_t vocab_size() const override { return 400; }
    std::optional<TokenId> token_to_id(std::string_view token) const override {
        const auto found = std::find(controls().begin(), controls().end(), token);
        if (found == controls().end()) return std::nullopt;
        return 256 + static_cast<TokenId>(found - controls().begin());
    }
    std::string id_to_token(TokenId id) const override {
        if (is_special(id)) return controls()[static_cast<std::size_t>(id - 256)];
        return id < 256 ? std::string(1, static_cast<char>(id)) : "LF" + std::to_string(id - kLineEnds);
    }
    bool is_special(TokenId id) const override {
        return id >= 256 && id < 256 + static_cast<TokenId>(controls().size());
    }

    tokenizer::SpecialTokens special() const { return {.bos = kBos, .eos = kEos, .pad = std::nullopt}; }

  private:
    static const std::vector<std::string>& controls() {
        static const std::vector<std::string> tokens = {"<s>",
                                                        "</s>",
                                                        "<|im_start|>",
                                                        "<|im_end|>",
                                                        "<|begin_of_text|>",
                                                        "<|start_header_id|>",
                                                        "<|end_header_id|>",
                                                        "<|eot_id|>"};
        return tokens;
    }

    TokenId next(std::string_view text, bool parse_special, std::size_t& size) const {
        for (std::size_t i = 0; parse_special && text[0] == '<' && i < controls().size(); ++i) {
            size = controls()[i].size();
            if (text.substr(0, size) == controls()[i]) return 256 + static_cast<TokenId>(i);
        }
        size = std::min(text.find_first_not_of('\n'), text.size());
        if (size >= 2) return kLineEnds + static_cast<TokenId>(size);
        size = 1;
        return static_cast<unsigned char>(text[0]);
    }

    bool adds_bos_;
};

/// A tokenizer without any of the control tokens above.
class BareTokenizer final : public tokenizer::Tokenizer {
  public:
    std::vector<TokenId> encode(std::string_view text, const tokenizer::EncodeOptions& = {}) const override {
        return {text.begin(), text.end()};
    }
    tokenizer::EncodedText encode_text(std::string_view text,
                                       const tokenizer::TextEncodingOptions& = {}) const override {
        tokenizer::EncodedText out{{text.begin(), text.end()}, {}, {}};
        for (std::size_t i = 0; i < text.size(); ++i) out.ranges.push_back({i, i + 1});
        return out;
    }
    std::string decode(const std::vector<TokenId>& ids, bool = false) const override {
        return {ids.begin(), ids.end()};
    }
    std::int64_t vocab_size() const override { return 256; }
    std::optional<TokenId> token_to_id(std::string_view) const override { return std::nullopt; }
    std::string id_to_token(TokenId id) const override { return std::string(1, static_cast<char>(id)); }
    bool is_special(TokenId) const override { return false; }
};

}  // namespace qlora::data::test
