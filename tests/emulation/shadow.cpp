#include "shadow.h"

// Set by the linker and the C start-up code: below the first only code and constants, between them the
// program's static variables.
extern "C" {
extern const char __executable_start, __data_start, _end;
}

namespace qlora::emulation::race_check {

namespace {
constexpr uintptr_t kPageBytes = 256;
}

Shadow::Region::Region(const void* from, std::size_t bytes, bool may_write)
    : begin(static_cast<const char*>(from)),
      end(begin + bytes),
      writable(may_write),
      cells(std::make_unique<Cell[]>(bytes)) {}

void Shadow::add_buffer(const void* begin, std::size_t bytes, bool writable) {
    Region region(begin, bytes, writable);
    buffers_[region.begin] = std::move(region);
    recent_ = nullptr;
}

void Shadow::remove_buffer(const void* begin) {
    buffers_.erase(static_cast<const char*>(begin));
    recent_ = nullptr;
}

Place Shadow::find(const void* pointer) {
    const char* address = static_cast<const char*>(pointer);
    if (recent_ == nullptr || !recent_->has(address)) {
        auto above = buffers_.upper_bound(address);
        Region* region = above == buffers_.begin() ? nullptr : &std::prev(above)->second;
        recent_ = region != nullptr && region->has(address) ? region : nullptr;
    }
    if (recent_ != nullptr)
        return {Space::kGlobal, recent_->writable, &recent_->cells[address - recent_->begin]};
    if (address >= &__data_start && address < &_end) {
        const uintptr_t place = reinterpret_cast<uintptr_t>(address);
        if (recent_page_cells_ == nullptr || recent_page_ != place / kPageBytes) {
            recent_page_ = place / kPageBytes;
            std::unique_ptr<Cell[]>& cells = static_pages_[recent_page_];
            if (cells == nullptr) cells = std::make_unique<Cell[]>(kPageBytes);
            recent_page_cells_ = cells.get();
        }
        return {Space::kShared, true, &recent_page_cells_[place % kPageBytes]};
    }
    if (address >= &__executable_start && address < &__data_start) return {Space::kConstant, false, nullptr};
    return {};
}

}  // namespace qlora::emulation::race_check
