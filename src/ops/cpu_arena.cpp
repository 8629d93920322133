#include "qlora/ops/cpu_arena.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>

namespace qlora::ops {
namespace {

/// Smaller tensors go to malloc, which is good at them.
constexpr std::size_t kSmallest = 64 << 10;
constexpr std::size_t kPage = 4096;
/// Blocks begin and end at cache lines, not at pages: tensors of so many tokens are multiples of each other,
/// and two of one half fit into the hole that a whole one leaves.
constexpr std::size_t kLine = 64;

/// One mapping, cut into blocks. A block is taken from the smallest hole that holds it; freed neighbours
/// become one hole. (Free lists by size keep the peak of every size at once: three times the memory on ragged
/// batches.)
class Arena final : public c10::Allocator {
  public:
    Arena(char* base, std::size_t size) : base_(base), size_(size) {
        blocks_[0] = {.size = size, .free = true};
        holes_.insert({size, 0});
    }

    c10::DataPtr allocate(std::size_t bytes) override {
        void* data = bytes == 0 ? nullptr : take(bytes);
        return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void* to, const void* from, std::size_t count) const override {
        default_copy_data(to, from, count);
    }
    ArenaUse use() {
        const std::lock_guard lock(mutex_);
        return use_;
    }

    void restart_peak() {
        const std::lock_guard lock(mutex_);
        use_.peak = use_.live;
    }

    static Arena* instance;

  private:
    struct Block {
        std::size_t size;
        bool free;
    };

    static void release(void* data) {
        if (data == nullptr) return;
        if (instance->owns(data)) {
            instance->give_back(data);
        } else {
            c10::free_cpu(data);
        }
    }

    bool owns(const void* data) const {
        const auto* at = static_cast<const char*>(data);
        return at >= base_ && at < base_ + size_;
    }

    void* take(std::size_t bytes) {
        if (bytes < kSmallest) return c10::alloc_cpu(bytes);
        const std::size_t wanted = (bytes + kLine - 1) / kLine * kLine;
        const std::lock_guard lock(mutex_);
        const auto hole = holes_.lower_bound({wanted, 0});
        if (hole == holes_.end()) return c10::alloc_cpu(bytes);
        const auto [size, offset] = *hole;
        holes_.erase(hole);
        blocks_[offset] = {.size = wanted, .free = false};
        if (size > wanted) add_hole(offset + wanted, size - wanted);
        use_.live += static_cast<std::int64_t>(wanted);
        use_.peak = std::max(use_.peak, use_.live);
        return base_ + offset;
    }

    void give_back(void* data) {
        const auto offset = static_cast<std::size_t>(static_cast<char*>(data) - base_);
        const std::lock_guard lock(mutex_);
        auto block = blocks_.find(offset);
        use_.live -= static_cast<std::int64_t>(block->second.size);
        std::size_t begin = offset, size = block->second.size;
        if (const auto next = std::next(block); next != blocks_.end() && next->second.free) {
            size += next->second.size;
            remove_hole(next);
        }
        if (block != blocks_.begin()) {
            if (const auto before = std::prev(block); before->second.free) {
                begin = before->first;
                size += before->second.size;
                remove_hole(before);
            }
        }
        blocks_.erase(offset);
        add_hole(begin, size);
    }

    void add_hole(std::size_t offset, std::size_t size) {
        blocks_[offset] = {.size = size, .free = true};
        holes_.insert({size, offset});
    }
    void remove_hole(std::map<std::size_t, Block>::iterator block) {
        holes_.erase({block->second.size, block->first});
        blocks_.erase(block);
    }

    char* base_;
    std::size_t size_;
    std::mutex mutex_;
    std::map<std::size_t, Block> blocks_;                  // by offset
    std::set<std::pair<std::size_t, std::size_t>> holes_;  // size, offset
    ArenaUse use_;
};

Arena* Arena::instance = nullptr;

bool is_address_space_limited() {
    rlimit limit{};
    return getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY;
}

}  // namespace

bool install_cpu_arena() {
    if (Arena::instance != nullptr) return true;
    if (is_address_space_limited()) return false;
    const auto memory = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * kPage;
    const std::size_t size = 2 * memory;
    void* base =
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return false;
    madvise(base, size, MADV_HUGEPAGE);
    Arena::instance = new Arena(static_cast<char*>(base), size);  // tensors may outlive everything else
    c10::SetCPUAllocator(Arena::instance, 1);
    return true;
}

ArenaUse arena_use() {
    return Arena::instance == nullptr ? ArenaUse{} : Arena::instance->use();
}

void restart_arena_peak() {
    if (Arena::instance != nullptr) Arena::instance->restart_peak();
}

}  // namespace qlora::ops
