#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace qlora::emulation {

namespace context = boost::context::detail;

namespace {

// AddressSanitizer has to be told of every change of stack.
#if defined(__SANITIZE_ADDRESS__)
const void* outside_stack = nullptr;
std::size_t outside_stack_bytes = 0;

void leave_for(void** fake_stack, const void* stack, std::size_t bytes) {
    __sanitizer_start_switch_fiber(fake_stack, stack, bytes);
}
void leave_for_outside(void** fake_stack) {
    leave_for(fake_stack, outside_stack, outside_stack_bytes);
}
void arrive_outside(void* fake_stack) {
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}
void arrive_inside(void* fake_stack) {
    __sanitizer_finish_switch_fiber(fake_stack, &outside_stack, &outside_stack_bytes);
}
void forget_frames(void* stack) {
    __asan_unpoison_memory_region(stack, Fiber::kStackBytes);
}
#else
void leave_for(void**, const void*, std::size_t) {}
void leave_for_outside(void**) {}
void arrive_outside(void*) {}
void arrive_inside(void*) {}
void forget_frames(void*) {}
#endif

}  // namespace

Fiber::Fiber() {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* mapping = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED || mprotect(mapping, page, PROT_NONE) != 0) throw std::bad_alloc();
    stack_ = static_cast<char*>(mapping) + page;
}

void Fiber::begin(void (*body)(void*), void* data) {
    if (!finished_) {
        forget_frames(stack_);
        context_ = nullptr;
    }
    body_ = body;
    data_ = data;
    finished_ = false;
    if (context_ == nullptr) {
        context_ = context::make_fcontext(static_cast<char*>(stack_) + kStackBytes, kStackBytes, entry);
    }
}

void Fiber::resume() {
    void* fake_stack = nullptr;
    leave_for(&fake_stack, stack_, kStackBytes);
    const context::transfer_t from = context::jump_fcontext(context_, this);
    arrive_outside(fake_stack);
    context_ = from.fctx;
}

void Fiber::suspend() {
    void* fake_stack = nullptr;
    leave_for_outside(&fake_stack);
    const context::transfer_t from = context::jump_fcontext(caller_, nullptr);
    arrive_inside(fake_stack);
    caller_ = from.fctx;
}

void Fiber::abandon() {
    leave_for_outside(nullptr);
    context::jump_fcontext(caller_, nullptr);
    std::abort();
}

void Fiber::entry(context::transfer_t from) {
    arrive_inside(nullptr);
    Fiber& self = *static_cast<Fiber*>(from.data);
    self.caller_ = from.fctx;
    for (;;) {
        self.body_(self.data_);
        self.finished_ = true;
        self.suspend();
    }
}

}  // namespace qlora::emulation
