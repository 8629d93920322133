#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>

#include "kernels/device/device.h"

namespace qlora::kernels {

namespace {

constexpr std::size_t kAlignment = 256;
constexpr unsigned char kGuard = 0xee;

void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

}  // namespace

std::string device_name() {
    return "cuda";
}

bool device_available() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

int64_t device_launches() {
    return -1;
}

int64_t device_vector_accesses() {
    return -1;
}

void with_some_schedule(int64_t, const std::function<void()>& body) {
    body();
}

void for_each_schedule(const std::function<void()>& body) {
    body();
}

struct DeviceMemory::Storage {
    explicit Storage(std::size_t size, std::size_t shift)
        : bytes(kAlignment + shift + size + kAlignment), front(kAlignment + shift) {
        void* memory = nullptr;
        check(cudaMalloc(&memory, bytes));
        begin = static_cast<unsigned char*>(memory);
        check(cudaMemset(begin, kGuard, bytes));
    }
    ~Storage() { cudaFree(begin); }
    Storage(const Storage&) = delete;
    Storage& operator=(const Storage&) = delete;

    std::size_t bytes, front;
    unsigned char* begin = nullptr;
};

DeviceMemory::DeviceMemory(const void* content, std::size_t bytes, Access, std::size_t shift)
    : storage_(new Storage(bytes, shift)), data_(storage_->begin + storage_->front), bytes_(bytes) {
    if (bytes > 0) check(cudaMemcpy(data_, content, bytes, cudaMemcpyHostToDevice));
}

DeviceMemory::~DeviceMemory() {
    delete storage_;
}

void DeviceMemory::download(void* to) const {
    check(cudaDeviceSynchronize());
    std::vector<unsigned char> all(storage_->bytes);
    check(cudaMemcpy(all.data(), storage_->begin, all.size(), cudaMemcpyDeviceToHost));
    const auto is_guard = [](unsigned char byte) { return byte == kGuard; };
    const auto content = all.begin() + static_cast<std::ptrdiff_t>(storage_->front);
    const auto end = content + static_cast<std::ptrdiff_t>(bytes_);
    EXPECT_TRUE(std::all_of(all.begin(), content, is_guard)) << "written before the buffer";
    EXPECT_TRUE(std::all_of(end, all.end(), is_guard)) << "written behind the buffer";
    std::copy(content, end, static_cast<unsigned char*>(to));
}

}  // namespace qlora::kernels
