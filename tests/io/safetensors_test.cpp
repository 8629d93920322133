#include "qlora/io/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "io/safetensors_header.h"
#include "io/samples.h"
#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace qlora::io {
namespace {

using namespace qlora::io::test;
using qlora::test::read_file;
using qlora::test::TempDir;
using qlora::test::write_file;

constexpr DType kAllDTypes[] = {DType::kBool, DType::kU8,   DType::kI8,  DType::kI16,    DType::kU16,
                                DType::kF16,  DType::kBF16, DType::kI32, DType::kU32,    DType::kF32,
                                DType::kF64,  DType::kI64,  DType::kU64, DType::kF8E4M3, DType::kF8E5M2};

std::vector<TensorSpec> every_kind() {
    std::vector<TensorSpec> specs;
    for (const DType dtype : kAllDTypes) {
        const std::string name(name_of(dtype));
        specs.push_back({name + ".scalar", dtype, {}});
        specs.push_back({name + ".empty", dtype, {3, 0, 2}});
        specs.push_back({name + ".odd", dtype, {3, 1, 7}});
    }
    specs.push_back({"\"quoted\" \\ \n \x7f \xC3\xA9", DType::kF32, {2}});
    specs.push_back({"", DType::kU8, {1}});
    return specs;
}

TEST(Safetensors, round_trip_keeps_names_shapes_bytes_and_metadata) {
    const TempDir folder;
    const std::vector<TensorSpec> specs = every_kind();
    const std::map<std::string, std::string> metadata = {
        {"format", "pt"}, {"", "empty key"}, {"empty value", ""}, {"text", "tab\t \xE2\x82\xAC \"x\""}};
    write_sample(folder / "a.safetensors", specs, 1, metadata);
    const SafetensorsFile file(folder / "a.safetensors");
    EXPECT_EQ(file.path(), folder / "a.safetensors");
    EXPECT_EQ(file.metadata(), metadata);
    ASSERT_EQ(file.tensors().size(), specs.size());
    for (std::size_t i = 0; i < specs.size(); ++i) {
        const TensorView& tensor = file.at(specs[i].name);
        EXPECT_EQ(tensor.name, specs[i].name);
        EXPECT_EQ(tensor.dtype, specs[i].dtype);
        EXPECT_EQ(tensor.shape, specs[i].shape);
        EXPECT_EQ(tensor.elements(),
                  static_cast<std::int64_t>(byte_size(specs[i]) / size_of(specs[i].dtype)));
        const auto expected = sample_bytes(byte_size(specs[i]), 1 + static_cast<unsigned>(i));
        EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), expected.begin(), expected.end()))
            << tensor.name;
        file.release(tensor);
        EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), expected.begin(), expected.end()))
            << tensor.name;
        EXPECT_EQ(file.find(specs[i].name), &tensor);
    }
}

TEST(Safetensors, data_begins_at_a_multiple_of_8_and_the_padding_is_spaces) {
    const TempDir folder;
    for (std::size_t extra = 0; extra < 16; ++extra) {
        write_sample(folder / "a", {{std::string(extra, 'x'), DType::kU8, {1}}});
        const std::string bytes = read_file(folder / "a");
        const std::size_t length = static_cast<unsigned char>(bytes[0]);
        EXPECT_EQ(length % 8, 0U);
        EXPECT_EQ(bytes.size(), 8 + length + 1);
        const std::string header = bytes.substr(8, length);
        EXPECT_LT(header.size() - header.rfind('}'), 9U);
        EXPECT_EQ(header.find_last_not_of(' '), header.rfind('}'));
        EXPECT_NO_THROW(SafetensorsFile(folder / "a"));
    }
}

TEST(Safetensors, header_has_exactly_the_form_of_the_package) {
    const TempDir folder;
    SafetensorsWriter writer(folder / "a", {{"w", DType::kBF16, {1, 2}}, {"s", DType::kU8, {}}},
                             {{"format", "pt"}});
    writer.append(sample_bytes(4, 1));
    writer.append(sample_bytes(1, 2));
    writer.finish();
    const std::string json =
        R"({"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},)"
        R"("s":{"dtype":"U8","shape":[],"data_offsets":[4,5]}})";
    EXPECT_EQ(read_file(folder / "a").substr(8, json.size()), json);
}

