#include "progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "qlora/core/log.h"
#include "qlora/train/memory_plan.h"

namespace qlora::cli {
namespace {

constexpr int kBarWidth = 24;

int terminal_width() {
    winsize size{};
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string bar(double share) {
    const auto filled = static_cast<std::size_t>(std::lround(std::clamp(share, 0.0, 1.0) * kBarWidth));
    return fmt::format("[{}{}]", std::string(filled, '#'), std::string(kBarWidth - filled, '.'));
}

std::string numbers(const train::StepReport& r) {
    return fmt::format("loss {:.4f}  lr {:.2e}  grad {:.3f}  {:.0f} tok/s  {}", r.loss, r.learning_rate,
                       r.grad_norm, r.tokens_per_second, train::gigabytes(r.memory_bytes));
}

class Progress final : public train::Callback {
  public:
    Progress(bool quiet, bool terminal) : quiet_(quiet), terminal_(terminal) {}
    ~Progress() override { clear(); }

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
    void on_end() override { clear(); }

  private:
    static std::string one_line(std::string text) {
        std::replace(text.begin(), text.end(), '\n', ' ');
        return text;
    }
    void print(const std::string& line) {
        if (quiet_) return;
        clear();
        std::fprintf(stderr, "%s\n", line.c_str());
    }
    /// The one line that is overwritten; only on a terminal.
    void show(const std::string& line) {
        if (quiet_ || !terminal_) return;
        const auto width = static_cast<std::size_t>(terminal_width() - 1);
        std::fprintf(stderr, "\r\033[K%s", line.substr(0, width).c_str());
        std::fflush(stderr);
        shown_ = true;
    }
    void clear() {
        if (shown_) std::fprintf(stderr, "\r\033[K");
        shown_ = false;
    }

    bool quiet_;
    bool terminal_;
    bool shown_ = false;
};

}  // namespace

std::unique_ptr<train::Callback> make_progress(bool quiet) {
    return std::make_unique<Progress>(quiet, isatty(STDERR_FILENO) == 1);
}

std::string duration_text(double seconds) {
    const auto whole = static_cast<long>(std::lround(std::max(0.0, seconds)));
    if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
    return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

}  // namespace qlora::cli
