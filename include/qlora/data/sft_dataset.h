#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "qlora/data/batch.h"
#include "qlora/data/data_config.h"
#include "qlora/data/prompt_template.h"

namespace qlora::data {

/// A row that could not be read or has no form in the template.
struct RejectedRow {
    std::string place;  ///< "file:line"
    std::string reason;
    std::string text;  ///< its beginning, as it stands in the file (perhaps not UTF-8)
};

/// Rows that repeat something of an earlier row.
struct Repeats {
    std::int64_t count = 0;
    std::vector<std::string> first;  ///< the first few: "file:line (as file:line)"
};

/// How many rows have at most `upto` tokens (and more than the bin before).
struct LengthBin {
    std::int64_t upto = 0;
    std::int64_t rows = 0;
};

/// A field that rows of the data have and that nothing is made of.
struct PassedOver {
    std::string field;  ///< its name, as the rows have it; of a turn: "turns: NAME"
    std::int64_t rows = 0;
};

/// Whether generation sees the prompts that training saw.
struct PromptReport {
    std::int64_t compared = 0;  ///< rows
    std::int64_t rows = 0;      ///< of these, rows whose prompt differs
    std::string place;          ///< of the first that differs
    PromptDifference first;
};

/// read = kept + held_out + dropped() + rejected. With DataConfig::one_row_per_answer each answer is a row.
struct DatasetStatistics {
    std::int64_t read = 0;
    std::int64_t kept = 0;
    std::int64_t held_out = 0;          ///< taken out of the training data for evaluation
    std::int64_t held_out_repeats = 0;  ///< of these, rows whose tokens are those of a row that is left
    std::int64_t too_long = 0;          ///< dropped
    std::int64_t no_supervised = 0;     ///< dropped: no token with a loss (none in what truncation left, say)
    std::int64_t rejected = 0;
    std::int64_t truncated = 0;    ///< kept, but without its end token
    std::int64_t tokens = 0;       ///< of the kept rows
    std::int64_t cut_edges = 0;    ///< kept rows with an answer whose edge a token would have crossed
    std::int64_t without_end = 0;  ///< kept rows with a trained answer that no end token follows
    PromptReport other_prompts;
    std::int64_t supervised_tokens = 0;
    std::int64_t longest = 0;             ///< tokens of the longest kept row
    Repeats duplicates;                   ///< kept or held-out rows with the tokens of an earlier one
    Repeats conflicts;                    ///< the same with the prompt of an earlier one and another answer
    std::vector<PassedOver> passed_over;  ///< of all rows that could be read, in the order they came up
    std::vector<LengthBin> lengths;       ///< of all rows that could be read, before dropping and cutting

    std::int64_t dropped() const { return too_long + no_supervised; }
};

struct Dataset {
    std::vector<Example> examples;
    DatasetStatistics statistics;
    std::vector<RejectedRow> rejected;
    std::string fingerprint;  ///< hex XXH3-128 that stands for the bytes of the files in their order
};

/// A row that could be read, as it is before it is dropped or cut; with one_row_per_answer one for each
/// answer.
struct ReadRow {
    std::int64_t number = 0;  ///< as `Example::row`
    const std::string& place;
    const Record& record;
    const EncodedRow& encoded;
};

/// How rows are read, and which; the examples of these are the same.
struct RowReading {
    /// Examples hold `prompt` and `expected`, which only rows that answers are generated for need.
    bool keeps_texts = true;
    std::int64_t threads = 1;
    /// Row numbers (`Example::row`), rising: the other rows are passed over unparsed and not counted. Null:
    /// all.
    const std::vector<std::int64_t>* only = nullptr;
    /// Called for each row that can be read, in order, also for those that are then dropped or cut.
    std::function<void(const ReadRow& row)> on_row = {};
};

/// Reads, renders and encodes all rows of `files` (see data_files), in order, by `config` (format,
/// max_length, overlong, train_on, on_bad_row). Bad rows: `stop` throws DataError that lists the first 20 and
/// their number, after all files are read; `skip` returns them. A file without rows, or nothing kept, is a
/// DataError. `embedding_rows` > 0: a token id that the model has no embedding for is a CheckpointError. In a
/// kept row `Example::answer_begin` is 0 when it has no whole prompt (texts, or a truncation before the last
/// answer).
Dataset load_dataset(const std::vector<std::filesystem::path>& files, const DataConfig& config,
                     const PromptTemplate& prompt_template, std::int64_t embedding_rows,
                     const RowReading& reading = {});

/// Bytes of memory that the examples take.
std::int64_t held_bytes(const std::vector<Example>& examples);

/// One JSON object a line: `fault` ("file:line: reason") and `text`, the row's beginning. Replaces the file.
void write_rejected(const std::filesystem::path& file, const std::vector<RejectedRow>& rejected);

}  // namespace qlora::data
