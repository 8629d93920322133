// Runs AdamW steps on raw files, so that a test can compare them with another implementation.
//
//   adamw_file BITS LR BETA1 BETA2 EPS WEIGHT_DECAY GRAD_SCALE STEPS PARAMETERS GRADIENTS OUT
//       BITS is 32 or 8, of the moments. PARAMETERS holds n fp32 values, GRADIENTS n for each step; OUT
//       receives p, m and v after each step; with 8 bits p, then the codes of m and v, then the scales of m
//       and v.

#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "qlora/kernels/adamw_8bit_math.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/kernels.h"

namespace {

using namespace qlora::kernels;

std::vector<float> read_floats(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) throw std::runtime_error("cannot read " + path);
    std::vector<float> values(static_cast<size_t>(file.tellg()) / sizeof(float));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
    return values;
}

template <class T>
void write(std::ofstream& out, const std::vector<T>& values) {
    out.write(reinterpret_cast<const char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(T)));
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 12) throw std::invalid_argument("expected eleven arguments");
        const std::string bits = argv[1];
        if (bits != "32" && bits != "8") throw std::invalid_argument("BITS: 32 or 8");
        AdamwSettings settings;
        settings.lr = std::stod(argv[2]);
        settings.beta1 = std::stod(argv[3]);
        settings.beta2 = std::stod(argv[4]);
        settings.eps = std::stod(argv[5]);
        settings.weight_decay = std::stod(argv[6]);
        settings.grad_scale = std::stof(argv[7]);
        const int64_t steps = std::stoll(argv[8]);
        std::vector<float> p = read_floats(argv[9]);
        const std::vector<float> gradients = read_floats(argv[10]);
        const size_t n = p.size();
        if (gradients.size() != n * static_cast<size_t>(steps))
            throw std::invalid_argument("GRADIENTS: wrong size");
        std::vector<float> m(n), v(n);
        const int64_t blocks = block_count(static_cast<int64_t>(n), kAdamwBlocksize);
        std::vector<uint8_t> m_codes(n), v_codes(n);
        std::vector<float> m_absmax(static_cast<size_t>(blocks)), v_absmax(m_absmax.size());
        std::ofstream out(argv[11], std::ios::binary);
        for (int64_t step = 1; step <= steps; ++step) {
            settings.step = step;
            const float* g = gradients.data() + static_cast<size_t>(step - 1) * n;
            if (bits == "32") {
                cpu::adamw_step(p.data(), g, m.data(), v.data(), static_cast<int64_t>(n), settings);
                for (const std::vector<float>* values : {&p, &m, &v}) write(out, *values);
                continue;
            }
            cpu::adamw_8bit_step({p.data(), g, m_codes.data(), v_codes.data(), m_absmax.data(),
                                  v_absmax.data(), static_cast<int64_t>(n)},
                                 settings);
            write(out, p);
            for (const std::vector<uint8_t>* codes : {&m_codes, &v_codes}) write(out, *codes);
            for (const std::vector<float>* scales : {&m_absmax, &v_absmax}) write(out, *scales);
        }
        if (!out.flush()) throw std::runtime_error(std::string("cannot write ") + argv[11]);
        return 0;
    } catch (const std::exception& error) {
        std::cerr << "adamw_file: " << error.what() << '\n';
        return 2;
    }
}