TEST(Safetensors, file_order_is_that_of_the_offsets_and_not_of_the_header) {
    const TempDir folder;
    write_file(folder / "a", file_of(R"({"b":{"data_offsets":[2,3],"shape":[1],"dtype":"U8"},)"
                                     R"("none":{"dtype":"F32","shape":[0],"data_offsets":[2,2]},)"
                                     R"("a":{"shape":[2],"dtype":"I8","data_offsets":[0,2]}}  )",
                                     "xyz"));
    const SafetensorsFile file(folder / "a");
    ASSERT_EQ(file.tensors().size(), 3U);
    EXPECT_EQ(file.tensors()[0].name, "a");
    EXPECT_EQ(file.tensors()[1].name, "none");
    EXPECT_EQ(file.tensors()[2].name, "b");
    EXPECT_EQ(file.at("b").bytes.front(), std::byte{'z'});
}

TEST(Safetensors, white_space_inside_the_header_is_allowed) {
    const TempDir folder;
    write_file(
        folder / "a",
        file_of("{ \"a\" :\n{\"dtype\"\t:\"U8\",\"shape\":[ 1 ] ,\r\n\"data_offsets\":[0, 1]} }", "x"));
    EXPECT_EQ(SafetensorsFile(folder / "a").at("a").elements(), 1);
}

TEST(Safetensors, smallest_files_are_read) {
    const TempDir folder;
    for (const char* header : {"{}", "{}   ", R"({"__metadata__":{}})", R"({"__metadata__":{"a":"b"}} )"}) {
        write_file(folder / "a", file_of(header));
        EXPECT_TRUE(SafetensorsFile(folder / "a").tensors().empty()) << header;
    }
}

TEST(Safetensors, absent_tensor_is_named) {
    const TempDir folder;
    write_sample(folder / "a", {{"here", DType::kU8, {1}}});
    const SafetensorsFile file(folder / "a");
    EXPECT_EQ(file.find("gone"), nullptr);
    EXPECT_EQ(file.find(""), nullptr);
    EXPECT_EQ(file.find("zzz"), nullptr);
    try {
        file.at("gone");
        FAIL();
    } catch (const CheckpointError& error) {
        const std::string message = error.what();
        EXPECT_NE(message.find((folder / "a").string()), std::string::npos);
        EXPECT_NE(message.find("\"gone\""), std::string::npos);
    }
}

TEST(Safetensors, moved_file_keeps_its_views) {
    const TempDir folder;
    write_sample(folder / "a", {{"t", DType::kU8, {5}}});
    SafetensorsFile first(folder / "a");
    const TensorView* tensor = first.find("t");
    const SafetensorsFile second(std::move(first));
    EXPECT_EQ(second.find("t"), tensor);
    EXPECT_EQ(tensor->bytes[4], sample_bytes(5, 1)[4]);
}

TEST(Safetensors, all_faulty_tensors_are_named_together) {
    const TempDir folder;
    write_file(folder / "a", file_of(R"({"one":{"dtype":"F33","shape":[1],"data_offsets":[0,1]},)"
                                     R"("good":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                     R"("two":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}})",
                                     "x"));
    try {
        const SafetensorsFile file(folder / "a");
        FAIL();
    } catch (const CheckpointError& error) {
        const std::string message = error.what();
        EXPECT_NE(message.find("2 faults"), std::string::npos) << message;
        EXPECT_NE(message.find("\"one\""), std::string::npos) << message;
        EXPECT_NE(message.find("\"two\""), std::string::npos) << message;
        EXPECT_EQ(message.find("\"good\""), std::string::npos) << message;
    }
}

