#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>

namespace qlora::emulation {

/// A call stack of its own, resumed and suspended by hand. It runs its body again and again: `finished` tells
/// when one run ended, `begin` readies the next. Stacks are never unmapped.
class Fiber {
  public:
    static constexpr std::size_t kStackBytes = 128 * 1024;

    Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    /// The next resume starts `body(data)`; a run that was abandoned midway is forgotten, not unwound.
    void begin(void (*body)(void*), void* data);

    /// Runs the body until it suspends, abandons itself or ends. Called from outside any fiber.
    void resume();

    /// Back to the caller of resume; returns at the next resume. Called inside the fiber.
    void suspend();

    /// Back to the caller of resume for good. Called inside the fiber.
    [[noreturn]] void abandon();

    bool finished() const { return finished_; }
    bool owns(const void* address) const {
        return address >= stack_ && address < static_cast<const char*>(stack_) + kStackBytes;
    }

  private:
    static void entry(boost::context::detail::transfer_t from);

    void* stack_;                                           // lowest address; a guard page lies below
    boost::context::detail::fcontext_t context_ = nullptr;  // where resume continues
    boost::context::detail::fcontext_t caller_ = nullptr;   // where suspend returns to
    void (*body_)(void*) = nullptr;
    void* data_ = nullptr;
    bool finished_ = true;
};

}  // namespace qlora::emulation
