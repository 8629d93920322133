#include <algorithm>
#include <stdexcept>

#include "load_float.h"
#include "paths.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/codebook.h"
#include "qlora/kernels/dynamic_code.h"

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

/// The middle of a run that starts at an even value goes through the vector path.
void avx2_run(const uint8_t* packed, int64_t begin, int64_t end, float absmax, void* out, FloatType type) {
    char* to = static_cast<char*>(out);
    const int64_t even = std::min(begin + begin % 2, end);
    const int64_t count = (end - even) / 16 * 16;
    if (count == 0 || !is_finite(absmax)) return portable_run(packed, begin, end, absmax, out, type);
    if (even > begin) portable_run(packed, begin, even, absmax, to, type);
    avx2::dequantize_run_nf4(packed + even / 2, count, absmax, to + (even - begin) * float_bytes(type), type);
    if (even + count == end) return;
    portable_run(packed, even + count, end, absmax, to + (even + count - begin) * float_bytes(type), type);
}

}  // namespace

void dequantize_blockwise_nf4(const Nf4View& view, int64_t begin, int64_t end, void* out, FloatType type) {
    if (!is_valid_blocksize(view.blocksize))
        throw std::invalid_argument("dequantize_blockwise_nf4: blocksize");
    if (begin < 0 || end < begin || end > view.n) {
        throw std::invalid_argument("dequantize_blockwise_nf4: range outside the tensor");
    }
    const bool vectors = runs_avx2();
    char* to = static_cast<char*>(out);
    for (int64_t run = begin; run < end;) {
        const int64_t block = run / view.blocksize;
        const int64_t run_end = std::min<int64_t>((block + 1) * view.blocksize, end);
        float absmax = 0.0f;
        if (view.absmax.values != nullptr) {
            absmax = view.absmax.values[block];
        } else {
            absmax = decode_absmax(kSignedDynamicMap.value, view.absmax.codes[block],
                                   view.absmax.nested_absmax[block / kNestedBlocksize], view.absmax.offset);
        }
        (vectors ? avx2_run : portable_run)(view.packed, run, run_end, absmax, to, type);
        to += (run_end - run) * float_bytes(type);
        run = run_end;
    }
}

void dequantize_blockwise_nf4(const Nf4View& view, void* out, FloatType type) {
    dequantize_blockwise_nf4(view, 0, view.n, out, type);
}

}  // namespace qlora::kernels::cpu
