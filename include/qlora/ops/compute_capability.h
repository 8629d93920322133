#pragma once

#include <c10/core/Device.h>

#include <string>

namespace qlora::ops {

/// Version of a GPU's instructions, as NVIDIA counts them: 7.5, 8.0, 9.0.
struct ComputeCapability {
    int major = 0;
    int minor = 0;

    auto operator<=>(const ComputeCapability&) const = default;
    std::string text() const { return std::to_string(major) + "." + std::to_string(minor); }
};

/// Of a GPU that `select_device` gave, as its driver says.
ComputeCapability compute_capability(at::Device gpu);

}  // namespace qlora::ops
