#include "block_state.h"

namespace qlora::emulation {
namespace {

StoreSectors* watching = nullptr;

}  // namespace

StoreSectors::StoreSectors() {
    watching = this;
}
StoreSectors::~StoreSectors() {
    watching = nullptr;
}

void StoreSectors::note(int64_t block, int warp, int64_t number, const void* address, std::size_t bytes) {
    bytes_ += static_cast<int64_t>(bytes);
    const auto begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
    for (uintptr_t sector = begin / kSectorBytes; sector * kSectorBytes < end; ++sector) {
        touched_.emplace(block, warp, number, sector);
    }
}

void vector_store(const void* address, std::size_t bytes, Site site) {
    vector_access(address, bytes, site);
    Thread& thread = *running_thread();
    const int64_t number = thread.vector_stores++;
    if (watching == nullptr) return;
    const Block& block = running_block();
    const Size3 &at = block.index, &grid = block.shape.grid;
    const int64_t linear = (int64_t{at.z} * grid.y + at.y) * grid.x + at.x;
    watching->note(linear, thread.number / kWarpSize, number, address, bytes);
}

}  // namespace qlora::emulation
