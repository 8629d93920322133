#pragma once

#include <string>

namespace qlora::emulation {

/// "at file.cu:12" of a return address in this program, by addr2line; the address itself where that fails.
std::string describe_code(const void* return_address);

}  // namespace qlora::emulation
