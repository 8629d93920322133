#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "qlora/data/sft_dataset.h"
#include "row_encoder.h"
#include "row_source.h"

namespace qlora::data {

/// How many bad rows are listed when the run stops because of them.
inline constexpr std::size_t kListedBadRows = 20;

/// Turns encoded rows into examples, in the order of the files, and counts.
class DatasetBuilder {
  public:
    DatasetBuilder(const DataConfig& config, const PromptTemplate& prompt_template, bool keeps_texts)
        : config_(config),
          template_(prompt_template),
          keeps_texts_(keeps_texts),
          unseen_columns_(config.columns.columns) {}

    /// `encoded` is what RowEncoder made of `raw`.
    void add(const RawRow& raw, const EncodedRecord& encoded);
    Dataset take();

  private:
    void reject(const RawRow& raw, const std::string& place, const std::string& reason);
    void add_part(std::int64_t number, const EncodedPart& part, const std::string& place);
    void prove_prompt(const Record& record, const EncodedRow& row, const std::string& place);
    void count_passed_over(const Record& record);
    void look_for_columns(std::string_view row);
    void count_length(std::int64_t tokens);
    void count_repeats(const EncodedRow& row, bool has_answer, const std::string& place);

    struct FirstSeen {
        std::uint64_t answer = 0;
        std::int64_t example = 0;
    };

    const DataConfig& config_;
    const PromptTemplate& template_;
    bool keeps_texts_;
    std::vector<std::pair<std::string, std::string>> unseen_columns_;  // of data.columns: field, column
    Dataset dataset_;
    std::int64_t proven_prompts_ = 0;
    std::unordered_map<std::string, std::size_t> passed_over_;   // field -> its place in the statistics
    std::unordered_map<std::uint64_t, std::int64_t> rows_seen_;  // hash of a row's ids -> its example
    std::unordered_map<std::uint64_t, FirstSeen> prompts_seen_;  // hash of a prompt's ids
};

}  // namespace qlora::data
