#include "answer_scoring.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "qlora/adapters/plan.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/eval/evaluator.h"
#include "qlora/train/stop_signal.h"
#include "status_line.h"

namespace qlora::cli {
namespace {

using data_report::AnswerScore;

// The random stream of this choice: far from that of held-out rows and from the small numbers of others.
constexpr std::uint64_t kScoredStream = std::uint64_t{0x73636f72} << 32;
// Rows whose sequences are made at a time: enough to fill many batches.
constexpr std::size_t kRowsAtOnce = 256;
constexpr std::int64_t kReports = 10;

std::int64_t tokens_of(const data::ScoredRow& row) {
    auto tokens = static_cast<std::int64_t>(row.ids.size());
    for (const data::ScoredAnswer& answer : row.answers)
        tokens += static_cast<std::int64_t>(answer.alone.size()) + answer.pieces.back().second -
                  answer.pieces.front().first;
    return tokens;
}

double loss_of(std::span<const float> logprobs) {
    return -std::accumulate(logprobs.begin(), logprobs.end(), 0.0);
}

/// What a scored row's sequences, the row and then each answer alone, come to.
class RowScores {
  public:
    RowScores(const data::ScoredRow& row, const data_report::Row& shown)
        : sequences_(row.answers.size() + 1) {
        for (const data::ScoredAnswer& answer : row.answers)
            scores_.push_back({.turn = static_cast<std::int64_t>(shown.turn_of(answer.message)),
                               .tokens = answer.scored_tokens()});
    }

    /// Log probabilities of the next sequence.
    void add(std::span<const float> logprobs) {
        if (done_ > 0) {
            scores_[done_ - 1].without_prompt = loss_of(logprobs);
        } else {
            for (AnswerScore& score : scores_) {
                score.with_prompt = loss_of(logprobs.first(static_cast<std::size_t>(score.tokens)));
                logprobs = logprobs.subspan(static_cast<std::size_t>(score.tokens));
            }
        }
        ++done_;
    }
    bool is_done() const { return done_ == sequences_; }
    const std::vector<AnswerScore>& scores() const { return scores_; }

