#pragma once

#include <csignal>

#include <array>

namespace qlora::train {

/// While it lives, the first SIGINT or SIGTERM only sets a flag, a second one leaves the process at once (130
/// or 143); SIGHUP and SIGPIPE are ignored, so that a closed terminal does not end a run, and SIGXFSZ, so
/// that a limit on the size of files is an error like a full disk. At its end all of them do again what they
/// did before. One at a time.
class StopSignal {
  public:
    StopSignal();
    ~StopSignal();
    StopSignal(const StopSignal&) = delete;
    StopSignal& operator=(const StopSignal&) = delete;

    /// 0, or the signal that asks to stop.
    static int received();
    static bool is_received() { return received() != 0; }

  private:
    static constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ};
    std::array<struct sigaction, kSignals.size()> before_{};
};

}  // namespace qlora::train
