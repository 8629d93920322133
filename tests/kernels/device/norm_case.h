#pragma once

#include "kernels/device/device_rows.h"
#include "qlora/kernels/cuda_layer.h"

namespace qlora::kernels {

inline constexpr double kNormEps = 1e-5;

struct NormCase {
    int64_t rows, size;
    FloatType type = FloatType::kF32;
    bool residual = false;
    int64_t y_gap = 0;
    // Elements past an aligned place: x and what is added to it, weight, results.
    int x_shift = 0, residual_shift = 0, weight_shift = 0, y_shift = 0, sum_shift = 0;
    NormKind kind = NormKind::kRms;
    bool added = false;
    float multiplier = 1.0f;
    int added_shift = 0;
    bool bias = false;  ///< of a LayerNorm
    int bias_shift = 0;
};

struct NormTensors {
    std::vector<float> x, residual, weight, dy, added, bias;

    explicit NormTensors(const NormCase& test)
        : x(gaussian_of(test.type, test.rows * test.size, 1)),
          residual(gaussian_of(test.type, test.rows * test.size, 2)),
          weight(gaussian(test.size, 3)),  // with more bits than 16-bit types hold
          dy(gaussian_of(test.type, test.rows * test.size, 4)),
          added(gaussian_of(test.type, test.rows * test.size, 5)),
          bias(gaussian(test.size, 6)) {}
};

/// The threads of a row, by its size.
inline std::size_t norm_team(int64_t size) {
    return size <= 1024 ? 32 : size <= 4096 ? 128 : 512;
}

/// The sum of a(i) * b(i) in the kernels' order: threads take pieces of eight values in turn; then lanes of a
/// warp are added pairwise and warps one after another.
template <class A, class B>
float norm_sum(int64_t size, const A& a, const B& b) {
    std::vector<float> threads(norm_team(size), 0.0f);
    for (int64_t i = 0; i < size; ++i) {
        float& sum = threads[static_cast<std::size_t>(i / 8) % threads.size()];
        sum = std::fma(a(i), b(i), sum);
    }
    float total = 0.0f;
    for (std::size_t warp = 0; warp < threads.size(); warp += 32) {
        float* lanes = threads.data() + warp;
        for (int distance = 16; distance > 0; distance /= 2) {
            for (int lane = 0; lane < distance; ++lane) lanes[lane] += lanes[lane + distance];
        }
        total = warp == 0 ? lanes[0] : total + lanes[0];
    }
    return total;
}

/// Roundings that the sum of a row of `size` values goes through at most.
inline double norm_roundings(int64_t size) {
    const double team = static_cast<double>(norm_team(size));
    return 8 * std::ceil(static_cast<double>(size) / (8 * team)) + 5 + team / 32;
}

}  // namespace qlora::kernels
