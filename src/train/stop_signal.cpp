#include "qlora/train/stop_signal.h"

#include <unistd.h>
#include <csignal>

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
    handle(SIGINT, on_stop);
    handle(SIGTERM, on_stop);
    handle(SIGHUP, SIG_IGN);
    handle(SIGPIPE, SIG_IGN);
    handle(SIGXFSZ, SIG_IGN);
}

StopSignal::~StopSignal() {
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ}) handle(signal, SIG_DFL);
}

int StopSignal::received() {
    return received_signal;
}

}  // namespace qlora::train
