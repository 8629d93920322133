#include "qlora/train/stop_signal.h"

#include <unistd.h>

namespace qlora::train {
namespace {

volatile std::sig_atomic_t received_signal = 0;

extern "C" void on_stop(int signal) {
    if (received_signal != 0) _exit(128 + signal);
    received_signal = signal;
}

void handle(int signal, void (*handler)(int)) {
    struct sigaction action {};
    action.sa_handler = handler;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;  // a write in progress is not cut short
    sigaction(signal, &action, nullptr);
}

}  // namespace

StopSignal::StopSignal() {
    received_signal = 0;
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], nullptr, &before_[i]);
    for (const int signal : {SIGINT, SIGTERM}) handle(signal, on_stop);
    for (const int signal : {SIGHUP, SIGPIPE, SIGXFSZ}) handle(signal, SIG_IGN);
}

StopSignal::~StopSignal() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
}

int StopSignal::received() {
    return received_signal;
}

}  // namespace qlora::train
