#include "qlora/core/device_name.h"

#include <gtest/gtest.h>

namespace qlora {
namespace {

TEST(DeviceName, TheFourFormsAreRead) {
    EXPECT_EQ(parse_device_name("auto"), DeviceName{DeviceName::Kind::kAuto});
    EXPECT_EQ(parse_device_name("cpu"), DeviceName{DeviceName::Kind::kCpu});
    EXPECT_EQ(parse_device_name("cuda"), (DeviceName{DeviceName::Kind::kCuda, 0}));
    EXPECT_EQ(parse_device_name("cuda:0"), (DeviceName{DeviceName::Kind::kCuda, 0}));
    EXPECT_EQ(parse_device_name("cuda:17"), (DeviceName{DeviceName::Kind::kCuda, 17}));
    EXPECT_EQ(parse_device_name("cuda:200"), (DeviceName{DeviceName::Kind::kCuda, 200}));
}

TEST(DeviceName, AnythingElseIsNone) {
    for (const char* text :
         {"", "gpu", "CUDA", "cuda:", "cuda:00", "cuda:007", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:1 ",
          "cuda:1.0", "cuda:0x1", "cuda:1000", "cuda:99999999999", "cpu:0", "mps"}) {
        EXPECT_EQ(parse_device_name(text), std::nullopt) << text;
    }
    EXPECT_NE(wrong_device_name("cuda:007").find("not \"cuda:007\""), std::string::npos);
}

}  // namespace
}  // namespace qlora
