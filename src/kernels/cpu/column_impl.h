// Rows times a factor for each column, and the sums over rows that are those factors' gradients.
#include "elementwise_path.h"
#include "vector_lanes.h"

namespace qlora::kernels::cpu::QLORA_PATH {

template <bool kBias, bool kStart>
static void scale_rows(Rows x, const float* scale, const float* bias, const float* start,
                       int64_t start_stride, float* y, int64_t y_stride) {
    for (int64_t row = 0; row < x.count; ++row) {
        const float* from = x.data + row * x.stride;
        const float* add = kStart ? start + row * start_stride : nullptr;
        float* to = y + row * y_stride;
        walk(
            x.size, [&](auto place) __attribute__((always_inline)) {
                Floats value = load(scale, place) * load(from, place);
                if constexpr (kBias) value = value + load(bias, place);
                if constexpr (kStart) value = value + load(add, place);
                store(to, place, value);
            });
    }
}

static void scale_columns(Rows x, const float* scale, const float* bias, const float* start,
                          int64_t start_stride, float* y, int64_t y_stride) {
    if (bias != nullptr && start != nullptr) {
        scale_rows<true, true>(x, scale, bias, start, start_stride, y, y_stride);
    } else if (bias != nullptr) {
        scale_rows<true, false>(x, scale, bias, start, start_stride, y, y_stride);
    } else if (start != nullptr) {
        scale_rows<false, true>(x, scale, bias, start, start_stride, y, y_stride);
    } else {
        scale_rows<false, false>(x, scale, bias, start, start_stride, y, y_stride);
    }
}

/// Rows whose products are added in fp32 before their sum is added in double.
inline constexpr int64_t kRowsTogether = 4;

QLORA_LANES_INLINE void add_to(double* sums, Floats values) {
    Doubles total;
    __builtin_memcpy(&total, sums, sizeof total);
    total = total + widen(values);
    __builtin_memcpy(sums, &total, sizeof total);
}

/// sums += the products of kCount rows from `row` on, kCount 1 or kRowsTogether.
template <int64_t kCount>
static void add_products(Rows g, const float* x, int64_t x_stride, int64_t row, double* sums) {
    const float* from = g.data + row * g.stride;
    const float* of_x = x + row * x_stride;
    const int64_t whole = g.size / kLanes * kLanes;
    for (int64_t at = 0; at < whole; at += kLanes) {
        const Whole place{at};
        Floats products[kCount];
        for (int64_t i = 0; i < kCount; ++i)
            products[i] = load(from + i * g.stride, place) * load(of_x + i * x_stride, place);
        if constexpr (kCount == 1) {
            add_to(sums + at, products[0]);
        } else {
            add_to(sums + at, (products[0] + products[1]) + (products[2] + products[3]));
        }
    }
    for (int64_t at = whole; at < g.size; ++at) {
        float products[kCount];
        for (int64_t i = 0; i < kCount; ++i) products[i] = from[at + i * g.stride] * of_x[at + i * x_stride];
        if constexpr (kCount == 1) {
            sums[at] += static_cast<double>(products[0]);
        } else {
            sums[at] += static_cast<double>((products[0] + products[1]) + (products[2] + products[3]));
        }
    }
}

static void scale_columns_backward(Rows g, const float* x, int64_t x_stride, const float* scale,
                                   float* scaled, int64_t scaled_stride, double* sums) {
    for (int64_t row = 0; row < g.count;) {
        const int64_t count = g.count - row >= kRowsTogether ? kRowsTogether : 1;
        if (count == 1) {
            add_products<1>(g, x, x_stride, row, sums);
        } else {
            add_products<kRowsTogether>(g, x, x_stride, row, sums);
        }
        if (scaled != nullptr) {
            // The rows are in the cache still.
            const Rows together{g.data + row * g.stride, count, g.size, g.stride};
            scale_rows<false, false>(together, scale, nullptr, nullptr, 0, scaled + row * scaled_stride,
                                     scaled_stride);
        }
        row += count;
    }
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
