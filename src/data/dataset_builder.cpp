#include "dataset_builder.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string_view>

#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora::data {
namespace {

using tokenizer::TokenId;

constexpr std::size_t kRejectedTextBytes = 300;
constexpr std::size_t kRepeatsShown = 5;
// For so many rows it is proven that generation sees the prompt that training saw. What could break that is
// the template or the tokenizer, which are the same for all rows.
constexpr std::int64_t kProvenPrompts = 100;
constexpr std::int64_t kFirstLengthBin = 16;

std::uint64_t hash_of(std::span<const TokenId> ids) {
    const std::span<const std::byte> bytes = std::as_bytes(ids);
    return std::hash<std::string_view>{}({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

void add_repeat(Repeats& repeats, const std::string& place, const std::string& earlier) {
    ++repeats.count;
    if (repeats.first.size() < kRepeatsShown) repeats.first.push_back(place + " (as " + earlier + ")");
}

// The last answer's place in the messages, or none (texts, conversations trained on as a whole).
std::optional<std::size_t> last_answer(const Record& record) {
    for (std::size_t i = record.messages.size(); i > 0; --i) {
        if (record.messages[i - 1].role() == Role::kAssistant) return i - 1;
    }
    return std::nullopt;
}

// A trained answer in none of whose pieces an end token stands.
bool has_open_answer(const EncodedRow& row, const std::vector<TokenId>& ends) {
    std::map<std::size_t, bool> has_end;  // of the trained messages
    for (const AnswerSpan& span : row.answers) {
        if (!span.supervised) continue;
        const auto at = [&](std::size_t place) {
            return row.ids.begin() + static_cast<std::ptrdiff_t>(place);
        };
        has_end[span.message] |=
            std::find_first_of(at(span.begin), at(span.end), ends.begin(), ends.end()) != at(span.end);
    }
    return std::any_of(has_end.begin(), has_end.end(), [](const auto& message) { return !message.second; });
}

// What a reader of generations wants to see: the question before the last answer.
std::string prompt_text(const Record& record, std::size_t answer) {
    for (std::size_t i = answer; i > 0; --i) {
        if (record.messages[i - 1].role() != Role::kUser) continue;
        const std::string& content = record.messages[i - 1].content();
        return record.input.empty() ? content : content + "\n\n" + record.input;
    }
    return {};
}

}  // namespace

void DatasetBuilder::reject(const RawRow& raw, const std::string& place, const std::string& reason) {
    ++dataset_.statistics.rejected;
    const bool is_listed = config_.on_bad_row == OnBadRow::kSkip || dataset_.rejected.size() < kListedBadRows;
    if (!is_listed) return;
    dataset_.rejected.push_back({place, reason, std::string(raw.text.substr(0, kRejectedTextBytes))});
}

void DatasetBuilder::add(const RawRow& raw, const EncodedRecord& encoded) {
    dataset_.statistics.read += std::max<std::int64_t>(1, static_cast<std::int64_t>(encoded.parts.size()));
    if (encoded.fault) std::rethrow_exception(encoded.fault);
    if (!encoded.reason.empty()) return reject(raw, encoded.place, encoded.reason);
    if (!unseen_columns_.empty()) look_for_columns(raw.text);
    for (const EncodedPart& part : encoded.parts) add_part(raw.number, part, encoded.place);
}

void DatasetBuilder::add_part(std::int64_t number, const EncodedPart& part, const std::string& place) {
    const Record& record = part.record;
    const EncodedRow& row = part.row;
    DatasetStatistics& statistics = dataset_.statistics;
    count_passed_over(record);
    prove_prompt(record, row, place);
    const auto tokens = static_cast<std::int64_t>(row.ids.size());
    count_length(tokens);
    const bool too_long = tokens > config_.max_length;
    if (too_long && config_.overlong == Overlong::kDrop) {
        ++statistics.too_long;
        return;
    }
    Example example;
    const auto kept = static_cast<std::ptrdiff_t>(std::min(tokens, config_.max_length));
    example.ids.assign(row.ids.begin(), row.ids.begin() + kept);
    example.supervised.assign(row.supervised.begin(), row.supervised.begin() + kept);
    const std::int64_t supervised = example.supervised_tokens();
    if (supervised == 0) {
        ++statistics.no_supervised;
        return;
    }
    example.row = number;
    example.place = place;
    example.truncated = too_long;
    example.task = record.task;
    if (const std::optional<std::size_t> answer = last_answer(record)) {
        const auto begin = static_cast<std::int64_t>(row.last_answer_begin());
        example.answer_begin = begin < kept ? begin : 0;
        if (keeps_texts_) {
            example.expected = record.messages[*answer].content();
            example.prompt = prompt_text(record, *answer);
        }
    }
    ++statistics.kept;
    statistics.truncated += too_long ? 1 : 0;
    statistics.tokens += kept;
    statistics.cut_edges += row.cut_edges > 0 ? 1 : 0;
    statistics.without_end += has_open_answer(row, template_.end_token_ids()) ? 1 : 0;
    statistics.supervised_tokens += supervised;
    statistics.longest = std::max<std::int64_t>(statistics.longest, kept);
    count_repeats(row, last_answer(record).has_value(), place);
    dataset_.examples.push_back(std::move(example));
}

void DatasetBuilder::prove_prompt(const Record& record, const EncodedRow& row, const std::string& place) {
    if (proven_prompts_ == kProvenPrompts) return;
    ++dataset_.statistics.other_prompts.compared;
    try {
        const std::optional<PromptDifference> difference = prompt_difference(record, row, template_);
        ++proven_prompts_;
        if (!difference) return;
        PromptReport& report = dataset_.statistics.other_prompts;
        if (report.rows++ == 0) {
            report.place = place;
            report.first = *difference;
        }
    } catch (const DataError& error) {
        throw DataError(place + ": " + error.what());
    }
}

void DatasetBuilder::count_passed_over(const Record& record) {
    for (const std::string& field : record.passed_over) {
        const auto [place, is_new] = passed_over_.try_emplace(field, dataset_.statistics.passed_over.size());
        if (is_new) dataset_.statistics.passed_over.push_back({field, 0});
        ++dataset_.statistics.passed_over[place->second].rows;
    }
}

/// A column that is named for a field which rows need not have may be spelled wrongly.
void DatasetBuilder::look_for_columns(std::string_view row) {
    const Json fields = parse_json(row, "");
    std::erase_if(unseen_columns_, [&](const auto& column) { return fields.contains(column.second); });
}

void DatasetBuilder::count_length(std::int64_t tokens) {
    std::vector<LengthBin>& bins = dataset_.statistics.lengths;
    if (bins.empty()) bins.push_back({kFirstLengthBin, 0});
    while (bins.back().upto < tokens) bins.push_back({2 * bins.back().upto, 0});
    const auto fits = [&](const LengthBin& bin) { return tokens <= bin.upto; };
    ++std::find_if(bins.begin(), bins.end(), fits)->rows;
}

void DatasetBuilder::count_repeats(const EncodedRow& row, bool has_answer, const std::string& place) {
    const auto number = static_cast<std::int64_t>(dataset_.examples.size());
    const auto place_of_example = [&](std::int64_t example) {
        return dataset_.examples[static_cast<std::size_t>(example)].place;
    };
    const auto [seen, is_new] = rows_seen_.try_emplace(hash_of(row.ids), number);
    if (!is_new) return add_repeat(dataset_.statistics.duplicates, place, place_of_example(seen->second));
    if (!has_answer) return;
    const std::span<const TokenId> ids(row.ids);
    const std::size_t begin = row.last_answer_begin();
    const FirstSeen answer{hash_of(ids.subspan(begin)), number};
    const auto [earlier, first] = prompts_seen_.try_emplace(hash_of(ids.first(begin)), answer);
    if (!first && earlier->second.answer != answer.answer) {
        add_repeat(dataset_.statistics.conflicts, place, place_of_example(earlier->second.example));
    }
}

Dataset DatasetBuilder::take() {
    for (const auto& [field, column] : unseen_columns_) {
        dataset_.statistics.passed_over.push_back(
            {"data.columns." + field + ": no column " + column, dataset_.statistics.read});
    }
    return std::move(dataset_);
}

}  // namespace qlora::data
