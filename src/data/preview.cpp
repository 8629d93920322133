#include "qlora/data/preview.h"

#include <algorithm>

#include "qlora/core/json.h"

namespace qlora::data {
namespace {

constexpr std::size_t kWidth = 100;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// What the token adds to a text. Decoders drop the blank that begins a text, which would make "▁Paris" look
// like "Paris": behind itself a token keeps it. A token that stands for its own spelling has none to lose.
std::string text_of(const tokenizer::Tokenizer& tokenizer, tokenizer::TokenId id,
                    const std::string& spelling) {
    const std::string alone = tokenizer.decode({id});
    if (alone == spelling) return alone;
    const std::string twice = tokenizer.decode({id, id});
    return twice.compare(0, alone.size(), alone) == 0 ? twice.substr(alone.size()) : alone;
}

// A control token bare, text quoted. Part of a character has no text of its own: then the vocabulary's
// spelling.
std::string shown(const tokenizer::Tokenizer& tokenizer, tokenizer::TokenId id) {
    const std::string spelling = tokenizer.id_to_token(id);
    if (tokenizer.is_special(id)) return spelling;
    const std::string text = text_of(tokenizer, id, spelling);
    const bool is_whole = !text.empty() && text.find(kReplacement) == std::string::npos;
    return Json(is_whole ? text : spelling).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Appends words in lines of kWidth columns (bytes), each behind `margin`.
void append_wrapped(std::string& out, const std::string& margin, const std::vector<std::string>& words) {
    std::size_t column = kWidth;
    for (const std::string& word : words) {
        if (column + 1 + word.size() > kWidth) {
            out += "\n" + margin;
            column = margin.size();
        } else {
            out += ' ';
            ++column;
        }
        out += word;
        column += word.size();
    }
}

std::string percent(std::int64_t part, std::int64_t whole) {
    return std::to_string(whole == 0 ? 0 : 100 * part / whole) + "%";
}

void append_repeats(std::string& out, const std::string& title, const Repeats& repeats) {
    if (repeats.count == 0) return;
    out += title + ": " + std::to_string(repeats.count) + "\n";
    for (const std::string& place : repeats.first) out += "  " + place + "\n";
    const auto listed = static_cast<std::int64_t>(repeats.first.size());
    if (repeats.count > listed) out += "  and " + std::to_string(repeats.count - listed) + " more\n";
}

void append_histogram(std::string& out, const std::vector<LengthBin>& bins) {
    constexpr std::int64_t kBar = 50;
    std::int64_t most = 1;
    for (const LengthBin& bin : bins) most = std::max(most, bin.rows);
    out += "lengths in tokens:\n";
    std::int64_t from = 1;
    for (const LengthBin& bin : bins) {
        std::string range = std::to_string(from) + "-" + std::to_string(bin.upto);
        range.insert(0, range.size() < 14 ? 14 - range.size() : 0, ' ');
        std::string rows = std::to_string(bin.rows);
        rows.insert(0, rows.size() < 9 ? 9 - rows.size() : 0, ' ');
        const auto bar = static_cast<std::size_t>((bin.rows * kBar + most - 1) / most);
        out += range + rows + (bar == 0 ? "" : "  " + std::string(bar, '#')) + "\n";
        from = bin.upto + 1;
    }
}

}  // namespace

std::string describe_prompts(const PromptReport& report) {
    if (report.rows == 0) return {};
    const auto quoted = [](const std::string& text) {
        return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
    };
    return "prompts that differ at inference: " + std::to_string(report.rows) + " of the first " +
           std::to_string(report.compared) + " rows; in " + report.place + " training has " +
           quoted(report.first.trained) + " before the last answer where the template gives " +
           quoted(report.first.inferred) + " to generate from";
}

std::string preview_rows(const Dataset& dataset, const tokenizer::Tokenizer& tokenizer, std::int64_t rows) {
    std::string out;
    const std::size_t count =
        std::min(dataset.examples.size(), static_cast<std::size_t>(std::max<std::int64_t>(0, rows)));
    for (std::size_t k = 0; k < count; ++k) {
        const Example& example = dataset.examples[k];
        out += "row " + std::to_string(example.row) + " (" + example.place +
               "): " + std::to_string(example.tokens()) + " tokens, trained on " +
               std::to_string(example.supervised_tokens()) + (example.truncated ? ", cut at the end" : "");
        for (std::size_t begin = 0; begin < example.ids.size();) {
            const std::uint8_t supervised = example.supervised[begin];
            std::vector<std::string> words;
            std::size_t i = begin;
            for (; i < example.ids.size() && example.supervised[i] == supervised; ++i) {
                words.push_back(shown(tokenizer, example.ids[i]));
            }
            append_wrapped(out, supervised != 0 ? "  TRAIN | " : "        | ", words);
            begin = i;
        }
        out += "\n\n";
    }
    return out;
}

std::string list_rows(const std::vector<Example>& examples, std::int64_t most) {
    const auto rows = static_cast<std::int64_t>(examples.size());
    const std::int64_t listed = std::min(rows, most);
    std::vector<std::string> words;
    for (std::int64_t i = 0; i < listed; ++i) {
        words.push_back(std::to_string(examples[static_cast<std::size_t>(i)].row) +
                        (i + 1 < listed ? "," : ""));
    }
    if (rows > listed) words.push_back("and " + std::to_string(rows - listed) + " more");
    std::string out;
    append_wrapped(out, "  ", words);
    return out.empty() ? out : out.substr(1) + "\n";
}

std::string summary_line(const DatasetStatistics& statistics) {
    return "read " + std::to_string(statistics.read) + " = kept " + std::to_string(statistics.kept) +
           (statistics.held_out > 0 ? " + held out " + std::to_string(statistics.held_out) : "") +
           " + dropped " + std::to_string(statistics.dropped()) + " + rejected " +
           std::to_string(statistics.rejected);
}

std::string passed_over_line(const DatasetStatistics& statistics) {
    constexpr std::size_t kListed = 20;
    const std::vector<PassedOver>& fields = statistics.passed_over;
    std::string out;
    for (std::size_t i = 0; i < std::min(fields.size(), kListed); ++i) {
        out += (i == 0 ? "" : ", ") +
               Json(fields[i].field).dump(-1, ' ', false, Json::error_handler_t::replace) + " (" +
               std::to_string(fields[i].rows) + (fields[i].rows == 1 ? " row)" : " rows)");
    }
    if (fields.size() > kListed) out += " and " + std::to_string(fields.size() - kListed) + " more";
    return out;
}

std::string describe(const DatasetStatistics& statistics) {
    std::string out = "rows: " + summary_line(statistics) + "\n";
    if (statistics.too_long > 0)
        out += "  dropped as too long: " + std::to_string(statistics.too_long) + "\n";
    if (statistics.no_supervised > 0) {
        out += "  dropped without a token to train on: " + std::to_string(statistics.no_supervised) + "\n";
    }
    if (statistics.truncated > 0) {
        out += "  cut at the end (no end token): " + std::to_string(statistics.truncated) + "\n";
    }
    out += "tokens: " + std::to_string(statistics.tokens) + ", trained on " +
           std::to_string(statistics.supervised_tokens) + " (" +
           percent(statistics.supervised_tokens, statistics.tokens) + "), longest row " +
           std::to_string(statistics.longest) + "\n";
    if (statistics.cut_edges > 0) {
        out += "  rows in which a token would cross the edge of an answer, and is cut there: " +
               std::to_string(statistics.cut_edges) + "\n";
    }
    if (statistics.without_end > 0) {
        out += "  rows with a trained answer that no end token follows: " +
               std::to_string(statistics.without_end) + "\n";
    }
    if (const std::string prompts = describe_prompts(statistics.other_prompts); !prompts.empty())
        out += "  " + prompts + "\n";
    if (!statistics.passed_over.empty()) out += "fields passed over: " + passed_over_line(statistics) + "\n";
    append_histogram(out, statistics.lengths);
    append_repeats(out, "rows equal to an earlier one", statistics.duplicates);
    append_repeats(out, "rows with the prompt of an earlier one, but another answer", statistics.conflicts);
    return out;
}

}  // namespace qlora::data
