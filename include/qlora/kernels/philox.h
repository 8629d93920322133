#pragma once

#include <cmath>
#include <cstdint>

#include "qlora/kernels/host_device.h"

/// Counter-based random numbers: the value at a place is a function of the place, so nothing has to be stored
/// to resume, and CPU, GPU and a recomputed forward pass draw the same.
namespace qlora::kernels {

struct PhiloxBlock {
    uint32_t word[4];
};

/// Philox4x32 with ten rounds (Salmon et al. 2011), equal to Random123's.
QLORA_HOST_DEVICE inline PhiloxBlock philox4x32(PhiloxBlock counter, uint64_t key) {
    uint32_t key0 = static_cast<uint32_t>(key);
    uint32_t key1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t product0 = uint64_t{0xd2511f53u} * counter.word[0];
        const uint64_t product1 = uint64_t{0xcd9e8d57u} * counter.word[2];
        counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0,
                    static_cast<uint32_t>(product1),
                    static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1,
                    static_cast<uint32_t>(product0)}};
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    return counter;
}

/// The upper 24 bits as a float in [0, 1): every value is a multiple of 2^-24.
QLORA_HOST_DEVICE inline float uniform24(uint32_t word) {
    return static_cast<float>(word >> 8) * 0x1p-24f;
}

/// Random words of elements 4*quad .. 4*quad + 3 at one dropout site in one step.
QLORA_HOST_DEVICE inline PhiloxBlock dropout_words(uint64_t seed, uint32_t step, uint32_t site,
                                                   uint64_t quad) {
    return philox4x32({{static_cast<uint32_t>(quad), static_cast<uint32_t>(quad >> 32), site, step}}, seed);
}

/// Whether dropout of probability `p` keeps the element a word belongs to. p = 0 keeps all, p = 1 none.
QLORA_HOST_DEVICE inline bool dropout_keeps(uint32_t word, float p) {
    return uniform24(word) >= p;
}

/// `step` counts micro-batches over the whole run; `site` numbers the dropout layers of the model.
QLORA_HOST_DEVICE inline bool dropout_keep(uint64_t seed, uint32_t step, uint32_t site, uint64_t element,
                                           float p) {
    return dropout_keeps(dropout_words(seed, step, site, element / 4).word[element % 4], p);
}

/// Sequential draws from stream `stream` of a seed. Two streams never meet, and none meets the dropout words
/// of that seed.
class PhiloxStream {
  public:
    explicit PhiloxStream(uint64_t seed, uint64_t stream = 0) : key_(seed ^ kStreamKeys), stream_(stream) {}

    uint32_t next_word() {
        if (used_ == 4) refill();
        return block_.word[used_++];
    }
    uint64_t next_word64() {
        const uint64_t low = next_word();
        return low | static_cast<uint64_t>(next_word()) << 32;
    }

    /// [0, 1), a multiple of 2^-24.
    float uniform() { return uniform24(next_word()); }

    /// Normal with mean 0 and deviation 1 (Box-Muller in double, one of the pair), rounded to fp32.
    float normal() {
        constexpr double kTwoPi = 6.283185307179586476925286766559;
        const double radius_uniform = static_cast<double>((next_word64() >> 11) + 1) * 0x1p-53;  // (0, 1]
        const double angle_uniform = static_cast<double>(next_word64() >> 11) * 0x1p-53;         // [0, 1)
        return static_cast<float>(std::sqrt(-2.0 * std::log(radius_uniform)) *
                                  std::cos(kTwoPi * angle_uniform));
    }

    /// Every integer of [0, bound) equally likely; bound > 0. For shuffling.
    uint64_t below(uint64_t bound) {
        const uint64_t incomplete =
            (0 - bound) % bound;  // 2^64 mod bound: draws below it would favour some results
        uint64_t draw = next_word64();
        while (draw < incomplete) draw = next_word64();
        return draw % bound;
    }

  private:
    static constexpr uint64_t kStreamKeys = 0x716c6f7261727367u;

    void refill() {
        block_ = philox4x32({{static_cast<uint32_t>(index_), static_cast<uint32_t>(index_ >> 32),
                              static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)}},
                            key_);
        ++index_;
        used_ = 0;
    }

    uint64_t key_;
    uint64_t stream_;
    uint64_t index_ = 0;
    PhiloxBlock block_{};
    int used_ = 4;
};

}  // namespace qlora::kernels
