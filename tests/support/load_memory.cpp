// load_memory MODEL: loads a model quantized and prints, as JSON, the anonymous memory that it took at its
// worst moment beside the promise: quantized model + twice the largest tensor in fp32 + what LibTorch takes
// by itself. Then the seconds of a second load, and those of its matrices alone. A model stored in 4 bits is
// loaded as it is.

#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>

#include "qlora/core/json.h"
#include "qlora/models/base_loader.h"
#include "weight_bytes.h"

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

template <class Work>
double seconds_of(Work&& work) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Every matrix brought into its 4-bit form and dropped again.
void load_matrices(const qlora::io::Checkpoint& checkpoint, qlora::models::CausalLM& model,
                   const qlora::models::StoredQuantization& stored, const qlora::quant::QuantConfig& config) {
    for (const qlora::nn::Linear* linear : model.linears()) {
        const std::string name = linear->path() + ".weight";
        const auto matrix = stored.matrices.find(name);
        const auto packed = matrix == stored.matrices.end()
                                ? qlora::quant::quantize(checkpoint.at(name), config)
                                : qlora::quant::load_quantized(matrix->second);
        checkpoint.release(name);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::cerr << "usage: load_memory MODEL\n";
        return 2;
    }
    const qlora::models::DecoderSpec config = qlora::models::load_decoder_spec(argv[1]);
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
    const qlora::models::StoredQuantization stored = qlora::models::check_base(checkpoint, config);
    qlora::models::LoadOptions options;
    options.quantization = stored.config.value_or(options.quantization);
    const auto model = qlora::models::load_base(checkpoint, config, options);
    done = true;
    watcher.join();
    peak = std::max(peak, anonymous_bytes());

    const std::int64_t after = anonymous_bytes();
    const double seconds = seconds_of([&] { qlora::models::load_base(checkpoint, config, options); });
    const double linear_seconds =
        seconds_of([&] { load_matrices(checkpoint, *model, stored, options.quantization); });

    std::int64_t largest = 0;
    for (const std::string& name : checkpoint.names())
        largest = std::max(largest, checkpoint.at(name).elements() * 4);
    std::cout << qlora::Json{{"baseline", baseline},
                             {"peak", peak},
                             {"after", after},
                             {"model", qlora::test::weight_bytes(*model)},
                             {"largest_tensor_fp32", largest},
                             {"promise", qlora::test::weight_bytes(*model) + 2 * largest + baseline},
                             {"seconds", seconds},
                             {"linear_seconds", linear_seconds}}
                     .dump()
              << '\n';
}
