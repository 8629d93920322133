#include "qlora/ops/compute_capability.h"

#include <c10/util/Exception.h>
#include <dlfcn.h>

namespace qlora::ops {
namespace {

// Of cuda.h, which is not needed to build the programs; the driver keeps these numbers for ever.
constexpr int kMajorAttribute = 75;
constexpr int kMinorAttribute = 76;
using Init = int (*)(unsigned flags);
using DeviceGet = int (*)(int* device, int ordinal);
using DeviceGetAttribute = int (*)(int* value, int attribute, int device);

}  // namespace

ComputeCapability compute_capability(at::Device gpu) {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    TORCH_CHECK(gpu.is_cuda() && driver != nullptr, "compute capability is asked of what is no GPU");
    const auto init = reinterpret_cast<Init>(dlsym(driver, "cuInit"));
    const auto get_device = reinterpret_cast<DeviceGet>(dlsym(driver, "cuDeviceGet"));
    const auto get = reinterpret_cast<DeviceGetAttribute>(dlsym(driver, "cuDeviceGetAttribute"));
    TORCH_CHECK(init != nullptr && get_device != nullptr && get != nullptr,
                "the NVIDIA driver is incomplete");
    int device = 0;
    ComputeCapability out;
    const bool answers = init(0) == 0 && get_device(&device, gpu.has_index() ? gpu.index() : 0) == 0 &&
                         get(&out.major, kMajorAttribute, device) == 0 &&
                         get(&out.minor, kMinorAttribute, device) == 0;
    TORCH_CHECK(answers, "the NVIDIA driver does not tell what the GPU can do");
    return out;
}

}  // namespace qlora::ops
