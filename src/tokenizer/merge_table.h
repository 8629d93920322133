#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "qlora/tokenizer/tokenizer.h"

namespace qlora::tokenizer {

/// From a pair of tokens to the rank of their merge and the token it makes. Open addressing in one array: a
/// long word asks it several times a byte.
class MergeTable {
  public:
    static constexpr std::int32_t kNone = -1;

    explicit MergeTable(std::size_t expected_merges = 0);

    /// The next rank; a pair that is given again takes the later one.
    void add(TokenId left, TokenId right, TokenId result);
    /// kNone: the pair does not merge.
    std::int32_t rank(TokenId left, TokenId right) const { return slots_[slot_of(key_of(left, right))].rank; }
    TokenId result(std::int32_t rank) const { return results_[static_cast<std::size_t>(rank)]; }

  private:
    struct Slot {
        std::uint64_t key = kFree;
        std::int32_t rank = kNone;
    };
    static constexpr std::uint64_t kFree = ~std::uint64_t{0};  // no pair: ids are not negative

    static std::uint64_t key_of(TokenId left, TokenId right) {
        return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
    }
    // The slot of `key`, or the free one where it belongs; at most half of them are taken.
    std::size_t slot_of(std::uint64_t key) const {
        std::uint64_t mixed = key * 0x9E3779B97F4A7C15u;
        std::size_t at = static_cast<std::size_t>(mixed ^ mixed >> 32) & mask_;
        while (slots_[at].key != key && slots_[at].key != kFree) at = (at + 1) & mask_;
        return at;
    }

    std::vector<Slot> slots_;
    std::vector<TokenId> results_;  // by rank
    std::size_t mask_;
};

}  // namespace qlora::tokenizer
