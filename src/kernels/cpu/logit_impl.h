#pragma once

#include "qlora/kernels/logit_math.h"
#include "vector_exp.h"

namespace qlora::kernels::cpu::QLORA_PATH {

/// fp32 results are stored as they are.
struct Unrounded {
    QLORA_LANES_INLINE Floats operator()(Floats value) const { return value; }
};

static void curve_logits(float* logits, int64_t n, LogitCurve curve, float* tanhs) {
    walk(
        n, [&](auto place) __attribute__((always_inline)) {
            const CurvedLogit<RowLanes> found = curved<RowLanes>(load(logits, place), curve, Unrounded{});
            store(logits, place, found.value);
            if (tanhs != nullptr) store(tanhs, place, found.tanh);
        });
}

static void curve_gradients(float* gradients, const float* tanhs, int64_t n, LogitCurve curve) {
    walk(
        n, [&](auto place) __attribute__((always_inline)) {
            const Floats tanh = tanhs != nullptr ? load(tanhs, place) : all<Floats>(0.0f);
            store(gradients, place,
                  curve_gradient<RowLanes>(load(gradients, place), tanh, curve, Unrounded{}));
        });
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
