#pragma once

#include <cstddef>
#include <cstdint>

#include "qlora/jinja/template.h"

namespace qlora::jinja {

/// What one rendering may still use, and where it stands. Throws RenderError when a limit is reached.
class Budget {
  public:
    Budget(const Limits& limits, const std::string& name) : limits_(limits), name_(name) {}

    const Limits& limits() const { return limits_; }

    void set_line(int line) { line_ = line; }
    int line() const { return line_; }

    void step(std::int64_t count = 1) {
        steps_ += count;
        if (steps_ > limits_.steps) exhausted_steps();
    }
    /// Work that grows with a text's length: bytes that are copied. What is looked at one character at a time
    /// costs kScan times as much, so that all steps take about the same time.
    void touch(std::size_t bytes) { step(static_cast<std::int64_t>(bytes / 64)); }
    static constexpr std::size_t kScan = 12;
    void allocate(std::size_t bytes) {
        live_ += bytes;
        if (live_ > limits_.live_bytes) exhausted_memory(bytes);
    }
    void release(std::size_t bytes) { live_ -= bytes; }
    /// Refuses what is too large before it is made.
    void expect(std::size_t bytes) {
        if (bytes > limits_.live_bytes - live_) exhausted_memory(0);
    }
    void check_items(std::size_t count) const;
    std::size_t live() const { return live_; }

    [[noreturn]] void fail(const std::string& message) const;
    [[noreturn]] void refuse(const std::string& message) const;
    [[noreturn]] void exceed(const std::string& message) const;

  private:
    [[noreturn]] void exhausted_steps() const;
    [[noreturn]] void exhausted_memory(std::size_t taken_back);

    const Limits& limits_;
    const std::string& name_;
    int line_ = 1;
    std::int64_t steps_ = 0;
    std::size_t live_ = 0;
};

/// Bytes of a budget that an object holds; without a budget for what belongs to the template.
class Charge {
  public:
    explicit Charge(Budget* budget, std::size_t bytes = 0) : budget_(budget) { change_to(bytes); }
    Charge(Charge&& other) noexcept : budget_(other.budget_), bytes_(other.bytes_) { other.bytes_ = 0; }
    Charge& operator=(Charge&&) = delete;
    ~Charge() {
        if (budget_ != nullptr) budget_->release(bytes_);
    }
    void change_to(std::size_t bytes) {
        if (budget_ != nullptr) {
            budget_->allocate(bytes);
            budget_->release(bytes_);
        }
        bytes_ = bytes;
    }

  private:
    Budget* budget_;
    std::size_t bytes_ = 0;
};

/// Bounds recursion by the bytes of stack that it took since the guard was made.
class StackGuard {
  public:
    explicit StackGuard(const Limits& limits)
        : base_(reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0))), limit_(limits.stack_bytes) {}

    bool is_exhausted() const {
        const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
        return (here < base_ ? base_ - here : here - base_) > limit_;
    }

  private:
    std::uintptr_t base_;
    std::size_t limit_;
};

}  // namespace qlora::jinja
