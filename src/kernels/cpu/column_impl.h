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

/// sums += a * b of eight columns, exact products added in double.
QLORA_LANES_INLINE void add_products(double* sums, Floats a, Floats b) {
    Doubles total;
    __builtin_memcpy(&total, sums, sizeof total);
    total = total + widen(a) * widen(b);
    __builtin_memcpy(sums, &total, sizeof total);
}

static void scale_columns_backward(Rows g, const float* x, int64_t x_stride, const float* scale,
                                   float* scaled, int64_t scaled_stride, double* sums) {
    const int64_t whole = g.size / kLanes * kLanes;
    for (int64_t row = 0; row < g.count; ++row) {
        const float* from = g.data + row * g.stride;
        const float* of_x = x + row * x_stride;
        for (int64_t at = 0; at < whole; at += kLanes)
            add_products(sums + at, load(from, Whole{at}), load(of_x, Whole{at}));
        for (int64_t i = whole; i < g.size; ++i)
            sums[i] += static_cast<double>(from[i]) * static_cast<double>(of_x[i]);
        if (scaled == nullptr) continue;
        float* to = scaled + row * scaled_stride;
        walk(
            g.size, [&](auto place) __attribute__((always_inline)) {
                store(to, place, load(scale, place) * load(from, place));
            });
    }
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
