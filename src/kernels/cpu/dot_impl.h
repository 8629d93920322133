// Dot products of a few rows with one, the inner loop of products that read a weight once and of the scores
// of one query; and sums of rows by weights, as one query's probabilities meet the values.
#include "elementwise_path.h"
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

static void dot_rows(Rows x, const float* w, float* y, int64_t y_stride) {
    for (int64_t row = 0; row < x.count; ++row) y[row * y_stride] = dot(x.data + row * x.stride, w, x.size);
}

/// Columns whose sums stay in registers while the rows pass.
template <int kRegisters, class Place>
QLORA_LANES_INLINE void weigh_columns(Rows x, const float* weights, float* y, int64_t at, Place last) {
    Floats sums[kRegisters];
    for (Floats& sum : sums) sum = all<Floats>(0.0f);
    for (int64_t row = 0; row < x.count; ++row) {
        const float* from = x.data + row * x.stride;
        const Floats weight = all<Floats>(weights[row]);
        for (int i = 0; i + 1 < kRegisters; ++i)
            sums[i] = sums[i] + weight * load(from, Whole{at + i * kLanes});
        sums[kRegisters - 1] = sums[kRegisters - 1] + weight * load(from, last);
    }
    for (int i = 0; i + 1 < kRegisters; ++i) store(y, Whole{at + i * kLanes}, sums[i]);
    store(y, last, sums[kRegisters - 1]);
}

static void weigh_rows(Rows x, const float* weights, float* y) {
    int64_t at = 0;
    for (; at + 8 * kLanes <= x.size; at += 8 * kLanes)
        weigh_columns<8>(x, weights, y, at, Whole{at + 7 * kLanes});
    for (; at + kLanes <= x.size; at += kLanes) weigh_columns<1>(x, weights, y, at, Whole{at});
    if (at < x.size) weigh_columns<1>(x, weights, y, at, Tail{at, x.size - at});
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
