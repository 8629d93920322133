#include "merge_table.h"

#include <algorithm>
#include <bit>

namespace qlora::tokenizer {

MergeTable::MergeTable(std::size_t expected_merges)
    : slots_(std::bit_ceil(std::max<std::size_t>(expected_merges * 2, 2))), mask_(slots_.size() - 1) {
    results_.reserve(expected_merges);
}

void MergeTable::add(TokenId left, TokenId right, TokenId result) {
    const std::uint64_t key = key_of(left, right);
    Slot& slot = slots_[slot_of(key)];
    slot.key = key;
    slot.rank = static_cast<std::int32_t>(results_.size());
    results_.push_back(result);
}

}  // namespace qlora::tokenizer
