#include "row_encoder.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/in_parallel.h"
#include "qlora/jinja/template.h"
#include "unwritten_fields.h"

namespace qlora::data {
namespace {

using tokenizer::TokenId;

/// Rows that are read before they are encoded together: enough for many threads, and a bound on their memory.
constexpr std::size_t kRowsAtOnce = 4096;
constexpr std::size_t kBytesAtOnce = std::size_t{16} << 20;

/// A row with a text of its own.
struct HeldRow {
    std::string text;
    RawRow raw;
    EncodedRecord encoded;
};

std::string place_of(const RawRow& raw, const std::string& file) {
    std::string place = file + ":" + std::to_string(raw.line);
    if (raw.element >= 0) place += " (element " + std::to_string(raw.element) + ")";
    return place;
}

/// The turns up to each answer that is trained; empty where the row stays as it is.
std::vector<Record> one_for_each_answer(const Record& record, TrainOn train_on) {
    std::vector<std::size_t> answers;
    for (std::size_t i = record.context; i < record.messages.size(); ++i) {
        const Message& message = record.messages[i];
        if (message.role() == Role::kAssistant && !message.is_switched_off()) answers.push_back(i);
    }
    if (train_on == TrainOn::kLastAssistant) return {};
    std::vector<Record> out;
    for (const std::size_t answer : answers) {
        Record each = record;
        each.messages.erase(each.messages.begin() + static_cast<std::ptrdiff_t>(answer) + 1,
                            each.messages.end());
        each.context = answer;
        if (answer != answers.back()) each.input.clear();  // the last user turn's
        if (!out.empty()) each.passed_over.clear();
        out.push_back(std::move(each));
    }
    return out;
}

void refuse_double_start(const EncodedRow& row, const PromptTemplate& prompt_template) {
    const std::optional<TokenId> bos = prompt_template.special().bos;
    if (bos && row.ids.size() >= 2 && row.ids[0] == *bos && row.ids[1] == *bos) {
        throw DataError("the row begins with two " + prompt_template.tokenizer().id_to_token(*bos) +
                        " (BOS); leave the one in the text out");
    }
}

}  // namespace

void SpentRows::add(const std::string& reason) {
    const std::lock_guard lock(mutex_);
    if (count_ + 1 == kMost) reason_ = reason;
    ++count_;
}

void SpentRows::check() const {
    if (count_ < kMost) return;
    throw CheckpointError("the chat template used up a limit in " + std::to_string(kMost) + " rows (" +
                          reason_ + "); choose another one with data.template, or leave those rows out");
}

void RowEncoder::check_ids(const EncodedRow& row, const std::string& place) const {
    if (embedding_rows_ <= 0) return;
    for (const TokenId id : row.ids) {
        if (id >= 0 && id < embedding_rows_) continue;
        throw CheckpointError(place + ": the tokenizer gives the token " + std::to_string(id) + " (" +
                              template_.tokenizer().id_to_token(id) + "), but the model has only " +
                              std::to_string(embedding_rows_) +
                              " embeddings; the tokenizer belongs to another model");
    }
}

EncodedPart RowEncoder::part_of(Record record) const {
    EncodedPart out{.record = std::move(record), .row = {}};
    const RenderedRow rendered = template_.render(out.record, config_.train_on);
    out.row = template_.encode(rendered);
    out.record.passed_over.insert(out.record.passed_over.end(), rendered.left_out.begin(),
                                  rendered.left_out.end());
    refuse_double_start(out.row, template_);
    return out;
}

void RowEncoder::encode_into(const RawRow& raw, EncodedRecord& out) const {
    try {
        Record record =
            parse_record(raw.text, config_.format, config_.train_on != TrainOn::kAll, config_.columns);
        for (std::string& field : turn_fields_passed_over(record))
            record.passed_over.push_back(std::move(field));
        std::vector<Record> records;
        if (config_.one_row_per_answer) records = one_for_each_answer(record, config_.train_on);
        if (records.empty()) records.push_back(std::move(record));
        for (Record& each : records) out.parts.push_back(part_of(std::move(each)));
    } catch (const jinja::RenderError& error) {
        if (error.kind() == jinja::RenderError::Kind::kBudget) {
            spent_.add(error.what());
            spent_.check();
        }
        out.parts.clear();
        out.reason = error.what();
        return;
    } catch (const DataError& error) {
        out.parts.clear();
        out.reason = error.what();
        return;
    }
    for (const EncodedPart& part : out.parts) {
        check_ids(part.row, out.place);
        try {
            prove_answer_mask(part.row, template_, config_.train_on);
        } catch (const DataError& error) {
            throw DataError(out.place + ": " + error.what());
        }
    }
}

EncodedRecord RowEncoder::encode(const RawRow& raw, const std::string& file) const {
    EncodedRecord out;
    try {
        out.place = place_of(raw, file);
        out.reason = raw.fault;
        spent_.check();
        if (out.reason.empty()) encode_into(raw, out);
    } catch (...) {
        out.fault = std::current_exception();
    }
    return out;
}

void RowEncoder::encode_file(RowSource& rows, const std::string& file, std::int64_t threads,
                             const std::function<void(const RawRow&, const EncodedRecord&)>& take) const {
    std::vector<HeldRow> held;
    for (bool more = true; more;) {
        held.clear();
        std::size_t bytes = 0;
        RawRow raw;
        while (held.size() < kRowsAtOnce && bytes < kBytesAtOnce && (more = rows.next(raw))) {
            bytes += raw.text.size();
            held.push_back({.text = std::string(raw.text), .raw = raw, .encoded = {}});
        }
        in_parallel(held.size(), threads, [&](std::size_t i) {
            held[i].raw.text = held[i].text;
            held[i].encoded = encode(held[i].raw, file);
        });
        for (const HeldRow& row : held) take(row.raw, row.encoded);
    }
}

}  // namespace qlora::data
