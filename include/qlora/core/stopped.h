#pragma once

#include <stdexcept>

namespace qlora {

/// Thrown by work that was asked to stop (by a signal, say) before it was done; nothing has been written.
class Stopped : public std::runtime_error {
  public:
    Stopped() : std::runtime_error("stopped before the end") {}
};

}  // namespace qlora
