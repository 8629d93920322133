#include <algorithm>
#include <stdexcept>

#include "load_float.h"
#include "paths.h"
#include "qlora/kernels/codebook.h"

namespace qlora::kernels::cpu {

namespace {

/// Values [begin, end) lie in one block.
template <class Elements>
void dequantize_run(const uint8_t* packed, int64_t begin, int64_t end, float absmax, void* out) {
    int64_t i = begin;
    int64_t to = 0;
    if (i < end && i % 2 == 1) Elements::store(out, to++, decode_nf4(code_at(packed, i++)) * absmax);
    for (; i + 1 < end; i += 2, to += 2) {
        const uint8_t pair = packed[i / 2];
        Elements::store(out, to, decode_nf4(first_code(pair)) * absmax);
        Elements::store(out, to + 1, decode_nf4(second_code(pair)) * absmax);
    }
    if (i < end) Elements::store(out, to, decode_nf4(code_at(packed, i)) * absmax);
}

void portable_run(const uint8_t* packed, int64_t begin, int64_t end, float absmax, void* out,
                  FloatType type) {
    switch (type) {
        case FloatType::kF32:
            return dequantize_run<F32Elements>(packed, begin, end, absmax, out);
        case FloatType::kF16:
            return dequantize_run<F16Elements>(packed, begin, end, absmax, out);
        case FloatType::kBF16:
            return dequantize_run<BF16Elements>(packed, begin, end, absmax, out);
    }
}

DequantizeBlocks* vector_blocks() {
    if (runs_avx512()) return avx512::dequantize_blocks_nf4;
    if (runs_avx2()) return avx2::dequantize_blocks_nf4;
    return nullptr;
}

}  // namespace

void dequantize_blockwise_nf4(const Nf4View& view, int64_t begin, int64_t end, void* out, FloatType type) {
    if (!is_valid_blocksize(view.blocksize))
        throw std::invalid_argument("dequantize_blockwise_nf4: blocksize");
    if (begin < 0 || end < begin || end > view.n) {
        throw std::invalid_argument("dequantize_blockwise_nf4: range outside the tensor");
    }
    DequantizeBlocks* const in_vectors = vector_blocks();
    const int64_t size = view.blocksize, last_whole = end / size;
    const auto place = [&](int64_t value) {
        return static_cast<char*>(out) + (value - begin) * float_bytes(type);
    };
    for (int64_t run = begin; run < end;) {
        int64_t block = run / size;
        if (in_vectors != nullptr && run == block * size && block < last_whole) {
            block = in_vectors(view, block, last_whole, place(run), type);
            run = block * size;
            if (block == last_whole) continue;
        }
        const int64_t run_end = std::min((block + 1) * size, end);
        portable_run(view.packed, run, run_end, absmax_of(view, block), place(run), type);
        run = run_end;
    }
}

void dequantize_blockwise_nf4(const Nf4View& view, void* out, FloatType type) {
    dequantize_blockwise_nf4(view, 0, view.n, out, type);
}

}  // namespace qlora::kernels::cpu
