#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "model_request.h"
#include "qlora/data/scored_row.h"
#include "qlora/data/sft_dataset.h"
#include "qlora/data_report/answer_scores.h"
#include "qlora/kernels/philox.h"
#include "row_positions.h"

namespace qlora::cli {

struct ScoringOptions {
    std::optional<std::int64_t> rows;  ///< so many, chosen by training.seed; null: all
    std::optional<std::int64_t> tokens_per_batch;
    bool quiet = false;
};

/// Lets a model score the answers of rows with and without their prompts. Of the rows that are to be scored
/// the tokens are held, of the others nothing; the model is loaded when all are read.
class AnswerScoring {
  public:
    /// Throws ConfigError or CheckpointError when model and adapter do not go together. `folder` is the
    /// request's model; both must outlive this.
    AnswerScoring(const ModelRequest& request, const ModelFolder& folder, const ScoringOptions& options);

    /// Of the model with its adapter.
    Positions positions() const;

    /// A row that could be read, and its place in the list of rows.
    void add(const data::ReadRow& row, std::size_t place);
    /// The list's order has changed: `places[i]` is where row i is.
    void reorder(const std::vector<std::size_t>& places);

    /// Gives the rows their scores. The first SIGINT or SIGTERM ends it early, with the rows that are done.
    /// NonFiniteError where a loss is not finite.
    data_report::Scoring score(std::vector<data_report::Row>& rows);
    /// 0, or the signal that ended `score` early.
    int signal() const { return signal_; }

  private:
    struct HeldRow {
        std::size_t place = 0;
        data::ScoredRow row;
    };

    std::int64_t all_tokens() const;
    /// Scores the rows [begin, end) of those that are held; returns how many of them it has done.
    std::size_t score_some(const models::CausalLM& model, std::size_t begin, std::size_t end,
                           const std::function<void(std::size_t rows)>& progress,
                           std::vector<data_report::Row>& rows) const;

    const ModelRequest& request_;
    const ModelFolder& folder_;
    ScoringOptions options_;
    std::optional<adapters::PeftConfig> peft_;
    quant::QuantConfig quantization_;
    kernels::PhiloxStream random_;
    std::vector<HeldRow> held_;
    data_report::Scoring scoring_;
    int signal_ = 0;
};

}  // namespace qlora::cli
