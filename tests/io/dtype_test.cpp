#include "qlora/io/dtype.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

namespace qlora::io {
namespace {

// Names and sizes of the format's README.
const std::map<std::string, std::size_t> kSizes = {
    {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
    {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"F64", 8},     {"I64", 8}, {"U64", 8},
};

TEST(DType, names_and_sizes_are_those_of_the_format) {
    std::set<DType> seen;
    std::set<std::size_t> ranks;
    for (const auto& [name, size] : kSizes) {
        const auto dtype = dtype_from_name(name);
        ASSERT_TRUE(dtype) << name;
        EXPECT_EQ(size_of(*dtype), size) << name;
        EXPECT_EQ(name_of(*dtype), name);
        EXPECT_TRUE(seen.insert(*dtype).second);
        EXPECT_TRUE(ranks.insert(safetensors_rank(*dtype)).second);
    }
    EXPECT_EQ(seen.size(), 15U);
}

TEST(DType, other_names_are_refused) {
    for (const char* name :
         {"", "f32", "F32 ", "F", "F4", "F6_E2M3", "F8_E8M0", "F8_E4M3FNUZ", "C64", "F128", "bf16"}) {
        EXPECT_FALSE(dtype_from_name(name)) << name;
    }
}

TEST(DType, wider_types_rank_higher) {
    for (const auto& [a, size_a] : kSizes) {
        for (const auto& [b, size_b] : kSizes) {
            if (size_a < size_b) {
                EXPECT_LT(safetensors_rank(*dtype_from_name(a)), safetensors_rank(*dtype_from_name(b)));
            }
        }
    }
}

}  // namespace
}  // namespace qlora::io
