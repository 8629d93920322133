#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "qlora/data/data_config.h"
#include "qlora/data/prompt_template.h"
#include "row_source.h"

namespace qlora::data {

/// A record and its tokens.
struct EncodedPart {
    Record record;
    EncodedRow row;
};

/// What became of one row. Of the three outcomes one holds: `fault`, `reason`, or parts.
struct EncodedRecord {
    std::string place;               ///< "file:line"
    std::exception_ptr fault;        ///< ends the reading of the data
    std::string reason;              ///< not empty: the row is rejected
    std::vector<EncodedPart> parts;  ///< one, or one for each answer (DataConfig::one_row_per_answer)
};

/// Rows in which the chat template used up one of its limits, which takes some tenths of a second each: after
/// so many it is the template's fault and ends the reading. Used by several threads.
class SpentRows {
  public:
    static constexpr int kMost = 50;
    void add(const std::string& reason);
    void check() const;  ///< throws CheckpointError

  private:
    std::mutex mutex_;
    std::atomic<int> count_ = 0;
    std::string reason_;  ///< written once, before count_ is kMost
};

/// Parses, renders and encodes rows and proves their answer masks. A row does not depend on others, so rows
/// are encoded on several threads at a time.
class RowEncoder {
  public:
    /// `embedding_rows` > 0: a token id that is not below it is a fault (CheckpointError).
    RowEncoder(const DataConfig& config, const PromptTemplate& prompt_template, std::int64_t embedding_rows)
        : config_(config), template_(prompt_template), embedding_rows_(embedding_rows) {}

    /// Throws nothing: see EncodedRecord.
    EncodedRecord encode(const RawRow& raw, const std::string& file) const;

    /// Hands every row of a file, in order, with what became of it to `take`. The text of a row is valid
    /// during the call. Which threads encode what changes neither order nor result.
    void encode_file(RowSource& rows, const std::string& file, std::int64_t threads,
                     const std::function<void(const RawRow&, const EncodedRecord&)>& take) const;

  private:
    void check_ids(const EncodedRow& row, const std::string& place) const;
    EncodedPart part_of(Record record) const;
    void encode_into(const RawRow& raw, EncodedRecord& out) const;

    const DataConfig& config_;
    const PromptTemplate& template_;
    std::int64_t embedding_rows_;
    mutable SpentRows spent_;
};

}  // namespace qlora::data
