#pragma once

#include "vector_lanes.h"

namespace qlora::kernels::cpu::QLORA_PATH {

static void layer_norm_recompute(const float* x, const float* weight, const float* bias, const float* mean,
                                 const float* inverse, int64_t rows, int64_t size, float* y) {
    for (int64_t row = 0; row < rows; ++row, x += size, y += size) {
        const Floats centre = all<Floats>(mean[row]), scale = all<Floats>(inverse[row]);
        const auto scaled = [&](auto place) __attribute__((always_inline)) {
            return load(weight, place) * ((load(x, place) - centre) * scale);
        };
        if (bias == nullptr) {
            walk(
                size, [&](auto place) __attribute__((always_inline)) { store(y, place, scaled(place)); });
        } else {
            walk(
                size, [&](auto place) __attribute__((always_inline)) {
                    store(y, place, scaled(place) + load(bias, place));
                });
        }
    }
}

static void layer_norm(const float* x, const float* weight, const float* bias, double eps, int64_t rows,
                       int64_t size, float* y, float* mean, float* inverse) {
    for (int64_t row = 0; row < rows; ++row, x += size, y += size) {
        const double sum = sum_row(
            size, [&](auto place) __attribute__((always_inline)) { return widen(load(x, place)); });
        const float centre = static_cast<float>(sum / static_cast<double>(size));
        const double squares = sum_row(
            size, [&](auto place) __attribute__((always_inline)) {
                const Floats difference = load(x, place, centre) - all<Floats>(centre);
                return difference * difference;
            });
        mean[row] = centre;
        inverse[row] = static_cast<float>(1.0 / __builtin_sqrt(squares / static_cast<double>(size) + eps));
        layer_norm_recompute(x, weight, bias, mean + row, inverse + row, 1, size, y);
    }
}

static void layer_norm_backward(const float* dy, const float* x, const float* weight, const float* mean,
                                const float* inverse, const float* residual, int64_t rows, int64_t size,
                                float* dx) {
    for (int64_t row = 0; row < rows; ++row, dy += size, x += size, dx += size) {
        const Floats centre = all<Floats>(mean[row]), scale = all<Floats>(inverse[row]);
        const auto gradient = [&](auto place) __attribute__((always_inline)) {
            return load(dy, place) * load(weight, place);
        };
        const auto normed = [&](auto place) __attribute__((always_inline)) {
            return (load(x, place, mean[row]) - centre) * scale;
        };
        const auto mean_of = [&](double sum) {
            return all<Floats>(static_cast<float>(sum / static_cast<double>(size)));
        };
        const Floats of_gradient = mean_of(sum_row(
            size, [&](auto place) __attribute__((always_inline)) { return widen(gradient(place)); }));
        const Floats of_product = mean_of(sum_row(
            size, [&](auto place) __attribute__((always_inline)) {
                return widen(gradient(place)) * widen(normed(place));
            }));
        const auto result = [&](auto place) __attribute__((always_inline)) {
            return scale * (gradient(place) - of_gradient - normed(place) * of_product);
        };
        if (residual == nullptr) {
            walk(
                size, [&](auto place) __attribute__((always_inline)) { store(dx, place, result(place)); });
        } else {
            const float* direct = residual + row * size;
            walk(
                size, [&](auto place) __attribute__((always_inline)) {
                    store(dx, place, result(place) + load(direct, place));
                });
        }
    }
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
