#include "qlora/ops/device.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <dlfcn.h>

#include "kernel_plugin.h"
#include "qlora/core/device_name.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora::ops {
namespace {

constexpr const char* kKernelLibrary = "libqlora_kernels_cuda.so";

const kernels::KernelTable* cpu_kernels = nullptr;
const kernels::KernelTable* cuda_kernels = nullptr;

std::string load_fault(const char* library) {
    const char* reason = dlerror();
    return std::string(library) + " cannot be loaded (" + (reason != nullptr ? reason : "no reason given") +
           ")";
}

/// Makes CUDA usable: driver, LibTorch's CUDA library, a GPU, the kernels, in the order in which a machine
/// without them is told apart fastest. Returns what is missing, or nothing.
std::string load_cuda() {
    if (!has_nvidia_driver()) {
        return "this machine has no NVIDIA driver (libcuda.so.1 was not found)";
    }
    if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
        return load_fault("libtorch_cuda.so") + "; a LibTorch with CUDA is needed";
    }
    if (!at::globalContext().hasCUDA() || at::accelerator::deviceCount() == 0) {
        return "the NVIDIA driver shows no GPU";
    }
    void* library = dlopen(kKernelLibrary, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        return load_fault(kKernelLibrary) + "; the CUDA kernels are built by the preset cuda";
    }
    if (std::string fault = kernel_plugin_fault(library); !fault.empty()) {
        return std::string(kKernelLibrary) + fault;
    }
    const auto table =
        reinterpret_cast<kernels::KernelTableFunction>(dlsym(library, kernels::kKernelTableSymbol));
    cuda_kernels = table();
    return {};
}

}  // namespace

bool has_nvidia_driver() {
    return dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) != nullptr;
}

std::string cuda_fault() {
    static const std::string fault = load_cuda();
    return fault;
}

at::Device select_device(const std::string& name, const std::string& setting) {
    const std::optional<DeviceName> wanted = parse_device_name(name);
    if (!wanted) throw ConfigError(setting + ": " + wrong_device_name(name));
    if (wanted->kind == DeviceName::Kind::kCpu) return at::kCPU;
    if (wanted->kind == DeviceName::Kind::kAuto && !cuda_fault().empty()) {
        if (has_nvidia_driver()) spdlog::warn("{}: auto takes the CPU, because {}", setting, cuda_fault());
        return at::kCPU;
    }
    if (!cuda_fault().empty()) {
        throw ConfigError(setting + ": '" + name + "' was asked for, but " + cuda_fault() +
                          R"(; use "cpu" or "auto")");
    }
    const auto count = static_cast<int>(at::accelerator::deviceCount());
    if (wanted->index >= count) {
        throw ConfigError(setting + ": '" + name + "' was asked for, but this machine has " +
                          std::to_string(count) + (count == 1 ? " GPU" : " GPUs") + ", counted from cuda:0");
    }
    const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(wanted->index));
    at::accelerator::setDeviceIndex(device.index());
    return device;
}

const kernels::KernelTable* device_kernels(at::Device device) {
    return device.is_cuda() ? cuda_kernels : cpu_kernels;
}

void* current_stream(const at::Tensor& x) {
    if (!x.is_cuda()) return nullptr;
    return at::accelerator::getCurrentStream(x.device().index()).native_handle();
}

std::int64_t free_device_bytes(at::Device device) {
    return static_cast<std::int64_t>(at::accelerator::getMemoryInfo(device.index()).first);
}

std::int64_t peak_device_bytes(at::Device device) {
    constexpr auto kAll = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return at::accelerator::getDeviceStats(device.index()).reserved_bytes[kAll].peak;
}

void use_deterministic_algorithms() {
    // cuBLAS reads it when its first handle is made.
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
    at::globalContext().setDeterministicAlgorithms(true, false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
}

kernels::FloatType float_type(at::ScalarType dtype) {
    switch (dtype) {
        case at::kHalf:
            return kernels::FloatType::kF16;
        case at::kBFloat16:
            return kernels::FloatType::kBF16;
        default:
            TORCH_CHECK(dtype == at::kFloat, "dtype must be float32, float16 or bfloat16");
    }
    return kernels::FloatType::kF32;
}

CpuKernelsGuard::CpuKernelsGuard(const kernels::KernelTable& table) {
    TORCH_CHECK(cpu_kernels == nullptr, "one set of kernels at a time");
    cpu_kernels = &table;
}

CpuKernelsGuard::~CpuKernelsGuard() {
    cpu_kernels = nullptr;
}

}  // namespace qlora::ops
