// Throughput of the 4-bit kernels on one thread, beside memcpy. `bytes_per_second` counts the bytes of the
// wide side (fp32 or bfloat16 weights) once; memcpy counts the bytes it copies.

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/instruction_set.h"
#include "qlora/kernels/kernels.h"
#include "qlora/kernels/philox.h"

namespace {

using namespace qlora::kernels;
using cpu::InstructionSet;

constexpr int kBlocksize = 64;

struct Weights {
    int64_t n;
    FloatType type;
    std::vector<char> values;
    std::vector<uint8_t> packed, codes;
    std::vector<float> absmax, nested_absmax;
    float offset = 0.0f;

    Weights(int64_t count, FloatType float_type) : n(count), type(float_type) {
        values.resize(static_cast<size_t>(n * float_bytes(type)));
        PhiloxStream random(1);
        for (int64_t i = 0; i < n; ++i) {
            const float value = (random.uniform() + random.uniform() + random.uniform() - 1.5f) * 0.04f;
            const uint16_t half = float_to_bf16(value);
            std::memcpy(values.data() + i * float_bytes(type),
                        type == FloatType::kF32 ? static_cast<const void*>(&value) : &half,
                        static_cast<size_t>(float_bytes(type)));
        }
        const size_t blocks = static_cast<size_t>(block_count(n, kBlocksize));
        packed.resize(static_cast<size_t>(packed_bytes(n)));
        absmax.resize(blocks);
        codes.resize(blocks);
        nested_absmax.resize(static_cast<size_t>(nested_block_count(static_cast<int64_t>(blocks))));
        quantize();
        quantize_scales();
    }

    void quantize() {
        cpu::quantize_blockwise_nf4({values.data(), type, n, kBlocksize, packed.data(), absmax.data()});
    }
    void quantize_scales() {
        offset = cpu::quantize_absmax(absmax.data(), static_cast<int64_t>(absmax.size()), codes.data(),
                                      nested_absmax.data());
    }
    void dequantize(std::vector<char>& out) {
        const AbsmaxView view{nullptr, codes.data(), nested_absmax.data(), offset};
        cpu::dequantize_blockwise_nf4({packed.data(), view, n, kBlocksize}, out.data(), type);
    }
};

int64_t elements(const benchmark::State& state) {
    return state.range(0) * state.range(1);
}
FloatType type_of(const benchmark::State& state) {
    return state.range(2) == 32 ? FloatType::kF32 : FloatType::kBF16;
}

void finish(benchmark::State& state, size_t bytes) {
    state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(bytes));
}

void quantize(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    Weights weights(elements(state), type_of(state));
    for (auto _ : state) {
        weights.quantize();
        benchmark::ClobberMemory();
    }
    finish(state, weights.values.size());
}

void quantize_double(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    Weights weights(elements(state), type_of(state));
    for (auto _ : state) {
        weights.quantize();
        weights.quantize_scales();
        benchmark::ClobberMemory();
    }
    finish(state, weights.values.size());
}

void dequantize(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    Weights weights(elements(state), type_of(state));
    std::vector<char> out(weights.values.size());
    for (auto _ : state) {
        weights.dequantize(out);
        benchmark::ClobberMemory();
    }
    finish(state, out.size());
}

void copy(benchmark::State& state) {
    const size_t bytes = static_cast<size_t>(elements(state) * float_bytes(type_of(state)));
    std::vector<char> from(bytes, 1), to(bytes);
    for (auto _ : state) {
        std::memcpy(to.data(), from.data(), bytes);
        benchmark::ClobberMemory();
    }
    finish(state, bytes);
}

void adamw(benchmark::State& state, InstructionSet set) {
    cpu::set_instruction_set(set);
    const size_t n = 1 << 20;
    std::vector<float> p(n, 0.1f), g(n, 0.01f), m(n), v(n);
    AdamwSettings settings;
    for (auto _ : state) {
        cpu::adamw_step(p.data(), g.data(), m.data(), v.data(), static_cast<int64_t>(n), settings);
        ++settings.step;
        benchmark::ClobberMemory();
    }
    finish(state, n * 4 * sizeof(float));
}

void squares(benchmark::State& state) {
    const std::vector<float> values(1 << 20, 0.01f);
    for (auto _ : state) benchmark::DoNotOptimize(cpu::sum_of_squares(values.data(), 1 << 20));
    finish(state, values.size() * sizeof(float));
}

void shapes(benchmark::internal::Benchmark* bench) {
    for (int bits : {32, 16}) bench->Args({576, 1536, bits})->Args({4096, 4096, bits});
    bench->ArgNames({"rows", "columns", "bits"});
}

void register_for(InstructionSet set) {
    if (!cpu::supports(set)) return;
    const std::string suffix = std::string("/") + cpu::to_string(set);
    using benchmark::RegisterBenchmark;
    RegisterBenchmark(("quantize" + suffix).c_str(), quantize, set)->Apply(shapes);
    RegisterBenchmark(("quantize_double" + suffix).c_str(), quantize_double, set)->Apply(shapes);
    RegisterBenchmark(("dequantize_double" + suffix).c_str(), dequantize, set)->Apply(shapes);
    RegisterBenchmark(("adamw" + suffix).c_str(), adamw, set);
}

}  // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    benchmark::RegisterBenchmark("memcpy", copy)->Apply(shapes);
    benchmark::RegisterBenchmark("sum_of_squares", squares);
    register_for(InstructionSet::kPortable);
    register_for(InstructionSet::kAvx2);
    benchmark::RunSpecifiedBenchmarks();
}
