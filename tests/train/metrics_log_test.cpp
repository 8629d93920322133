#include "qlora/train/metrics_log.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>

#include "support/temp_dir.h"

namespace qlora {
namespace {

using test::read_file;
using test::TempDir;
using test::write_file;
using train::MetricsLog;

const std::string kRun =
    "{\"step\":0,\"eval_loss\":3.0}\n"
    "{\"step\":1,\"loss\":2.0}\n"
    "{\"step\":2,\"loss\":1.5}\n"
    "{\"step\":2,\"eval_loss\":2.5}\n"
    "{\"step\":3,\"loss\":1.0}\n";

std::string first_lines(int count) {
    std::size_t end = 0;
    for (int i = 0; i < count; ++i) end = kRun.find('\n', end) + 1;
    return kRun.substr(0, end);
}

std::string after_cut(const std::string& content, const train::MetricsCut& cut) {
    const TempDir folder;
    write_file(folder / "metrics.jsonl", content);
    const MetricsLog log(folder / "metrics.jsonl", cut);
    return read_file(folder / "metrics.jsonl");
}

TEST(MetricsLog, lines_after_the_checkpoint_go) {
    EXPECT_EQ(after_cut(kRun, {.last_step = 3}), kRun);
    EXPECT_EQ(after_cut(kRun, {.last_step = 99}), kRun);
    EXPECT_EQ(after_cut(kRun, {.last_step = 2}), first_lines(4));
    EXPECT_EQ(after_cut(kRun, {.last_step = 1}), first_lines(2));
    EXPECT_EQ(after_cut(kRun, {.last_step = 0}), first_lines(1));
    EXPECT_EQ(after_cut(kRun, {}), "");
}

TEST(MetricsLog, an_evaluation_that_is_made_again_goes_too) {
    EXPECT_EQ(after_cut(kRun, {.last_step = 2, .drops_evaluation = true}), first_lines(3));
    EXPECT_EQ(after_cut(kRun, {.last_step = 0, .drops_evaluation = true}), "");
    EXPECT_EQ(after_cut(kRun, {.last_step = 3, .drops_evaluation = true}), kRun)
        << "those of earlier steps stay";
}

TEST(MetricsLog, torn_and_foreign_lines_go) {
    for (std::size_t length = 0; length < kRun.size(); ++length) {
        const std::string torn = kRun.substr(0, length);
        EXPECT_EQ(after_cut(torn, {.last_step = 9}), torn.substr(0, torn.rfind('\n') + 1)) << length;
    }
    for (const std::string foreign :
         {"[]", "7", "{\"step\":\"1\"}", "{}", "nonsense", "", std::string(9, '\0').c_str()}) {
        EXPECT_EQ(after_cut(first_lines(2) + foreign + "\n", {.last_step = 9}), first_lines(2)) << foreign;
    }
}

TEST(MetricsLog, a_missing_file_is_made_by_the_first_line) {
    const TempDir folder;
    MetricsLog log(folder / "metrics.jsonl", {.last_step = 5});
    EXPECT_FALSE(std::filesystem::exists(folder / "metrics.jsonl"));
    log.sync();
    log.append({{"step", 1}, {"loss", std::nan("")}});
    log.append({{"step", 2}});
    log.sync();
    EXPECT_EQ(read_file(folder / "metrics.jsonl"), "{\"step\":1,\"loss\":null}\n{\"step\":2}\n");
}

TEST(MetricsLog, a_line_that_does_not_fit_is_written_later_and_whole) {
    const TempDir folder;
    const auto file = folder / "metrics.jsonl";
    // In a child, because a limit on the size of files cannot be raised again by everyone.
    const pid_t child = ::fork();
    if (child == 0) {
        ::signal(SIGXFSZ, SIG_IGN);
        rlimit limit{};
        ::getrlimit(RLIMIT_FSIZE, &limit);
        const rlim_t before = limit.rlim_cur;
        MetricsLog log(file, {});
        log.append({{"step", 1}});
        limit.rlim_cur = 15;  // the second line fits in part
        ::setrlimit(RLIMIT_FSIZE, &limit);
        log.append({{"step", 2}});
        log.append({{"step", 3}});
        const bool kept_whole = read_file(file) == "{\"step\":1}\n";
        limit.rlim_cur = before;
        ::setrlimit(RLIMIT_FSIZE, &limit);
        log.sync();
        const bool synced = read_file(file) == "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n";
        log.append({{"step", 4}});
        ::_exit(kept_whole && synced ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
    EXPECT_EQ(read_file(file), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n");
}

}  // namespace
}  // namespace qlora
