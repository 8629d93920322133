#pragma once

#include <string>

namespace qlora::ops {

/// Why the kernels of this loaded library (a handle of dlopen) cannot be called, as the rest of a sentence
/// that begins with its name; empty: they can. They are called through structures without a description, so
/// the two must come from the same version and the same kernel headers.
std::string kernel_plugin_fault(void* library);

}  // namespace qlora::ops
