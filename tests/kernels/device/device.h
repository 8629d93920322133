#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "qlora/kernels/cuda_kernels.h"

/// The device a test program is built for: `emulated` (device_emulated.cpp) or `cuda` (device_cuda.cpp). Test
/// bodies are the same for both.
namespace qlora::kernels {

namespace device = QLORA_KERNEL_BACKEND;

/// "emulated" or "cuda".
std::string device_name();

/// Whether a kernel can run: always on the emulated grid, where a GPU and a driver are on the other.
bool device_available();

/// Launches of this program that ran, or were queued, so far; -1 where nobody counts.
int64_t device_launches();

/// Vector loads and stores of kernels so far; -1 where nobody counts.
int64_t device_vector_accesses();

/// Calls `body` under every order of threads that the emulated grid knows; once on a GPU and with the race
/// checker, which needs no more.
void for_each_schedule(const std::function<void()>& body);

/// Calls `body` under one order of threads, another for each `number`.
void with_some_schedule(int64_t number, const std::function<void()>& body);

enum class Access : uint8_t { kInput, kOutput };

/// Device memory with guard bytes on both sides, `shift` bytes past a multiple of 256.
class DeviceMemory {
  public:
    DeviceMemory(const void* content, std::size_t bytes, Access access, std::size_t shift);
    ~DeviceMemory();
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    void* data() const { return data_; }

    /// Waits for the device, copies the content and fails the test if a guard byte was written.
    void download(void* to) const;

  private:
    struct Storage;
    Storage* storage_;
    void* data_;
    std::size_t bytes_;
};

template <class T>
class DeviceArray {
  public:
    explicit DeviceArray(const std::vector<T>& content, Access access = Access::kInput, std::size_t shift = 0)
        : count_(content.size()), memory_(content.data(), content.size() * sizeof(T), access, shift) {}

    T* data() const { return static_cast<T*>(memory_.data()); }
    std::vector<T> download() const {
        std::vector<T> content(count_);
        memory_.download(content.data());
        return content;
    }

  private:
    std::size_t count_;
    DeviceMemory memory_;
};

/// Skips where there is no device.
class OnDevice : public testing::Test {
  protected:
    void SetUp() override {
        if (!device_available()) GTEST_SKIP() << "no " << device_name() << " device on this machine";
    }
};

}  // namespace qlora::kernels
