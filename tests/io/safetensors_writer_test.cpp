#include <gtest/gtest.h>

#include "io/safetensors_header.h"
#include "io/samples.h"
#include "qlora/core/error.h"
#include "qlora/io/safetensors.h"
#include "support/temp_dir.h"

namespace qlora::io {
namespace {

using namespace qlora::io::test;
using qlora::test::read_file;
using qlora::test::TempDir;
using qlora::test::write_file;

ExitCode code_of(const std::function<void()>& action) {
    try {
        action();
    } catch (const Error& error) {
        return error.code();
    }
    return ExitCode::kDone;
}

TEST(SafetensorsWriter, pieces_of_a_tensor_add_up) {
    const TempDir folder;
    const std::vector<TensorSpec> specs = {{"empty", DType::kF32, {0}},
                                           {"a", DType::kF32, {1000}},
                                           {"none", DType::kF64, {2, 0}},
                                           {"b", DType::kU8, {17}},
                                           {"last", DType::kI8, {0}}};
    write_sample(folder / "whole", specs, 1);
    SafetensorsWriter writer(folder / "pieces", specs, {});
    unsigned seed = 1;
    for (const TensorSpec& spec : specs) {
        const auto bytes = sample_bytes(byte_size(spec), seed++);
        for (std::size_t i = 0; i < bytes.size(); i += 13) {
            writer.append(std::span(bytes).subspan(i, std::min<std::size_t>(13, bytes.size() - i)));
        }
    }
    writer.finish();
    EXPECT_EQ(read_file(folder / "pieces"), read_file(folder / "whole"));
}

TEST(SafetensorsWriter, nothing_appears_before_finish_and_nothing_is_left) {
    const TempDir folder;
    write_file(folder / "a", "old");
    {
        SafetensorsWriter writer(folder / "a", {{"t", DType::kU8, {600'000}}}, {});
        writer.append(sample_bytes(600'000, 1));
        EXPECT_EQ(read_file(folder / "a"), "old");
    }
    EXPECT_EQ(read_file(folder / "a"), "old");
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(SafetensorsWriter, wrong_number_of_bytes_is_our_fault) {
    const TempDir folder;
    const std::vector<TensorSpec> specs = {{"a", DType::kU8, {4}}, {"b", DType::kU8, {4}}};
    const auto bytes = sample_bytes(9, 1);
    const auto first = [&](std::size_t n) { return std::span(bytes).first(n); };
    EXPECT_EQ(code_of([&] { SafetensorsWriter(folder / "f", specs, {}).append(first(5)); }),
              ExitCode::kInternal);
    EXPECT_EQ(code_of([&] {
                  SafetensorsWriter writer(folder / "f", specs, {});
                  writer.append(first(3));
                  writer.append(first(2));
              }),
              ExitCode::kInternal);
    EXPECT_EQ(code_of([&] {
                  SafetensorsWriter writer(folder / "f", specs, {});
                  writer.append(first(4));
                  writer.append(first(4));
                  writer.append(first(1));
              }),
              ExitCode::kInternal);
    EXPECT_EQ(code_of([&] {
                  SafetensorsWriter writer(folder / "f", specs, {});
                  writer.append(first(4));
                  writer.append(first(3));
                  writer.finish();
              }),
              ExitCode::kInternal);
    EXPECT_EQ(code_of([&] { SafetensorsWriter(folder / "f", specs, {}).finish(); }), ExitCode::kInternal);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriter, refuses_what_the_reader_would_refuse) {
    struct Case {
        std::vector<TensorSpec> specs;
        std::map<std::string, std::string> metadata;
        std::string named;
    };
    constexpr std::int64_t kHuge = std::int64_t{1} << 61;
    const std::string long_name(kMaxNameBytes + 1, 'n');
    const std::vector<Case> cases = {
        {{{"a", DType::kU8, {1}}, {"b", DType::kU8, {1}}, {"a", DType::kI8, {2}}}, {}, "\"a\": given twice"},
        {{{"__metadata__", DType::kU8, {1}}}, {}, "reserved"},
        {{{std::string("a\0b", 3), DType::kU8, {1}}}, {}, "NUL"},
        {{{"\xFF", DType::kU8, {1}}}, {}, "UTF-8"},
        {{{"\xED\xA0\x80", DType::kU8, {1}}}, {}, "UTF-8"},
        {{{long_name, DType::kU8, {1}}}, {}, "longer"},
        {{{"a", DType::kU8, {-1}}}, {}, "negative"},
        {{{"a", DType::kF32, {kHuge, 4}}}, {}, "overflow"},
        {{{"a", DType::kU8, {kHuge}}, {"b", DType::kU8, {kHuge}}, {"c", DType::kU8, {1}}}, {}, "\"c\""},
        {{{"a", DType::kU8, std::vector<std::int64_t>(kMaxRank + 1, 1)}}, {}, "dimensions"},
        {{}, {{"k", "\xC0\x80"}}, "\"k\""},
        {{}, {{"\x80", "v"}}, "UTF-8"},
        {{}, {{std::string("k\0", 2), "v"}}, "NUL"},
        {{}, {{"k", std::string(kMaxHeaderBytes, 'v')}}, "limit"},
    };
    const TempDir folder;
    for (const Case& wrong : cases) {
        try {
            const SafetensorsWriter writer(folder / "f", wrong.specs, wrong.metadata);
            FAIL() << wrong.named;
        } catch (const CheckpointError& error) {
            const std::string message = error.what();
            EXPECT_EQ(message.find((folder / "f").string()), 0U) << message;
            EXPECT_NE(message.find(wrong.named), std::string::npos) << message;
        }
    }
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriter, more_data_than_the_disk_holds_is_a_resource_error) {
    const TempDir folder;
    const std::vector<TensorSpec> specs = {{"a", DType::kU8, {std::int64_t{1} << 60}}};
    EXPECT_EQ(code_of([&] { SafetensorsWriter(folder / "f", specs, {}); }), ExitCode::kResources);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SortedForSafetensors, widest_dtype_first_then_name) {
    const auto sorted = sorted_for_safetensors({{"b", DType::kF32, {}},
                                                {"z", DType::kU8, {}},
                                                {"a", DType::kF32, {}},
                                                {"y", DType::kI64, {}},
                                                {"B", DType::kF32, {}},
                                                {"m", DType::kBF16, {}}});
    std::string order;
    for (const TensorSpec& spec : sorted) order += spec.name;
    EXPECT_EQ(order, "yBabmz");
}

}  // namespace
}  // namespace qlora::io
