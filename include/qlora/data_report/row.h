#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "qlora/data/sft_dataset.h"

namespace qlora::data_report {

enum class Part { kTrain, kHeldOut };

/// One turn of a row; `text` of an answer holds its reasoning and tool calls too.
struct Turn {
    data::Role role = data::Role::kUser;
    std::string text;
    std::size_t message = 0;  ///< its place among all turns of the row, instructions too
    bool trained = false;     ///< an answer with a loss
    std::int64_t tokens = 0;  ///< of a trained answer, its end token included

    bool is_answer() const { return role == data::Role::kAssistant; }
};

/// What a model gives a trained answer with its prompt and without (see data::ScoredAnswer), over the same
/// tokens.
struct AnswerScore {
    std::int64_t turn = 0;    ///< its place among Row::turns
    std::int64_t tokens = 0;  ///< at least 1
    double with_prompt = 0;   ///< negative log probability in nats, summed over the tokens
    double without_prompt = 0;

    double loss_with() const { return with_prompt / static_cast<double>(tokens); }
    double loss_without() const { return without_prompt / static_cast<double>(tokens); }
    /// Nats a token; above 0 the answer is likelier without its prompt.
    double difference() const { return loss_with() - loss_without(); }
};

/// What the report knows of a row: its texts, UTF-8, and its lengths before anything is cut.
struct Row {
    Part part = Part::kTrain;
    std::int64_t number = 0;  ///< 0-based place in its files
    std::string place;        ///< "file:line"
    /// What many rows share: system and developer turns, tools, documents. Not compared between rows but
    /// where prompts must be equal.
    std::string setting;
    std::vector<Turn> turns;  ///< the others, in order; of running text one turn that is no answer
    std::int64_t tokens = 0;
    /// The trained tokens, [begin, end) each, rising.
    std::vector<std::pair<std::int64_t, std::int64_t>> trained;
    std::vector<AnswerScore> scores;  ///< of rows that a model scored

    /// Trained tokens among the first `length`.
    std::int64_t trained_within(std::int64_t length) const;
    /// The turns before `turn`, joined.
    std::string prompt_of(std::size_t turn) const;
    /// The place among `turns` of the turn that is this message of the row.
    std::size_t turn_of(std::size_t message) const;
    /// All turns, joined.
    std::string text() const { return prompt_of(turns.size()); }
};

Row make_row(const data::ReadRow& read, Part part);

}  // namespace qlora::data_report
