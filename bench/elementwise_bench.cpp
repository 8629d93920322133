// Throughput of the fused fp32 operations on one thread. `bytes_per_second` counts each byte read and each
// byte written once; `items_per_second` counts elements of the result. The large shapes miss every cache.

#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "qlora/kernels/elementwise.h"
#include "qlora/kernels/instruction_set.h"
#include "qlora/kernels/philox.h"

namespace {

using namespace qlora::kernels;
using cpu::InstructionSet;

std::vector<float> noise(int64_t n, float width = 4.0f) {
    PhiloxStream random(1);
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = (random.uniform() + random.uniform() - 1.0f) * width;
    return values;
}

/// `bytes`: read and written for one element.
void finish(benchmark::State& state, int64_t elements, int64_t bytes) {
    state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * elements);
    state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * elements * bytes);
}

struct Rows {
    int64_t rows, size;
    explicit Rows(const benchmark::State& state) : rows(state.range(0)), size(state.range(1)) {}
    int64_t elements() const { return rows * size; }
};

void rms_norm(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    const Rows shape(state);
    const std::vector<float> x = noise(shape.elements()), weight = noise(shape.size);
    std::vector<float> y(x.size()), inverse(static_cast<size_t>(shape.rows));
    for (auto _ : state) {
        cpu::rms_norm(x.data(), weight.data(), 1e-5, shape.rows, shape.size, y.data(), inverse.data());
        benchmark::ClobberMemory();
    }
    finish(state, shape.elements(), 8);
}

void rms_norm_backward(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    const Rows shape(state);
    const std::vector<float> x = noise(shape.elements()), dy = x, weight = noise(shape.size);
    const std::vector<float> inverse(static_cast<size_t>(shape.rows), 0.5f);
    std::vector<float> dx(x.size());
    for (auto _ : state) {
        cpu::rms_norm_backward(dy.data(), x.data(), weight.data(), inverse.data(), dx.data(), shape.rows,
                               shape.size, dx.data());
        benchmark::ClobberMemory();
    }
    finish(state, shape.elements(), 16);
}

void rope(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    const Rows shape(state);
    constexpr int64_t kHeadDim = 64;
    std::vector<float> x = noise(shape.elements());
    const std::vector<float> cos(static_cast<size_t>(shape.rows * kHeadDim / 2), 0.6f);
    const std::vector<float> sin(cos.size(), 0.8f);
    for (auto _ : state) {
        cpu::rope(x.data(), cos.data(), sin.data(), shape.rows, shape.size / kHeadDim, kHeadDim, shape.size,
                  1);
        benchmark::ClobberMemory();
    }
    finish(state, shape.elements(), 8);
}

template <Activation kKind, bool kGated>
void activate(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    const Rows shape(state);
    const std::vector<float> entered = noise((kGated ? 2 : 1) * shape.elements());
    std::vector<float> out(static_cast<size_t>(shape.elements()));
    for (auto _ : state) {
        cpu::activate(kKind, kGated, entered.data(), shape.rows, shape.size, out.data());
        benchmark::ClobberMemory();
    }
    finish(state, shape.elements(), kGated ? 12 : 8);
}

template <Activation kKind, bool kGated>
void activate_backward(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    const Rows shape(state);
    const std::vector<float> entered = noise((kGated ? 2 : 1) * shape.elements());
    const std::vector<float> d_out = noise(shape.elements());
    std::vector<float> d_entered(entered.size()), out(d_out.size());
    for (auto _ : state) {
        cpu::activate_backward(kKind, kGated, d_out.data(), entered.data(), shape.rows, shape.size,
                               d_entered.data(), out.data());
        benchmark::ClobberMemory();
    }
    finish(state, shape.elements(), kGated ? 24 : 16);
}

void softmax_cross_entropy(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    const Rows shape(state);
    // Each round takes the gradients of the one before as logits: other values, the same work.
    std::vector<float> logits = noise(shape.elements(), 10.0f);
    const std::vector<int64_t> targets(static_cast<size_t>(shape.rows), 7);
    std::vector<double> losses(targets.size());
    for (auto _ : state) {
        cpu::softmax_cross_entropy(logits.data(), targets.data(), shape.rows, shape.size, losses.data());
        benchmark::ClobberMemory();
    }
    finish(state, shape.elements(), 8);
}

