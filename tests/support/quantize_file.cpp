// Runs the quantization kernels on raw files, so that tests in other languages can compare every byte.
//
//   quantize_file --dtype f32|f16|bf16 --blocksize N [--double-quant] [--instruction-set portable|avx2] IN
//   OUTDIR
//       writes codes.bin, absmax.bin (fp32; with --double-quant uint8, and nested_absmax.bin, offset.bin in
//       fp32) and what they decode to: scales.bin (fp32), dequant_f32.bin, dequant_f16.bin, dequant_bf16.bin.
//       A non-finite value in IN ends it with code 3.
//   quantize_file --dynamic-maps OUTDIR
//       writes dynamic_signed.bin and dynamic_unsigned.bin, 256 fp32 values each.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/dynamic_code.h"
#include "qlora/kernels/instruction_set.h"
#include "qlora/kernels/kernels.h"

namespace {

namespace fs = std::filesystem;
using namespace qlora::kernels;

struct Options {
    FloatType dtype = FloatType::kF32;
    int blocksize = 64;
    bool double_quant = false;
    bool dynamic_maps = false;
    std::vector<std::string> paths;
};

FloatType dtype_of(const std::string& name) {
    if (name == "f32") return FloatType::kF32;
    if (name == "f16") return FloatType::kF16;
    if (name == "bf16") return FloatType::kBF16;
    throw std::invalid_argument("--dtype is f32, f16 or bf16, not " + name);
}

void choose_instruction_set(const std::string& name) {
    for (cpu::InstructionSet set : cpu::kInstructionSets) {
        if (name == cpu::to_string(set)) return cpu::set_instruction_set(set);
    }
    throw std::invalid_argument("--instruction-set is portable, avx2 or avx512, not " + name);
}

Options parse(const std::vector<std::string>& arguments) {
    Options options;
    for (size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        const auto value = [&] {
            if (i + 1 == arguments.size()) throw std::invalid_argument(argument + " needs a value");
            return arguments[++i];
        };
        if (argument == "--dtype") {
            options.dtype = dtype_of(value());
        } else if (argument == "--blocksize") {
            options.blocksize = std::stoi(value());
        } else if (argument == "--instruction-set") {
            choose_instruction_set(value());
        } else if (argument == "--double-quant") {
            options.double_quant = true;
        } else if (argument == "--dynamic-maps") {
            options.dynamic_maps = true;
        } else if (argument.starts_with("--")) {
            throw std::invalid_argument("unknown option " + argument);
        } else {
            options.paths.push_back(argument);
        }
    }
    if (options.paths.size() != (options.dynamic_maps ? 1 : 2))
        throw std::invalid_argument("expected IN OUTDIR");
    return options;
}

std::vector<char> read_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path.string());
    return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
void write_file(const fs::path& path, const T* values, size_t count) {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(count * sizeof(T)));
    if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
}

int quantize(const Options& options) {
    const std::vector<char> input = read_file(options.paths[0]);
    const fs::path directory = options.paths[1];
    fs::create_directories(directory);
    const int64_t n = static_cast<int64_t>(input.size()) / float_bytes(options.dtype);
    const int64_t blocks = block_count(n, options.blocksize);
    std::vector<uint8_t> packed(static_cast<size_t>(packed_bytes(n)));
    std::vector<float> absmax(static_cast<size_t>(blocks));
    const int64_t non_finite = cpu::quantize_blockwise_nf4(
        {input.data(), options.dtype, n, options.blocksize, packed.data(), absmax.data()});
    if (non_finite >= 0) {
        std::cerr << options.paths[0] << ": value " << non_finite << " is not finite\n";
        return 3;
    }
    write_file(directory / "codes.bin", packed.data(), packed.size());

    AbsmaxView view{absmax.data(), nullptr, nullptr, 0.0f};
    std::vector<uint8_t> codes(absmax.size());
    std::vector<float> nested_absmax(static_cast<size_t>(nested_block_count(blocks)));
    if (options.double_quant) {
        const float offset = cpu::quantize_absmax(absmax.data(), blocks, codes.data(), nested_absmax.data());
        view = {nullptr, codes.data(), nested_absmax.data(), offset};
        write_file(directory / "absmax.bin", codes.data(), codes.size());
        write_file(directory / "nested_absmax.bin", nested_absmax.data(), nested_absmax.size());
        write_file(directory / "offset.bin", &offset, 1);
    } else {
        write_file(directory / "absmax.bin", absmax.data(), absmax.size());
    }
    std::vector<float> scales(absmax.size());
    cpu::dequantize_absmax(view, 0, blocks, scales.data());
    write_file(directory / "scales.bin", scales.data(), scales.size());

    struct Output {
        const char* name;
        FloatType type;
    };
    for (const Output& output :
         {Output{"dequant_f32.bin", FloatType::kF32}, Output{"dequant_f16.bin", FloatType::kF16},
          Output{"dequant_bf16.bin", FloatType::kBF16}}) {
        std::vector<char> values(static_cast<size_t>(n * float_bytes(output.type)));
        cpu::dequantize_blockwise_nf4({packed.data(), view, n, options.blocksize}, values.data(),
                                      output.type);
        write_file(directory / output.name, values.data(), values.size());
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const Options options = parse({argv + 1, argv + argc});
        if (!options.dynamic_maps) return quantize(options);
        const fs::path directory = options.paths[0];
        fs::create_directories(directory);
        write_file(directory / "dynamic_signed.bin", kSignedDynamicMap.value, 256);
        write_file(directory / "dynamic_unsigned.bin", kUnsignedDynamicMap.value, 256);
        return 0;
    } catch (const std::exception& error) {
        std::cerr << "quantize_file: " << error.what() << '\n';
        return 2;
    }
}
