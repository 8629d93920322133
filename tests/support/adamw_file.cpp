// Runs AdamW steps on raw fp32 files, so that a test can compare them with another implementation.
//
//   adamw_file LR BETA1 BETA2 EPS WEIGHT_DECAY GRAD_SCALE STEPS PARAMETERS GRADIENTS OUT
//       PARAMETERS holds n values, GRADIENTS n for each step; OUT receives p, m and v after each step.

#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "qlora/kernels/kernels.h"

namespace {

std::vector<float> read_floats(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) throw std::runtime_error("cannot read " + path);
    std::vector<float> values(static_cast<size_t>(file.tellg()) / sizeof(float));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
    return values;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 11) throw std::invalid_argument("expected ten arguments");
        qlora::kernels::AdamwSettings settings;
        settings.lr = std::stod(argv[1]);
        settings.beta1 = std::stod(argv[2]);
        settings.beta2 = std::stod(argv[3]);
        settings.eps = std::stod(argv[4]);
        settings.weight_decay = std::stod(argv[5]);
        settings.grad_scale = std::stof(argv[6]);
        const int64_t steps = std::stoll(argv[7]);
        std::vector<float> p = read_floats(argv[8]);
        const std::vector<float> gradients = read_floats(argv[9]);
        const size_t n = p.size();
        if (gradients.size() != n * static_cast<size_t>(steps))
            throw std::invalid_argument("GRADIENTS: wrong size");
        std::vector<float> m(n), v(n);
        std::ofstream out(argv[10], std::ios::binary);
        for (int64_t step = 1; step <= steps; ++step) {
            settings.step = step;
            const float* g = gradients.data() + static_cast<size_t>(step - 1) * n;
            qlora::kernels::cpu::adamw_step(p.data(), g, m.data(), v.data(), static_cast<int64_t>(n),
                                            settings);
            for (const std::vector<float>* values : {&p, &m, &v}) {
                out.write(reinterpret_cast<const char*>(values->data()),
                          static_cast<std::streamsize>(n * sizeof(float)));
            }
        }
        if (!out.flush()) throw std::runtime_error(std::string("cannot write ") + argv[10]);
        return 0;
    } catch (const std::exception& error) {
        std::cerr << "adamw_file: " << error.what() << '\n';
        return 2;
    }
}
