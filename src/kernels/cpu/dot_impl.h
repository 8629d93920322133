// Dot products of a few rows with one: the inner loop of products that read a weight once.
#include "vector_lanes.h"

namespace qlora::kernels::cpu::QLORA_PATH {

static float dot(const float* a, const float* b, int64_t size) {
    Floats sums[4] = {all<Floats>(0.0f), all<Floats>(0.0f), all<Floats>(0.0f), all<Floats>(0.0f)};
    int64_t at = 0;
    for (; at + 4 * kLanes <= size; at += 4 * kLanes) {
        for (int i = 0; i < 4; ++i) {
            const Whole place{at + i * kLanes};
            sums[i] = sums[i] + load(a, place) * load(b, place);
        }
    }
    for (; at + kLanes <= size; at += kLanes) sums[0] = sums[0] + load(a, Whole{at}) * load(b, Whole{at});
    if (at < size) sums[1] = sums[1] + load(a, Tail{at, size - at}) * load(b, Tail{at, size - at});
    float lanes[kLanes];
    store_lanes(lanes, (sums[0] + sums[1]) + (sums[2] + sums[3]));
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

static void dot_rows(const float* x, const float* w, int64_t rows, int64_t size, float* y, int64_t y_stride) {
    for (int64_t row = 0; row < rows; ++row) y[row * y_stride] = dot(x + row * size, w, size);
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
