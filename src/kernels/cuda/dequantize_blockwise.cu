// NF4 codes to floats: one thread a group of 16 values (one 8-byte load, 16-byte stores), with the block's
// scale decoded on the way. Groups at the ends of the range, and all of them where the buffers are not
// aligned, go value by value.
#include "nf4.cuh"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

constexpr int kThreads = 256;

struct Range {
    int64_t begin, end;  // values of the tensor; `begin` goes to out[0]
    int blocksize_log2;
    bool vectors;  // whether whole groups are aligned on both sides
};

template <class Elements>
__global__ void __launch_bounds__(kThreads) dequantize_groups(Nf4View view, Range range, void* out) {
    __shared__ float table[kNf4Codes];
    fill_nf4_table(table);
    __syncthreads();

    const int64_t group = range.begin / kGroup + blockIdx.x * static_cast<int64_t>(kThreads) +
                          static_cast<int64_t>(threadIdx.x);
    const int64_t group_begin = group * kGroup;
    const bool whole = range.vectors && group_begin >= range.begin && group_begin + kGroup <= range.end;
    const bool together = __all_sync(kAllLanes, whole) != 0;
    if (group_begin >= range.end) return;
    const float absmax = load_absmax(view.absmax, group_begin >> range.blocksize_log2);
    if (whole) {
        float values[kGroup];
        decode_group(view.packed, group, table, absmax, values);
        store_group<Elements>(out, group_begin - range.begin, values, together);
        return;
    }
    for (int64_t i = group_begin; i < group_begin + kGroup; ++i) {
        if (i < range.begin || i >= range.end) continue;
        Elements::store(out, i - range.begin, table[code_at(view.packed, i)] * absmax);
    }
}

}  // namespace

void dequantize_blockwise_nf4(const Nf4View& view, int64_t begin, int64_t end, void* out, FloatType type,
                              Stream stream) {
    if (!is_valid_blocksize(view.blocksize))
        throw std::invalid_argument("dequantize_blockwise_nf4: blocksize");
    if (begin < 0 || end < begin || end > view.n) {
        throw std::invalid_argument("dequantize_blockwise_nf4: range outside the tensor");
    }
    const std::size_t size = static_cast<std::size_t>(float_bytes(type));
    if (!is_aligned(out, size)) {
        throw std::invalid_argument("dequantize_blockwise_nf4: output that is not aligned to its element");
    }
    if (begin == end) return;
    // A group's place in `out` is a multiple of 16 bytes from where the value 0 would go.
    const char* value_zero = static_cast<const char*>(out) - begin * static_cast<int64_t>(size);
    const Range range{begin, end, __builtin_ctz(static_cast<unsigned>(view.blocksize)),
                      is_aligned(view.packed, 8) && is_aligned(value_zero, 16)};
    const int64_t groups = (end - 1) / kGroup - begin / kGroup + 1;
    const LaunchConfig config{dim3(grid_size(groups, kThreads)), dim3(kThreads)};
    with_elements(type, [&](auto elements) {
        launch<dequantize_groups<decltype(elements)>>(config, stream, view, range, out);
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
