#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "qlora/core/json.h"
#include "qlora/data/batch.h"
#include "qlora/eval/evaluator.h"

namespace qlora::cli {

/// A line of `--per-token`: ids, which of them are supervised, and each one's log probability given those
/// before it.
std::string per_token_line(const data::Example& example, std::span<const float> logprobs);

/// The measures of a whole evaluation. NonFiniteError when the loss is not finite.
Json summary_of(const eval::EvalSums& sums, std::int64_t dropped);

/// Generated answers beside the expected ones.
class GenerationReport {
  public:
    void add(const data::Example& example, const std::string& generated);

    /// A line of `--generations` for each answer.
    const std::string& lines() const { return lines_; }
    /// `exact_match`, and by task where rows name one.
    void add_to(Json& summary) const;

  private:
    struct Matches {
        std::int64_t matches = 0;
        std::int64_t rows = 0;
        void add(bool match) {
            matches += match ? 1 : 0;
            ++rows;
        }
        double share() const { return static_cast<double>(matches) / static_cast<double>(rows); }
    };

    std::string lines_;
    Matches all_;
    std::map<std::string, Matches> by_task_;
};

}  // namespace qlora::cli
