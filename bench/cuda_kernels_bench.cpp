// Times the CUDA kernels: one line of JSON each, with bytes moved per second and the share of the rate at
// which this card copies memory.
//
//   cuda_kernels_bench                       the shapes of Qwen3-0.6B, Llama-3.2-1B and Llama-3.1-8B
//   cuda_kernels_bench 4096x4096 1024x151936 dequantize and quantize these [outputs x inputs] instead
//
// Bytes are what the contract must read and write once; what a kernel reads again shows as a lower rate.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/cuda_kernels.h"
#include "qlora/kernels/cuda_layer.h"
#include "qlora/kernels/cuda_loss.h"
#include "qlora/kernels/cuda_optimizer.h"

namespace qlora::kernels {
namespace {

constexpr FloatType kType = FloatType::kBF16;
constexpr int64_t kBlocksize = 64;
constexpr double kBytesPerRound = 1e9;  // several times what any cache holds
constexpr double kSecondsPerRepeat = 0.02;
constexpr int kRepeats = 5;

void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

/// Device memory, filled with a pattern over and over.
class Buffer {
  public:
    Buffer(int64_t bytes, const std::vector<unsigned char>& pattern) {
        check(cudaMalloc(&data_, static_cast<std::size_t>(bytes)));
        for (int64_t done = 0; done < bytes;) {
            const int64_t piece = std::min<int64_t>(bytes - done, static_cast<int64_t>(pattern.size()));
            check(cudaMemcpy(static_cast<char*>(data_) + done, pattern.data(),
                             static_cast<std::size_t>(piece), cudaMemcpyHostToDevice));
            done += piece;
        }
    }
    ~Buffer() { cudaFree(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    template <class T>
    T* as() const {
        return static_cast<T*>(data_);
    }

  private:
    void* data_ = nullptr;
};

template <class T, class Make>
std::vector<unsigned char> pattern_of(const Make& make) {
    std::mt19937 random(7);
    std::vector<T> values(4 << 20);
    for (T& value : values) value = make(random);
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    return {bytes, bytes + values.size() * sizeof(T)};
}

/// The memory of all cases; one that is asked for again is a new one.
class Memory {
  public:
    uint16_t* bf16(int64_t n) {
        static const auto pattern = pattern_of<uint16_t>(
            [](auto& random) { return float_to_bf16(std::normal_distribution<float>(0.0f, 1.0f)(random)); });
        return add<uint16_t>(n, pattern);
    }
    float* fp32(int64_t n) {
        static const auto pattern = pattern_of<float>(
            [](auto& random) { return std::uniform_real_distribution<float>(0.01f, 0.05f)(random); });
        return add<float>(n, pattern);
    }
    uint8_t* bytes(int64_t n) {
        static const auto pattern =
            pattern_of<uint8_t>([](auto& random) { return static_cast<uint8_t>(random()); });
        return add<uint8_t>(n, pattern);
    }
    template <class T>
    T* values(const std::vector<T>& content) {
        const auto* begin = reinterpret_cast<const unsigned char*>(content.data());
        return add<T>(static_cast<int64_t>(content.size()), {begin, begin + content.size() * sizeof(T)});
    }
    void clear() { buffers_.clear(); }

  private:
    template <class T>
    T* add(int64_t n, const std::vector<unsigned char>& pattern) {
        buffers_.push_back(std::make_unique<Buffer>(n * static_cast<int64_t>(sizeof(T)), pattern));
        return buffers_.back()->as<T>();
    }
    std::vector<std::unique_ptr<Buffer>> buffers_;
};

class Bench {
  public:
    Bench() {
        check(cudaEventCreate(&begin_));
        check(cudaEventCreate(&end_));
        measure_copy();
    }

    /// `make` allocates one set of operands and returns the launch on it; there are as many sets as it takes
    /// to come back to the first with cold caches.
    void run(const std::string& kernel, const std::string& shape, double bytes,
             const std::function<std::function<void()>(Memory&)>& make) {
        std::vector<std::function<void()>> launches;
        const int sets = static_cast<int>(std::clamp(kBytesPerRound / bytes, 1.0, 64.0));
        for (int i = 0; i < sets; ++i) launches.push_back(make(memory_));
        report(kernel, shape, bytes, seconds_per_launch(launches));
        memory_.clear();
    }

  private:
    void measure_copy() {
        constexpr int64_t kBytes = int64_t{1} << 30;
        const uint8_t* from = memory_.bytes(kBytes);
        uint8_t* to = memory_.bytes(kBytes);
        const double seconds = seconds_per_launch(
            {[=] { check(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, nullptr)); }});
        copy_rate_ = 2.0 * kBytes / seconds;
        report("copy", "1 GiB", 2.0 * kBytes, seconds);
        memory_.clear();
    }

    double timed(const std::vector<std::function<void()>>& launches, int count) {
        check(cudaEventRecord(begin_));
        for (int i = 0; i < count; ++i) launches[static_cast<std::size_t>(i) % launches.size()]();
        check(cudaEventRecord(end_));
        check(cudaEventSynchronize(end_));
        float milliseconds = 0;
        check(cudaEventElapsedTime(&milliseconds, begin_, end_));
        return static_cast<double>(milliseconds) / 1e3 / count;
    }

    double seconds_per_launch(const std::vector<std::function<void()>>& launches) {
        const int sets = static_cast<int>(launches.size());
        timed(launches, sets);  // loads the code
        const int count = std::clamp(static_cast<int>(kSecondsPerRepeat / timed(launches, sets)), sets, 4096);
        std::vector<double> seconds;
        for (int i = 0; i < kRepeats; ++i) seconds.push_back(timed(launches, count));
        std::sort(seconds.begin(), seconds.end());
        return seconds[kRepeats / 2];
    }

    void report(const std::string& kernel, const std::string& shape, double bytes, double seconds) const {
        const double rate = bytes / seconds;
        std::printf(R"({"kernel": "%s", "shape": "%s", "bytes": %.0f, "microseconds": %.2f, )"
                    R"("gb_per_s": %.1f, "share_of_copy": %.4f})"
                    "\n",
                    kernel.c_str(), shape.c_str(), bytes, seconds * 1e6, rate / 1e9, rate / copy_rate_);
        std::fflush(stdout);
    }

    cudaEvent_t begin_, end_;
    double copy_rate_ = 0;
    Memory memory_;
};

std::string shape_text(int64_t rows, int64_t columns) {
    return std::to_string(rows) + "x" + std::to_string(columns);
}

/// A matrix with 8-bit block scales; its bytes.
double packed_bytes_of(int64_t n) {
    const int64_t blocks = block_count(n, kBlocksize);
    return static_cast<double>(packed_bytes(n) + blocks + 4 * nested_block_count(blocks));
}

Nf4View quantized(Memory& memory, int64_t n) {
    const int64_t blocks = block_count(n, kBlocksize);
    AbsmaxView absmax;
    absmax.codes = memory.bytes(blocks);
    absmax.nested_absmax = memory.fp32(nested_block_count(blocks));
    absmax.offset = 0.04f;
    return {memory.bytes(packed_bytes(n)), absmax, n, static_cast<int>(kBlocksize)};
}

void bench_matrix(Bench& bench, int64_t outputs, int64_t inputs) {
    constexpr int64_t kRank = 16;
    const int64_t n = outputs * inputs;
    const std::string shape = shape_text(outputs, inputs);
    const double packed = packed_bytes_of(n), dense = 2.0 * static_cast<double>(n);
    bench.run("dequantize_blockwise_nf4", shape, packed + dense, [=](Memory& memory) {
        const Nf4View view = quantized(memory, n);
        uint16_t* out = memory.bf16(n);
        return [=] { cuda::dequantize_blockwise_nf4(view, 0, n, out, kType, nullptr); };
    });
    const double appended = static_cast<double>(outputs) * kRank * (4 + 2);
    bench.run("dequantize_rows_nf4", shape, packed + dense + appended, [=](Memory& memory) {
        const DequantizeRowsParams params{quantized(memory, n),
                                          inputs,
                                          0,
                                          outputs,
                                          memory.fp32(outputs * kRank),
                                          kRank,
                                          memory.bf16(outputs * (inputs + kRank)),
                                          kType};
        return [=] { cuda::dequantize_rows_nf4(params, nullptr); };
    });
    const double quantize_bytes =
        dense + static_cast<double>(packed_bytes(n) + 4 * block_count(n, kBlocksize));
    bench.run("quantize_blockwise_nf4", shape, quantize_bytes, [=](Memory& memory) {
        const QuantizeNf4Params params{memory.bf16(n),
                                       kType,
                                       n,
                                       static_cast<int>(kBlocksize),
                                       memory.bytes(packed_bytes(n)),
                                       memory.fp32(block_count(n, kBlocksize))};
        int64_t* first_non_finite = memory.values<int64_t>({-1});
        return [=] { cuda::quantize_blockwise_nf4(params, first_non_finite, nullptr); };
    });
    bench.run("matvec_nf4, 1 row", shape, packed + 2.0 * static_cast<double>(inputs + outputs),
              [=](Memory& memory) {
                  const MatvecNf4Params params{quantized(memory, n), outputs, inputs, memory.bf16(inputs), 1,
                                               memory.bf16(outputs), kType};
                  return [=] { cuda::matvec_nf4(params, nullptr); };
              });
}

void bench_norm(Bench& bench, int64_t rows, int64_t size) {
    const double elements = static_cast<double>(rows * size);
    const std::string shape = shape_text(rows, size);
    bench.run("rms_norm with residual", shape, 8 * elements, [=](Memory& memory) {
        const RmsNormParams params{.x = memory.bf16(rows * size),
                                   .residual = memory.bf16(rows * size),
                                   .sum = memory.bf16(rows * size),
                                   .weight = memory.fp32(size),
                                   .eps = 1e-5,
                                   .rows = rows,
                                   .size = size,
                                   .y = memory.bf16(rows * size),
                                   .y_stride = size,
                                   .inverse = memory.fp32(rows),
                                   .type = kType};
        return [=] { cuda::rms_norm(params, nullptr); };
    });
    bench.run("rms_norm_backward with residual", shape, 8 * elements, [=](Memory& memory) {
        const RmsNormBackwardParams params{.dy = memory.bf16(rows * size),
                                           .x = memory.bf16(rows * size),
                                           .weight = memory.fp32(size),
                                           .inverse = memory.fp32(rows),
                                           .residual = memory.bf16(rows * size),
                                           .rows = rows,
                                           .size = size,
                                           .dx = memory.bf16(rows * size),
                                           .type = kType};
        return [=] { cuda::rms_norm_backward(params, nullptr); };
    });
}

void bench_rope(Bench& bench, int64_t tokens, int64_t heads, int64_t head_dim) {
    const int64_t elements = tokens * heads * head_dim, angles = tokens * head_dim / 2;
    bench.run("rope", shape_text(tokens, heads * head_dim), 4.0 * static_cast<double>(elements + angles),
              [=](Memory& memory) {
                  const RopeParams params{.x = memory.bf16(elements),
                                          .cos = memory.bf16(angles),
                                          .sin = memory.bf16(angles),
                                          .tokens = tokens,
                                          .heads = heads,
                                          .head_dim = head_dim,
                                          .row_stride = heads * head_dim,
                                          .direction = 1,
                                          .type = kType};
                  return [=] { cuda::rope(params, nullptr); };
              });
}

void bench_activation(Bench& bench, const std::string& name, Activation kind, bool gated, int64_t rows,
                      int64_t size) {
    const double elements = static_cast<double>(rows * size);
    const int64_t entered = (gated ? 2 : 1) * rows * size;
    const std::string shape = shape_text(rows, size);
    bench.run(name, shape, (gated ? 6 : 4) * elements, [=](Memory& memory) {
        const ActivateParams params{.kind = kind,
                                    .gated = gated,
                                    .entered = memory.bf16(entered),
                                    .rows = rows,
                                    .size = size,
                                    .y = memory.bf16(rows * size),
                                    .y_stride = size,
                                    .type = kType};
        return [=] { cuda::activate(params, nullptr); };
    });
    bench.run(name + "_backward with result", shape, (gated ? 12 : 8) * elements, [=](Memory& memory) {
        const ActivateBackwardParams params{.kind = kind,
                                            .gated = gated,
                                            .dy = memory.bf16(rows * size),
                                            .entered = memory.bf16(entered),
                                            .rows = rows,
                                            .size = size,
                                            .d_entered = memory.bf16(entered),
                                            .y = memory.bf16(rows * size),
                                            .y_stride = size,
                                            .type = kType};
        return [=] { cuda::activate_backward(params, nullptr); };
    });
}

void bench_loss(Bench& bench, int64_t rows, int64_t columns) {
    const double bytes = 4.0 * static_cast<double>(rows * columns);
    bench.run("softmax_cross_entropy", shape_text(rows, columns), bytes, [=](Memory& memory) {
        std::vector<int64_t> targets;
        for (int64_t row = 0; row < rows; ++row) targets.push_back(row * 7919 % columns);
        const CrossEntropyParams params{memory.bf16(rows * columns),
                                        memory.values(targets),
                                        rows,
                                        columns,
                                        memory.values(std::vector<double>(targets.size())),
                                        kType};
        return [=] { cuda::softmax_cross_entropy(params, nullptr); };
    });
}

/// As many tensors as adapters of rank 16 on seven linears of 32 layers have, all of one size.
void bench_optimizer(Bench& bench) {
    constexpr int64_t kTensors = 448, kSize = 93623, kAll = kTensors * kSize;
    const auto tables = [](Memory& memory) {
        std::vector<AdamwTensor> tensors;
        std::vector<AdamwChunk> chunks;
        for (int32_t i = 0; i < kTensors; ++i) {
            tensors.push_back({.p = memory.fp32(kSize),
                               .g = memory.fp32(kSize),
                               .m = memory.fp32(kSize),
                               .v = memory.fp32(kSize),
                               .n = kSize,
                               .decays = 1});
            for (int32_t chunk = 0; chunk * kAdamwChunk < kSize; ++chunk) chunks.push_back({i, chunk});
        }
        return AdamwTables{memory.values(tensors), memory.values(chunks),
                           static_cast<int64_t>(chunks.size())};
    };
    const std::string shape = shape_text(kTensors, kSize);
    bench.run("adamw_step", shape, 28.0 * kAll, [=](Memory& memory) {
        const AdamwTables made = tables(memory);
        return [=] { cuda::adamw_step(made, AdamwSettings{}, nullptr); };
    });
    bench.run("gradient_sum_of_squares", shape, 4.0 * kAll, [=](Memory& memory) {
        const AdamwTables made = tables(memory);
        auto* partial = reinterpret_cast<double*>(memory.fp32(2 * made.chunk_count));
        auto* sum = reinterpret_cast<double*>(memory.fp32(2));
        return [=] { cuda::gradient_sum_of_squares(made, partial, sum, nullptr); };
    });
}

struct MatrixShape {
    int64_t outputs, inputs;
};

MatrixShape parse_shape(const char* text) {
    long long outputs = 0, inputs = 0;
    if (std::sscanf(text, "%lldx%lld", &outputs, &inputs) != 2 || outputs < 1 || inputs < 1) {
        throw std::invalid_argument(std::string(text) + " is no shape like 4096x14336");
    }
    return {outputs, inputs};
}

int run(int argc, char** argv) {
    std::vector<MatrixShape> shapes;
    for (int i = 1; i < argc; ++i) shapes.push_back(parse_shape(argv[i]));
    const bool all = shapes.empty();
    if (all) shapes = {{2048, 1024}, {3072, 1024}, {8192, 2048}, {4096, 4096}, {14336, 4096}, {4096, 14336}};
    Bench bench;
    for (const MatrixShape& shape : shapes) bench_matrix(bench, shape.outputs, shape.inputs);
    if (!all) return 0;
    constexpr int64_t kTokens = 4096;
    for (const int64_t hidden : {1024, 2048, 4096}) bench_norm(bench, kTokens, hidden);
    bench_rope(bench, kTokens, 40, 128);
    for (const int64_t size : {3072, 14336}) {
        bench_activation(bench, "swiglu", Activation::kSilu, true, kTokens, size);
        bench_activation(bench, "geglu_tanh", Activation::kGeluTanh, true, kTokens, size);
        bench_activation(bench, "gelu", Activation::kGelu, false, kTokens, size);
    }
    for (const int64_t vocab : {128256, 151936}) bench_loss(bench, 1024, vocab);
    bench_optimizer(bench);
    return 0;
}

}  // namespace
}  // namespace qlora::kernels

int main(int argc, char** argv) {
    try {
        return qlora::kernels::run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "cuda_kernels_bench: %s\n", error.what());
        return 1;
    }
}
