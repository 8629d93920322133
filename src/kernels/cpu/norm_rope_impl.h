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

/// turn(head) for each head of a token.
template <class Turn>
QLORA_LANES_INLINE void turn_heads(float* row, const RopeRows& rows, Turn turn) {
    for (int64_t group = 0; group < rows.groups; ++group) {
        float* heads = row + group * rows.group_stride;
        for (int64_t head = 0; head < rows.heads; ++head) turn(heads + head * rows.head_dim);
    }
}

/// Four angles, each for two neighbouring lanes, of which the first gets minus the sine.
struct PairAngles {
    Floats cos, sin;
};

QLORA_LANES_INLINE PairAngles pair_angles(const float* cos, const float* sin, int64_t count, float sign) {
    float c[kLanes] = {}, s[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) {
        c[2 * i] = c[2 * i + 1] = cos[i];
        s[2 * i] = -(sin[i] * sign);
        s[2 * i + 1] = sin[i] * sign;
    }
    return {load_lanes<Floats>(c), load_lanes<Floats>(s)};
}

static void rope_pairs(float* x, const float* cos, const float* sin, const RopeRows& rows, float sign) {
    constexpr int64_t kPairs = kLanes / 2;
    const int64_t half = rows.dims / 2;
    for (int64_t token = 0; token < rows.tokens; ++token, x += rows.row_stride, cos += half, sin += half) {
        for (int64_t i = 0; i < half; i += kPairs) {
            const int64_t count = half - i < kPairs ? half - i : kPairs;
            const PairAngles angles = pair_angles(cos + i, sin + i, count, sign);
            const auto turn = [&](float* head, auto place) __attribute__((always_inline)) {
                const Floats values = load(head, place);
                store(head, place, values * angles.cos + swapped(values) * angles.sin);
            };
            if (count == kPairs) {
                turn_heads(
                    x, rows, [&](float* head) __attribute__((always_inline)) { turn(head, Whole{2 * i}); });
            } else {
                turn_heads(
                    x, rows, [&](float* head) __attribute__((always_inline)) {
                        turn(head, Tail{2 * i, 2 * count});
                    });
            }
        }
    }
}

static void rope_halves(float* x, const float* cos, const float* sin, const RopeRows& rows, float sign_of) {
    const int64_t half = rows.dims / 2;
    const Floats sign = all<Floats>(sign_of);
    for (int64_t token = 0; token < rows.tokens; ++token, x += rows.row_stride, cos += half, sin += half) {
        turn_heads(
            x, rows, [&](float* first) __attribute__((always_inline)) {
                float* second = first + half;
                walk(
                    half, [&](auto place) __attribute__((always_inline)) {
                        const Floats a = load(first, place), b = load(second, place);
                        const Floats c = load(cos, place), s = load(sin, place) * sign;
                        store(first, place, a * c - b * s);
                        store(second, place, b * c + a * s);
                    });
            });
    }
}

static void rope(float* x, const float* cos, const float* sin, const RopeRows& rows, int direction) {
    (rows.pairs ? rope_pairs : rope_halves)(x, cos, sin, rows, static_cast<float>(direction));
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