  private:
    std::size_t sequences_, done_ = 0;
    std::vector<AnswerScore> scores_;
};

void require_finite(const data_report::Row& row) {
    for (const AnswerScore& score : row.scores)
        if (!std::isfinite(score.with_prompt) || !std::isfinite(score.without_prompt))
            throw NonFiniteError(row.place +
                                 ": the loss of an answer is not finite: model or adapter are damaged");
}

}  // namespace

AnswerScoring::AnswerScoring(const ModelRequest& request, const ModelFolder& folder,
                             const ScoringOptions& options)
    : request_(request),
      folder_(folder),
      options_(options),
      peft_(finished_adapter(request, folder)),
      quantization_(base_quantization(request, folder)),
      random_(static_cast<std::uint64_t>(request.settings.training.seed), kScoredStream) {}

Positions AnswerScoring::positions() const {
    return {folder_.config, peft_ ? adapters::plan_adapter(*peft_, folder_.config).tokens_before() : 0};
}

void AnswerScoring::add(const data::ReadRow& row, std::size_t place) {
    const data::DataConfig& config = request_.settings.data;
    const std::vector<data::AnswerSpan>& answers = row.encoded.answers;
    const bool has_prompt = std::any_of(answers.begin(), answers.end(), [](const data::AnswerSpan& answer) {
        return answer.supervised && answer.prompted;
    });
    if (!has_prompt) {
        ++scoring_.without_prompt;
        return;
    }
    const auto tokens = static_cast<std::int64_t>(row.encoded.ids.size());
    HeldRow held{.place = place, .row = {}};
    if (tokens <= config.max_length || config.overlong == data::Overlong::kTruncate)
        held.row = data::scored_row(row.encoded, folder_.special, config.max_length);
    if (held.row.is_empty()) {
        ++scoring_.too_long;
        return;
    }
    // Reservoir sampling: each set of so many rows is equally likely, whatever their number comes to.
    const std::int64_t before = scoring_.rows++;
    if (!options_.rows || before < *options_.rows) {
        held_.push_back(std::move(held));
        return;
    }
    const std::uint64_t drawn = random_.below(static_cast<std::uint64_t>(scoring_.rows));
    if (drawn < held_.size()) held_[drawn] = std::move(held);
}

void AnswerScoring::reorder(const std::vector<std::size_t>& places) {
    for (HeldRow& held : held_) held.place = places[held.place];
}

std::int64_t AnswerScoring::all_tokens() const {
    std::int64_t tokens = 0;
    for (const HeldRow& held : held_) tokens += tokens_of(held.row);
    return tokens;
}

std::size_t AnswerScoring::score_some(const models::CausalLM& model, std::size_t begin, std::size_t end,
                                      const std::function<void(std::size_t rows)>& progress,
                                      std::vector<data_report::Row>& rows) const {
    std::vector<RowScores> scores;
    std::vector<data::Example> sequences;
    for (std::size_t i = begin; i < end; ++i) {
        const data::ScoredRow& row = held_[i].row;
        scores.emplace_back(row, rows[held_[i].place]);
        sequences.push_back(row.with_prompts());
        for (const data::ScoredAnswer& answer : row.answers) sequences.push_back(row.without_prompt(answer));
    }
    std::size_t done = 0;
    eval::EvalOptions options{.should_stop = train::StopSignal::is_received};
    if (options_.tokens_per_batch) options.tokens_per_batch = *options_.tokens_per_batch;
    options.supervised_only = true;
    options.per_row = [&](const data::Example&, std::span<const float> logprobs) {
        scores[done].add(logprobs);
        if (scores[done].is_done()) ++done;
    };
    options.progress = [&](std::int64_t) { progress(begin + done); };
    eval::evaluate(model, sequences, options);
    for (std::size_t i = 0; i < done; ++i) {
        data_report::Row& row = rows[held_[begin + i].place];
        row.scores = scores[i].scores();
        require_finite(row);
    }
    return done;
}

data_report::Scoring AnswerScoring::score(std::vector<data_report::Row>& rows) {
    using Clock = std::chrono::steady_clock;
    if (options_.rows && scoring_.rows > *options_.rows) scoring_.seed = request_.settings.training.seed;
    if (held_.empty()) {
        spdlog::warn("no row has an answer with a prompt within data.max_length, so none is scored");
        return scoring_;
    }
    std::sort(held_.begin(), held_.end(),
              [](const HeldRow& a, const HeldRow& b) { return a.place < b.place; });
    const std::int64_t tokens = all_tokens();
    const std::int64_t batch = options_.tokens_per_batch.value_or(eval::EvalOptions{}.tokens_per_batch);
    const LoadedModel loaded =
        load_model(request_, folder_, quantization_, peft_, keeps_dense(tokens, batch));
    spdlog::info("scoring {} of {} rows, {} tokens with and without prompts", held_.size(), scoring_.rows,
                 tokens);

    const train::StopSignal stop_signal;
    StatusLine line(options_.quiet);
    const Clock::time_point start = Clock::now();
    std::int64_t reported = 0;
    const auto tell = [&](std::size_t done) {
        const double share = static_cast<double>(done) / static_cast<double>(held_.size());
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        const std::string text = fmt::format("scoring, row {}/{}  left {}", done, held_.size(),
                                             share > 0 ? duration_text(seconds / share - seconds) : "?");
        line.show(bar(share) + " " + text);
        const auto reports = static_cast<std::int64_t>(share * kReports);
        if (!line.is_terminal() && reports > std::exchange(reported, reports)) line.print(text);
    };
    std::size_t done = 0;
    while (done < held_.size() && !train::StopSignal::is_received())
        done += score_some(*loaded.model, done, std::min(done + kRowsAtOnce, held_.size()), tell, rows);
    line.clear();
    scoring_.stopped = done < held_.size();
    if (scoring_.stopped) {
        signal_ = train::StopSignal::received();
        spdlog::info("stopped by a signal after {} of {} rows; the report tells of these", done,
                     held_.size());
    }
    return scoring_;
}

}  // namespace qlora::cli
