// load_memory MODEL: loads a model quantized and prints, as JSON, the anonymous memory that it took at its
// worst moment beside the promise: quantized model + twice the largest tensor in fp32 + what LibTorch takes
// by itself.
#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>

#include "qlora/core/json.h"
#include "qlora/models/base_loader.h"

namespace {

std::int64_t anonymous_bytes() {
    std::ifstream status("/proc/self/status");
    std::string word;
    while (status >> word) {
        if (word != "RssAnon:") continue;
        std::int64_t kilobytes = 0;
        status >> kilobytes;
        return kilobytes * 1024;
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::cerr << "usage: load_memory MODEL\n";
        return 2;
    }
    const qlora::models::ModelConfig config = qlora::models::load_model_config(argv[1]);
    const qlora::io::Checkpoint checkpoint(argv[1]);
    // What LibTorch takes: its first operations, with their threads and buffers.
    at::mm(at::ones({512, 512}), at::ones({512, 512}));
    at::ones({1 << 16}, at::kBFloat16).isfinite().all();
    const std::int64_t baseline = anonymous_bytes();

    std::atomic<bool> done{false};
    std::int64_t peak = 0;
    std::thread watcher([&] {
        while (!done) {
            peak = std::max(peak, anonymous_bytes());
            std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
    });
    const auto model = qlora::models::load_base(checkpoint, config, {});
    done = true;
    watcher.join();
    peak = std::max(peak, anonymous_bytes());

    std::int64_t largest = 0;
    for (const std::string& name : checkpoint.names())
        largest = std::max(largest, checkpoint.at(name).elements() * 4);
    std::cout << qlora::Json{{"baseline", baseline},
                             {"peak", peak},
                             {"after", anonymous_bytes()},
                             {"model", model->weight_bytes()},
                             {"largest_tensor_fp32", largest},
                             {"promise", model->weight_bytes() + 2 * largest + baseline}}
                     .dump()
              << '\n';
}
