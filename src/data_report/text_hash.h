#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace qlora::data_report {

/// Spreads the bits of a number over all 64 (the finalizer of splitmix64).
constexpr std::uint64_t spread(std::uint64_t x) {
    x += 0x9E3779B97F4A7C15U;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
    return x ^ (x >> 31);
}

/// 64 bits that stand for a sequence of texts; where one ends counts.
class TextHash {
  public:
    void add(std::string_view text) {
        add(static_cast<std::uint64_t>(text.size()));
        add(static_cast<std::uint64_t>(std::hash<std::string_view>{}(text)));
    }
    void add(std::uint64_t number) { value_ = spread(value_ ^ spread(number)); }
    std::uint64_t value() const { return value_; }

  private:
    std::uint64_t value_ = 0;
};

}  // namespace qlora::data_report
