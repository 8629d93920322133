#pragma once

#include "vector_exp.h"

namespace qlora::kernels::cpu::QLORA_PATH {

static void rms_norm_recompute(const float* x, const float* weight, const float* inverse, int64_t rows,
                               int64_t size, float* y) {
    for (int64_t row = 0; row < rows; ++row, x += size, y += size) {
        const Floats scale = all<Floats>(inverse[row]);
        walk(
            size, [&](auto place) __attribute__((always_inline)) {
                store(y, place, load(weight, place) * (load(x, place) * scale));
            });
    }
}

static void rms_norm(const float* x, const float* weight, double eps, int64_t rows, int64_t size, float* y,
                     float* inverse, NormAddend addend) {
    for (int64_t row = 0; row < rows; ++row, x += size, y += size) {
        const double squares = sum_row(
            size, [&](auto place) __attribute__((always_inline)) {
                // Squares in fp32, as in transformers: where one overflows, the whole row becomes 0.
                const Floats value = load(x, place);
                return value * value;
            });
        inverse[row] = static_cast<float>(1.0 / __builtin_sqrt(squares / static_cast<double>(size) + eps));
        if (addend.rows == nullptr) {
            rms_norm_recompute(x, weight, inverse + row, 1, size, y);
            continue;
        }
        const float* to_add = addend.rows + row * size;
        const Floats scale = all<Floats>(inverse[row]), multiplier = all<Floats>(addend.multiplier);
        walk(
            size, [&](auto place) __attribute__((always_inline)) {
                const Floats normed = load(weight, place) * (load(x, place) * scale);
                store(y, place, load(to_add, place) + multiplier * normed);
            });
    }
}

static void rms_norm_backward(const float* dy, const float* x, const float* weight, const float* inverse,
                              const float* residual, int64_t rows, int64_t size, float* dx) {
    for (int64_t row = 0; row < rows; ++row, dy += size, x += size, dx += size) {
        const Floats scale = all<Floats>(inverse[row]);
        const double products = sum_row(
            size, [&](auto place) __attribute__((always_inline)) {
                const Floats gradient = load(dy, place) * load(weight, place);
                return widen(gradient) * widen(load(x, place) * scale);
            });
        const Floats mean = all<Floats>(static_cast<float>(products / static_cast<double>(size)));
        const auto gradient = [&](auto place) __attribute__((always_inline)) {
            const Floats normed = load(x, place) * scale;
            return scale * (load(dy, place) * load(weight, place) - normed * mean);
        };
        if (residual == nullptr) {
            walk(
                size, [&](auto place) __attribute__((always_inline)) { store(dx, place, gradient(place)); });
        } else {
            const float* direct = residual + row * size;
            walk(
                size, [&](auto place) __attribute__((always_inline)) {
                    store(dx, place, gradient(place) + load(direct, place));
                });
        }
    }
}

static void rope(float* x, const float* cos, const float* sin, int64_t tokens, int64_t heads,
                 int64_t head_dim, int64_t row_stride, int direction) {
    const int64_t half = head_dim / 2;
    const Floats sign = all<Floats>(static_cast<float>(direction));
    for (int64_t token = 0; token < tokens; ++token, x += row_stride, cos += half, sin += half) {
        for (int64_t head = 0; head < heads; ++head) {
            float* first = x + head * head_dim;
            float* second = first + half;
            walk(
                half, [&](auto place) __attribute__((always_inline)) {
                    const Floats a = load(first, place), b = load(second, place);
                    const Floats c = load(cos, place), s = load(sin, place) * sign;
                    store(first, place, a * c - b * s);
                    store(second, place, b * c + a * s);
                });
        }
    }
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
