#pragma once

/// Per-element math is written once and compiled for host and device.
#if defined(__CUDACC__)
#define QLORA_HOST_DEVICE __host__ __device__
#else
#define QLORA_HOST_DEVICE
#endif