void score_rows(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    const Rows shape(state);
    const std::vector<float> logits = noise(shape.elements(), 10.0f);
    const std::vector<int64_t> targets(static_cast<size_t>(shape.rows), 7);
    std::vector<float> logprobs(targets.size());
    auto correct = std::make_unique<bool[]>(targets.size());
    for (auto _ : state) {
        cpu::score_rows(logits.data(), targets.data(), shape.rows, shape.size, logprobs.data(),
                        correct.get());
        benchmark::ClobberMemory();
    }
    finish(state, shape.elements(), 4);
}

void attention_softmax(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    const Rows shape(state);
    std::vector<float> scores = noise(shape.elements());
    std::vector<float> logsumexp(static_cast<size_t>(shape.rows));
    // The last `rows` queries of `size`: a row sees almost all columns.
    for (auto _ : state) {
        cpu::attention_softmax(scores.data(), shape.rows, shape.size, shape.size, 0.125f,
                               {shape.size - shape.rows + 1, 0}, logsumexp.data(), 1);
        benchmark::ClobberMemory();
    }
    finish(state, shape.elements(), 8);
}

void attention_softmax_backward(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    const Rows shape(state);
    std::vector<float> scores = noise(shape.elements()), dp = scores;
    const std::vector<float> logsumexp(static_cast<size_t>(shape.rows), 6.0f);
    for (auto _ : state) {
        cpu::attention_softmax_backward(scores.data(), dp.data(), shape.rows, shape.size, shape.size, 0.125f,
                                        {shape.size - shape.rows + 1, 0}, logsumexp.data(), 1,
                                        logsumexp.data(), 1);
        benchmark::ClobberMemory();
    }
    finish(state, shape.elements(), 16);
}

void register_for(InstructionSet set) {
    if (!cpu::supports(set)) return;
    const auto add = [set](const char* name, auto function,
                           std::initializer_list<std::pair<int64_t, int64_t>> shapes) {
        auto* bench = benchmark::RegisterBenchmark((std::string(name) + "/" + cpu::to_string(set)).c_str(),
                                                   function, set);
        for (const auto& [rows, size] : shapes) bench->Args({rows, size});
        bench->ArgNames({"rows", "size"});
    };
    add("rms_norm", rms_norm, {{64, 576}, {20000, 576}, {4000, 4096}});
    add("rms_norm_backward", rms_norm_backward, {{64, 576}, {20000, 576}, {4000, 4096}});
    add("rope", rope, {{64, 576}, {20000, 576}, {4000, 4096}});
    add("swiglu", activate<Activation::kSilu, true>, {{16, 1536}, {8000, 1536}});
    add("swiglu_backward", activate_backward<Activation::kSilu, true>, {{16, 1536}, {8000, 1536}});
    add("geglu_tanh", activate<Activation::kGeluTanh, true>, {{16, 1536}, {8000, 1536}});
    add("geglu_tanh_backward", activate_backward<Activation::kGeluTanh, true>, {{16, 1536}, {8000, 1536}});
    add("gelu", activate<Activation::kGelu, false>, {{16, 1536}, {8000, 1536}});
    add("gelu_backward", activate_backward<Activation::kGelu, false>, {{16, 1536}, {8000, 1536}});
    add("softmax_cross_entropy", softmax_cross_entropy, {{2, 49152}, {400, 49152}, {100, 151936}});
    add("score_rows", score_rows, {{2, 49152}, {400, 49152}, {100, 151936}});
    add("attention_softmax", attention_softmax, {{64, 512}, {64, 2048}});
    add("attention_softmax_backward", attention_softmax_backward, {{64, 512}, {64, 2048}});
}

}  // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    register_for(InstructionSet::kPortable);
    register_for(InstructionSet::kAvx2);
    benchmark::RunSpecifiedBenchmarks();
}