TEST(Safetensors, file_cut_anywhere_is_refused) {
    const TempDir folder;
    std::vector<TensorSpec> specs;
    for (int layer = 0; layer < 12; ++layer) {
        const std::string prefix = "model.layers." + std::to_string(layer) + ".";
        specs.push_back({prefix + "self_attn.q_proj.weight", DType::kBF16, {24, 24}});
        specs.push_back({prefix + "input_layernorm.weight", DType::kF32, {24}});
    }
    write_sample(folder / "whole", specs, 1, {{"format", "pt"}});
    const std::string whole = read_file(folder / "whole");
    ASSERT_NO_THROW(SafetensorsFile(folder / "whole"));
    ASSERT_GT(whole.size(), 15'000U);
    int refused = 0;
    for (std::size_t i = 0; i < 200; ++i) {
        write_file(folder / "cut", std::string_view(whole).substr(0, whole.size() * i / 200));
        try {
            const SafetensorsFile file(folder / "cut");
        } catch (const CheckpointError& error) {
            const std::string message = error.what();
            refused += message.find((folder / "cut").string()) == 0;
            EXPECT_EQ(message.find('\n'), std::string::npos)
                << "one fault, however many tensors: " << message;
        }
    }
    EXPECT_EQ(refused, 200);
    for (std::size_t lost = 1; lost <= 16; ++lost) {
        write_file(folder / "cut", std::string_view(whole).substr(0, whole.size() - lost));
        EXPECT_THROW(SafetensorsFile(folder / "cut"), CheckpointError) << lost;
    }
    write_file(folder / "cut", whole + "x");
    EXPECT_THROW(SafetensorsFile(folder / "cut"), CheckpointError);
}

TEST(Safetensors, as_many_tensors_as_allowed_and_not_one_more) {
    const auto header = [](std::size_t count) {
        std::string json = "{";
        for (std::size_t i = 0; i < count; ++i) {
            json += (i ? ",\"" : "\"") + std::to_string(i) +
                    R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
        }
        return json + "}";
    };
    const std::string most = file_of(header(kMaxEntries));
    EXPECT_EQ(parse_safetensors(std::as_bytes(std::span(most)), "most").tensors.size(), kMaxEntries);
    const std::string over = file_of(header(kMaxEntries + 1));
    EXPECT_THROW(parse_safetensors(std::as_bytes(std::span(over)), "over"), CheckpointError);
}

TEST(Safetensors, longest_name_and_highest_rank_are_read) {
    const TempDir folder;
    const std::string name(kMaxNameBytes, 'n');
    write_sample(folder / "a", {{name, DType::kU8, std::vector<std::int64_t>(kMaxRank, 1)}});
    EXPECT_EQ(SafetensorsFile(folder / "a").at(name).elements(), 1);
}

TEST(CheckedByteSize, refuses_what_overflows_even_beside_a_zero) {
    constexpr std::int64_t kHuge = std::int64_t{1} << 62;
    using Shape = std::vector<std::int64_t>;
    EXPECT_EQ(checked_byte_size(DType::kF32, Shape{}), 4U);
    EXPECT_EQ(checked_byte_size(DType::kF32, Shape{3, 5}), 60U);
    EXPECT_EQ(checked_byte_size(DType::kF32, Shape{3, 0}), 0U);
    EXPECT_EQ(checked_byte_size(DType::kU8, Shape{kHuge}), std::uint64_t{1} << 62);
    EXPECT_EQ(checked_byte_size(DType::kU16, Shape{kHuge}), std::nullopt);
    EXPECT_EQ(checked_byte_size(DType::kU8, Shape{kHuge, 2}), std::nullopt);
    EXPECT_EQ(checked_byte_size(DType::kU8, Shape{kHuge, kHuge, 0}), std::nullopt);
    EXPECT_EQ(checked_byte_size(DType::kU8, Shape{0, kHuge, kHuge}), std::nullopt);
    EXPECT_EQ(checked_byte_size(DType::kU8, Shape{-1}), std::nullopt);
    EXPECT_EQ(checked_byte_size(DType::kU8, Shape{0, -1}), std::nullopt);
}

}  // namespace
}  // namespace qlora::io
