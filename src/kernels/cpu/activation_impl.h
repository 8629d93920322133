#pragma once

#include "qlora/kernels/activation_math.h"
#include "vector_exp.h"

namespace qlora::kernels::cpu::QLORA_PATH {

template <class Form>
static void activate_rows(const float* entered, int64_t rows, int64_t size, float* out) {
    constexpr int64_t kParts = Form::kGated ? 2 : 1;
    for (int64_t row = 0; row < rows; ++row, entered += kParts * size, out += size) {
        const float* up = entered + size;
        walk(
            size, [&](auto place) __attribute__((always_inline)) {
                const Floats value = activated<Form::kKind, RowLanes>(load(entered, place)).value;
                if constexpr (Form::kGated) {
                    store(out, place, value * load(up, place));
                } else {
                    store(out, place, value);
                }
            });
    }
}

template <class Form>
static void activate_rows_backward(const float* d_out, const float* entered, int64_t rows, int64_t size,
                                   float* d_entered, float* out) {
    constexpr int64_t kParts = Form::kGated ? 2 : 1;
    for (int64_t row = 0; row < rows; ++row) {
        const float* up_row = entered + size;
        float* d_up = d_entered + size;
        float* out_row = out == nullptr ? nullptr : out + row * size;
        walk(
            size, [&](auto place) __attribute__((always_inline)) {
                const Floats d = load(d_out, place);
                const auto [value, slope] = activated<Form::kKind, RowLanes>(load(entered, place));
                if constexpr (Form::kGated) {
                    const Floats up = load(up_row, place);
                    store(d_entered, place, d * up * slope);
                    store(d_up, place, d * value);
                    if (out_row != nullptr) store(out_row, place, value * up);
                } else {
                    store(d_entered, place, d * slope);
                    if (out_row != nullptr) store(out_row, place, value);
                }
            });
        d_out += size;
        entered += kParts * size;
        d_entered += kParts * size;
    }
}

static void activate(Activation kind, bool gated, const float* entered, int64_t rows, int64_t size,
                     float* out) {
    with_activation_form(kind, gated,
                         [&](auto form) { activate_rows<decltype(form)>(entered, rows, size, out); });
}

static void activate_backward(Activation kind, bool gated, const float* d_out, const float* entered,
                              int64_t rows, int64_t size, float* d_entered, float* out) {
    with_activation_form(kind, gated, [&](auto form) {
        activate_rows_backward<decltype(form)>(d_out, entered, rows, size, d_entered, out);
    });
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
