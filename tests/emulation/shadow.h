#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "device_runtime.h"

/// The race checker's memory of memory: for every byte the last write and the reads since.
namespace qlora::emulation::race_check {

/// When and by whom: `launch` and `block` count up through the program, `epoch` counts the block's barriers,
/// `stamp` the warp's __syncwarps.
struct Moment {
    uint32_t launch = 0;
    uint32_t block = 0;
    uint32_t epoch = 0;
    uint32_t stamp = 0;
    uint16_t thread = 0;
    const void* code = nullptr;  ///< return address of the access
    Site site{};                 ///< of an atomic access, instead
};

struct Write : Moment {
    bool atomic = false;
    bool several_threads = false;  ///< atomics of other threads of this block and epoch went before
    bool several_blocks = false;   ///< atomics of other blocks of this launch went before
};

struct Reads : Moment {  ///< the latest one
    uint32_t lanes = 0;  ///< of its warp that read in this epoch, not ordered by __syncwarp
    bool several_warps = false;
    bool several_blocks = false;
};

struct Cell {
    Write write;
    Reads reads;
};

enum class Space : uint8_t { kNone, kGlobal, kShared, kConstant };

struct Place {
    Space space = Space::kNone;
    bool writable = false;
    Cell* cell = nullptr;  ///< of global and shared memory
};

class Shadow {
  public:
    void add_buffer(const void* begin, std::size_t bytes, bool writable);
    void remove_buffer(const void* begin);

    Place find(const void* address);

  private:
    struct Region {
        const char* begin = nullptr;
        const char* end = nullptr;
        bool writable = true;
        std::unique_ptr<Cell[]> cells;

        Region() = default;
        Region(const void* from, std::size_t bytes, bool may_write);
        bool has(const char* address) const { return address >= begin && address < end; }
    };

    std::map<const char*, Region> buffers_;
    Region* recent_ = nullptr;
    std::map<uintptr_t, std::unique_ptr<Cell[]>> static_pages_;
    uintptr_t recent_page_ = 0;
    Cell* recent_page_cells_ = nullptr;
};

}  // namespace qlora::emulation::race_check
