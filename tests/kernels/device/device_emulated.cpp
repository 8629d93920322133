#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include "grid.h"
#include "kernels/device/device.h"

namespace qlora::kernels {

namespace {
constexpr std::size_t kAlignment = 256;
constexpr unsigned char kGuard = 0xee;
}  // namespace

std::string device_name() {
    return "emulated";
}

bool device_available() {
    return true;
}

int64_t device_launches() {
    return emulation::finished_launches();
}

int64_t device_vector_accesses() {
    return emulation::vector_accesses();
}

void with_some_schedule(int64_t number, const std::function<void()>& body) {
    const std::vector<emulation::Schedule> schedules = emulation::all_schedules();
    const emulation::Schedule schedule = schedules[static_cast<std::size_t>(number) % schedules.size()];
    SCOPED_TRACE("schedule: " + to_string(schedule));
    emulation::set_schedule(schedule);
    body();
    emulation::set_schedule({});
}

void for_each_schedule(const std::function<void()>& body) {
    const int64_t count =
        emulation::checks_races() ? 1 : static_cast<int64_t>(emulation::all_schedules().size());
    for (int64_t number = 0; number < count; ++number) with_some_schedule(number, body);
}

/// AddressSanitizer knows the guards as poisoned, the race checker knows the content; else the guards are
/// compared.
struct DeviceMemory::Storage {
    explicit Storage(std::size_t size, std::size_t shift)
        : bytes(kAlignment + shift + size + kAlignment),
          begin(static_cast<unsigned char*>(::operator new (bytes, std::align_val_t{kAlignment}))),
          content(begin + kAlignment + shift),
          end(content + size) {
        std::memset(begin, kGuard, bytes);
    }
    ~Storage() {
        ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
        ::operator delete (begin, std::align_val_t{kAlignment});
    }
    Storage(const Storage&) = delete;
    Storage& operator=(const Storage&) = delete;

    void poison() const {
        // Eight bytes before the content share a poison mark with it unless it starts at a multiple of 8.
        ASAN_POISON_MEMORY_REGION(begin, static_cast<std::size_t>(content - begin) / 8 * 8);
        ASAN_POISON_MEMORY_REGION(end, static_cast<std::size_t>(begin + bytes - end));
    }

    std::size_t bytes;
    unsigned char* begin;
    unsigned char* content;
    unsigned char* end;
    std::optional<emulation::RegisteredBuffer> registered;
};

DeviceMemory::DeviceMemory(const void* content, std::size_t bytes, Access access, std::size_t shift)
    : storage_(new Storage(bytes, shift)), data_(storage_->content), bytes_(bytes) {
    if (bytes > 0) std::memcpy(data_, content, bytes);
    storage_->poison();
    using Registered = emulation::RegisteredBuffer::Access;
    storage_->registered.emplace(data_, bytes,
                                 access == Access::kInput ? Registered::kRead : Registered::kReadWrite);
}

DeviceMemory::~DeviceMemory() {
    delete storage_;
}

void DeviceMemory::download(void* to) const {
    const Storage& storage = *storage_;
    ASAN_UNPOISON_MEMORY_REGION(storage.begin, storage.bytes);
    const auto is_guard = [](unsigned char byte) { return byte == kGuard; };
    EXPECT_TRUE(std::all_of(storage.begin, storage.content, is_guard)) << "written before the buffer";
    EXPECT_TRUE(std::all_of(storage.end, storage.begin + storage.bytes, is_guard))
        << "written behind the buffer";
    if (bytes_ > 0) std::memcpy(to, data_, bytes_);
    storage.poison();
}

}  // namespace qlora::kernels
