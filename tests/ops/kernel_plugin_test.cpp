#include "ops/kernel_plugin.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

namespace qlora::ops {
namespace {

TEST(KernelPlugin, one_of_other_headers_is_refused_by_both_versions) {
    void* library = dlopen(QLORA_OTHER_PLUGIN, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    const std::string fault = kernel_plugin_fault(library);
    EXPECT_NE(fault.find(" is of version 0.0.9 (0123456789ab), this program of " QLORA_TEST_VERSION " ("),
              std::string::npos)
        << fault;
    EXPECT_NE(fault.find("build or install the program and it together"), std::string::npos) << fault;
}

TEST(KernelPlugin, any_other_library_is_none) {
    void* library = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    EXPECT_EQ(kernel_plugin_fault(library).find(" is no plug-in of this program's version"), 0u);
}

}  // namespace
}  // namespace qlora::ops
