#include "status_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "qlora/core/log.h"

namespace qlora::cli {
namespace {

constexpr int kBarWidth = 24;

int terminal_width() {
    winsize size{};
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string bar(double share) {
    const auto filled = static_cast<std::size_t>(std::lround(std::clamp(share, 0.0, 1.0) * kBarWidth));
    return fmt::format("[{}{}]", std::string(filled, '#'), std::string(kBarWidth - filled, '.'));
}

std::string duration_text(double seconds) {
    const auto whole = static_cast<long>(std::lround(std::max(0.0, seconds)));
    if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
    return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

StatusLine::StatusLine(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1) {}

void StatusLine::print(const std::string& line) {
    if (quiet_) return;
    clear();
    std::fprintf(stderr, "%s\n", line.c_str());
}

void StatusLine::show(const std::string& line) {
    if (quiet_ || !terminal_) return;
    const auto width = static_cast<std::size_t>(terminal_width() - 1);
    std::fprintf(stderr, "\r\033[K%s", line.substr(0, width).c_str());
    std::fflush(stderr);
    shown_ = true;
}

void StatusLine::clear() {
    if (shown_) std::fprintf(stderr, "\r\033[K");
    shown_ = false;
}

}  // namespace qlora::cli
