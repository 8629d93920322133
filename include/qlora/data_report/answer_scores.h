#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "qlora/data_report/finding.h"

namespace qlora::data_report {

/// Which rows a model was to score.
struct Scoring {
    std::int64_t rows = 0;  ///< rows with an answer that has a prompt, scored or not
    std::int64_t without_prompt =
        0;                      ///< rows that cannot be scored: texts, answers that nothing stands before
    std::int64_t too_long = 0;  ///< rows that max_length drops, or of which it leaves no answer
    std::optional<std::int64_t> seed;  ///< of the choice, where not all were to be scored
    bool stopped = false;              ///< some of the chosen rows were not reached
};

/// What the scored answers have in common.
struct ScoreSums {
    Scoring scoring;
    std::int64_t rows = 0, answers = 0, tokens = 0;
    double with_prompt = 0, without_prompt = 0;  ///< nats over all tokens
    std::int64_t likelier_without = 0;           ///< answers

    double loss_with() const { return mean(with_prompt, tokens); }
    double loss_without() const { return mean(without_prompt, tokens); }
    double share_without() const { return mean(static_cast<double>(likelier_without), answers); }

  private:
    static double mean(double sum, std::int64_t count) {
        return count > 0 ? sum / static_cast<double>(count) : 0;
    }
};

/// Names the rows with a scored answer that is likelier without its prompt: it probably belongs to another
/// one.
ScoreSums find_unprompted_answers(std::span<const Row> rows, const Scoring& scoring, Findings& findings);

/// Losses a token, sums and tokens, by the names that files have.
Json figures_of(const AnswerScore& score);

}  // namespace qlora::data_report
