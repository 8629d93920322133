#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "qlora/data/sft_dataset.h"
#include "row_source.h"

namespace qlora::data {

/// So many bad rows are listed when the run stops because of them.
inline constexpr std::size_t kListedBadRows = 20;

/// Turns raw rows into examples, one after the other, and counts.
class DatasetBuilder {
  public:
    DatasetBuilder(const DataConfig& config, const PromptTemplate& prompt_template,
                   std::int64_t embedding_rows)
        : config_(config), template_(prompt_template), embedding_rows_(embedding_rows) {}

    void add(const RawRow& raw, const std::string& file);
    Dataset take();

  private:
    void reject(const RawRow& raw, const std::string& place, const std::string& reason);
    void add_record(const Record& record, const EncodedRow& row, const std::string& place);
    void prove(const Record& record, const EncodedRow& row, const std::string& place);
    void check_ids(const EncodedRow& row, const std::string& place) const;
    void count_length(std::int64_t tokens);
    void count_repeats(const EncodedRow& row, bool has_answer, const std::string& place);

    struct FirstSeen {
        std::uint64_t answer = 0;
        std::int64_t example = 0;
    };

    const DataConfig& config_;
    const PromptTemplate& template_;
    std::int64_t embedding_rows_;
    Dataset dataset_;
    std::int64_t proven_prompts_ = 0;
    std::unordered_map<std::uint64_t, std::int64_t> rows_seen_;  // hash of a row's ids -> its example
    std::unordered_map<std::uint64_t, FirstSeen> prompts_seen_;  // hash of a prompt's ids
};

}  // namespace qlora::data
