#pragma once

#include <cstddef>

#include "block_state.h"

/// What the scheduler tells the race checker. race_check.cpp implements it, race_check_off.cpp does nothing:
/// a program is linked with one of them.
namespace qlora::emulation::race_check {

/// `arguments` is where the launch keeps the kernel's arguments.
void launch_started(const void* arguments, std::size_t argument_bytes);
void block_started(const Block& block);

/// __syncthreads orders all that the block did before it and after it.
void barrier_passed();

/// __syncwarp does so for the lanes of the mask; a shuffle or vote does not.
void warp_synced(int warp, unsigned mask);

}  // namespace qlora::emulation::race_check
