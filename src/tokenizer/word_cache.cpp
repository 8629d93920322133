#include "word_cache.h"

#include <cstring>
#include <functional>
#include <new>

namespace qlora::tokenizer {
namespace {

constexpr std::size_t kWords = std::size_t{1} << 17;
constexpr std::size_t kSlots = 2 * kWords;
constexpr std::size_t kWordBytes = 64;
constexpr std::size_t kChunkBytes = std::size_t{1} << 16;

}  // namespace

struct WordCache::Entry {
    std::size_t hash;
    std::uint32_t word_bytes;
    std::uint32_t token_count;

    const WordToken* tokens() const { return reinterpret_cast<const WordToken*>(this + 1); }
    std::string_view word() const {
        return {reinterpret_cast<const char*>(tokens() + token_count), word_bytes};
    }
};

WordCache::WordCache() : slots_(std::make_unique<std::atomic<const Entry*>[]>(kSlots)) {}

std::atomic<const WordCache::Entry*>& WordCache::slot_of(std::string_view word, std::size_t hash) const {
    for (std::size_t at = hash % kSlots;; at = (at + 1) % kSlots) {
        const Entry* entry = slots_[at].load(std::memory_order_acquire);
        if (entry == nullptr || (entry->hash == hash && entry->word() == word)) return slots_[at];
    }
}

bool WordCache::find(std::string_view word, std::vector<WordToken>& out) const {
    if (word.size() > kWordBytes) return false;
    const Entry* entry = slot_of(word, std::hash<std::string_view>{}(word)).load(std::memory_order_acquire);
    if (entry == nullptr) return false;
    out.assign(entry->tokens(), entry->tokens() + entry->token_count);
    return true;
}

void WordCache::add(std::string_view word, const std::vector<WordToken>& tokens) {
    if (word.size() > kWordBytes) return;
    const std::size_t hash = std::hash<std::string_view>{}(word);
    const std::lock_guard lock(adding_);
    std::atomic<const Entry*>& slot = slot_of(word, hash);
    if (words_ == kWords || slot.load(std::memory_order_relaxed) != nullptr) return;
    const std::size_t token_bytes = tokens.size() * sizeof(WordToken);
    std::byte* place = room_for(sizeof(Entry) + token_bytes + word.size());
    const auto* entry = new (place)
        Entry{hash, static_cast<std::uint32_t>(word.size()), static_cast<std::uint32_t>(tokens.size())};
    if (!tokens.empty()) std::memcpy(place + sizeof(Entry), tokens.data(), token_bytes);
    std::memcpy(place + sizeof(Entry) + token_bytes, word.data(), word.size());
    slot.store(entry, std::memory_order_release);
    ++words_;
}

std::byte* WordCache::room_for(std::size_t bytes) {
    bytes = (bytes + alignof(Entry) - 1) / alignof(Entry) * alignof(Entry);
    if (chunks_.empty() || used_ + bytes > kChunkBytes) {
        chunks_.push_back(std::make_unique<std::byte[]>(kChunkBytes));
        used_ = 0;
    }
    std::byte* place = chunks_.back().get() + used_;
    used_ += bytes;
    return place;
}

}  // namespace qlora::tokenizer
