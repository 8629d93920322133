#include "regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <new>
#include <stdexcept>

#include "oniguruma_syntax.h"
#include "qlora/core/error.h"
#include "unicode.h"

namespace qlora::tokenizer {
namespace {

// What one thread needs to match; compiled patterns themselves are shared.
class MatchScratch {
  public:
    MatchScratch()
        : data_(pcre2_match_data_create(1, nullptr)),
          context_(pcre2_match_context_create(nullptr)),
          stack_(pcre2_jit_stack_create(32 * 1024, 8 * 1024 * 1024, nullptr)) {
        if (data_ == nullptr || context_ == nullptr || stack_ == nullptr) {
            release();
            throw std::bad_alloc();
        }
        pcre2_jit_stack_assign(context_, nullptr, stack_);
    }
    ~MatchScratch() { release(); }
    MatchScratch(const MatchScratch&) = delete;
    MatchScratch& operator=(const MatchScratch&) = delete;

    pcre2_match_data* data() { return data_; }
    pcre2_match_context* context() { return context_; }

  private:
    void release() {
        pcre2_match_data_free(data_);
        pcre2_match_context_free(context_);
        pcre2_jit_stack_free(stack_);
    }
    pcre2_match_data* data_;
    pcre2_match_context* context_;
    pcre2_jit_stack* stack_;
};

MatchScratch& scratch() {
    thread_local MatchScratch instance;
    return instance;
}

std::string error_text(int code) {
    char buffer[256];
    pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(buffer), sizeof buffer);
    return buffer;
}

PCRE2_SPTR bytes_of(std::string_view text) {
    return reinterpret_cast<PCRE2_SPTR>(text.data());
}

}  // namespace

void Regex::Free::operator()(pcre2_real_code_8* code) const {
    pcre2_code_free(code);
}

Regex::Regex(std::string pattern, std::string translated) : pattern_(std::move(pattern)) {
    const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
        pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
    if (context == nullptr) throw std::bad_alloc();
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE place = 0;
    // Ruby's syntax, which Oniguruma reads here, has ^ and $ match at every line.
    const std::uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    code_.reset(
        pcre2_compile(bytes_of(translated), translated.size(), options, &error, &place, context.get()));
    if (code_ == nullptr) throw std::invalid_argument(error_text(error));
    if (pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE) == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
}

Regex Regex::from_oniguruma(const std::string& pattern) {
    return Regex(pattern, translate_oniguruma(pattern));
}

Regex Regex::from_literal(const std::string& text) {
    Regex regex(text, "(?!)");
    regex.literal_ = text;
    if (text.empty()) regex = Regex(text, "");
    return regex;
}

std::optional<Span> Regex::find(std::string_view text, std::size_t from) const {
    if (!literal_.empty()) {
        const std::size_t at = text.find(literal_, from);
        if (at == std::string_view::npos) return std::nullopt;
        return Span{at, at + literal_.size(), true};
    }
    MatchScratch& mine = scratch();
    const int found = pcre2_match(code_.get(), bytes_of(text), text.size(), from, PCRE2_NO_UTF_CHECK,
                                  mine.data(), mine.context());
    if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (found < 0) {
        throw DataError("the tokenizer's pattern " + pattern_ + " cannot be matched against a text of " +
                        std::to_string(text.size()) + " bytes: " + error_text(found));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(mine.data());
    return Span{bounds[0], bounds[1], true};
}

std::vector<Span> Regex::split(std::string_view text) const {
    std::vector<Span> spans;
    std::size_t done = 0;  // end of what is covered
    std::size_t from = 0;  // where the next search starts
    std::optional<std::size_t>
        last_end;  // of the last match; an empty match there would be the same place again
    while (from <= text.size()) {
        const std::optional<Span> match = find(text, from);
        if (!match) break;
        if (match->begin == match->end && last_end == match->end) {
            if (from >= text.size()) break;
            from += code_point_at(text, from).length;
            continue;
        }
        from = match->end;
        last_end = match->end;
        if (done != match->begin) spans.push_back({done, match->begin, false});
        spans.push_back(*match);
        done = match->end;
    }
    if (done != text.size()) spans.push_back({done, text.size(), false});
    return spans;
}

std::string Regex::replace(std::string_view text, std::string_view content) const {
    std::string out;
    out.reserve(text.size());
    for (const Span& span : split(text)) {
        out += span.is_match ? content : text.substr(span.begin, span.end - span.begin);
    }
    return out;
}

}  // namespace qlora::tokenizer
