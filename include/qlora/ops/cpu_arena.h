#pragma once

#include <cstdint>

namespace qlora::ops {

/// Bytes of tensors of 64 KB and more that live now, and that lived at the worst moment.
struct ArenaUse {
    std::int64_t live = 0;
    std::int64_t peak = 0;
};

/// Makes one best-fit arena the allocator of all CPU tensors from here on; call it before the first. glibc
/// gives large blocks back to the kernel after every operation, and faulting them in again costs up to a
/// tenth of a step. Returns false, and leaves LibTorch's allocator, where address space is limited (`ulimit
/// -v`).
bool install_cpu_arena();

/// Zeros when no arena is installed.
ArenaUse arena_use();
/// From here on `peak` counts anew, from what lives now.
void restart_arena_peak();

}  // namespace qlora::ops
