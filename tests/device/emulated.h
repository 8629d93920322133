#pragma once

/// The kernels compiled for the emulated grid. Comes before every other header of the project.
#define QLORA_KERNEL_BACKEND emulated

#include "qlora/kernels/kernel_table.h"
