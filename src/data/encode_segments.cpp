#include <utility>

#include "qlora/core/error.h"
#include "qlora/data/prompt_template.h"

namespace qlora::data {
namespace {

using tokenizer::TokenId;

bool is_text(SegmentKind kind) {
    return kind == SegmentKind::kTemplate || kind == SegmentKind::kContent;
}

bool joins(const Segment& a, const Segment& b) {
    return is_text(a.kind) && is_text(b.kind) && a.answer == b.answer;
}

// Appends the tokens of one segment (or of joined ones) and keeps the spans of the answers.
class RowBuilder {
  public:
    void append(const std::vector<TokenId>& ids, const Segment& segment) {
        const std::size_t begin = row_.ids.size();
        row_.ids.insert(row_.ids.end(), ids.begin(), ids.end());
        row_.supervised.resize(row_.ids.size(), segment.supervised ? 1 : 0);
        if (segment.answer < 0) return;
        if (segment.answer != answer_) row_.answers.push_back({begin, begin, segment.supervised, false});
        answer_ = segment.answer;
        row_.answers.back().end = row_.ids.size();
        row_.answers.back().plain |= segment.kind == SegmentKind::kPlain;
    }
    const EncodedRow& row() const { return row_; }
    EncodedRow take() {
        if (!row_.supervised.empty())
            row_.supervised.front() = 0;  // nothing comes before it that could predict it
        return std::move(row_);
    }

  private:
    EncodedRow row_;
    int answer_ = -1;
};

}  // namespace

EncodedRow PromptTemplate::encode(const std::vector<Segment>& segments) const {
    RowBuilder builder;
    for (std::size_t i = 0; i < segments.size(); ++i) {
        const Segment& segment = segments[i];
        switch (segment.kind) {
            case SegmentKind::kControl:
                builder.append({tokenizer_.token_to_id(segment.text).value()}, segment);
                break;
            case SegmentKind::kStart:
                builder.append(start_ids_, segment);
                break;
            case SegmentKind::kEnd: {
                if (!special_.eos) {
                    throw ConfigError("data.template: " + name_ +
                                      " ends a row with EOS, but the model's tokenizer names no eos_token");
                }
                const std::vector<TokenId>& ids = builder.row().ids;
                const bool there = !ids.empty() && ids.back() == *special_.eos;
                builder.append(there ? std::vector<TokenId>{} : std::vector<TokenId>{*special_.eos}, segment);
                break;
            }
            case SegmentKind::kPlain:
                builder.append(tokenizer_.encode(segment.text, {.parse_special = true}), segment);
                break;
            default: {
                std::string text = segment.text;
                while (i + 1 < segments.size() && joins(segment, segments[i + 1])) text += segments[++i].text;
                builder.append(tokenizer_.encode(text), segment);
            }
        }
    }
    return builder.take();
}

}  // namespace qlora::data
