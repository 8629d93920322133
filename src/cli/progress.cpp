#include "progress.h"

#include <algorithm>

#include "qlora/core/log.h"
#include "qlora/train/memory_plan.h"
#include "status_line.h"

namespace qlora::cli {
namespace {

std::string numbers(const train::StepReport& r) {
    return fmt::format("loss {:.4f}  lr {:.2e}  grad {:.3f}  {:.0f} tok/s  {}", r.loss, r.learning_rate,
                       r.grad_norm, r.tokens_per_second, train::gigabytes(r.memory_bytes));
}

class Progress final : public train::Callback {
  public:
    explicit Progress(bool quiet) : line_(quiet) {}

    void on_begin(std::int64_t total, std::int64_t done) override {
        if (done > 0) {
            print(fmt::format("resuming after step {} of {}", done, total));
        } else {
            print(fmt::format("training for {} optimizer steps", total));
        }
    }
    void on_step(const train::StepReport& r) override {
        if (r.logged) {
            print(fmt::format("step {}/{}  epoch {:.2f}  {}  left {}", r.step, r.total_steps, r.epoch,
                              numbers(r), duration_text(r.seconds_left)));
        }
        const double share =
            static_cast<double>(r.step) / static_cast<double>(std::max<std::int64_t>(1, r.total_steps));
        show(fmt::format("{} {}/{}  {}  left {}", bar(share), r.step, r.total_steps, numbers(r),
                         duration_text(r.seconds_left)));
    }
    void on_evaluation_progress(std::int64_t rows, std::int64_t total) override {
        show(fmt::format("{} evaluating, row {}/{}",
                         bar(static_cast<double>(rows) / static_cast<double>(total)), rows, total));
    }
    void on_evaluation(std::int64_t step, const eval::EvalSums& sums, bool best) override {
        print(fmt::format("step {}: held-out loss {:.4f}, token accuracy {:.1f} %, {} rows{}", step,
                          sums.mean_loss(), 100.0 * sums.token_accuracy(), sums.rows,
                          best ? " (best so far)" : ""));
    }
    void on_sample(const train::Sample& sample) override {
        print(fmt::format("  sample: {}\n    generated: {}\n    expected:  {}", one_line(sample.prompt),
                          one_line(sample.generated), one_line(sample.expected)));
    }
    void on_save(const std::filesystem::path& path) override { print("saved " + path.string()); }
    void on_end() override { line_.clear(); }

  private:
    static std::string one_line(std::string text) {
        std::replace(text.begin(), text.end(), '\n', ' ');
        return text;
    }
    void print(const std::string& line) { line_.print(line); }
    void show(const std::string& line) { line_.show(line); }

    StatusLine line_;
};

}  // namespace

std::unique_ptr<train::Callback> make_progress(bool quiet) {
    return std::make_unique<Progress>(quiet);
}

}  // namespace qlora::cli
