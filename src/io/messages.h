#pragma once

#include <string>
#include <string_view>

#include "qlora/core/error.h"

namespace qlora::io {

/// A name out of a file, fit for one line of a message: quoted, escaped to ASCII, cut when long.
std::string shown(std::string_view name);

/// A FaultList that keeps the first `kMaxListed` faults and counts the rest: a cut file may have 100,000.
class ListedFaults {
  public:
    static constexpr std::size_t kMaxListed = 20;

    void add(const std::string& place, const std::string& message) {
        if (list_.size() < kMaxListed) {
            list_.add(place, message);
        } else {
            ++unlisted_;
        }
    }
    bool empty() const { return list_.empty(); }
    void throw_if_any(const std::string& headline) const;

  private:
    FaultList list_;
    std::size_t unlisted_ = 0;
};

}  // namespace qlora::io
