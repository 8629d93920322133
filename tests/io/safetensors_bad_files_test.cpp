#include <gtest/gtest.h>

#include <map>
#include <set>

#include "io/safetensors_header.h"
#include "io/samples.h"
#include "qlora/core/error.h"
#include "qlora/io/safetensors.h"
#include "support/temp_dir.h"

namespace qlora::io {
namespace {

using namespace qlora::io::test;
using namespace std::string_literals;

struct BadFile {
    std::string rule;         ///< of the format, or of our limits; each is broken at least twice
    std::string bytes;        ///< of the whole file
    std::string phrase;       ///< must stand in the message
    std::string tensor = {};  ///< at fault: must stand there too, quoted
};

/// An entry of the header; `shape` without its brackets.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  std::uint64_t begin, std::uint64_t end) {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" +
           std::to_string(begin) + "," + std::to_string(end) + "]}";
}

/// A file whose only tensor, "t", has this object, with 4 bytes of data.
std::string one(const std::string& object) {
    return file_of("{\"t\":" + object + "}", "abcd");
}

std::string repeat(const std::string& text, std::size_t times) {
    std::string out;
    for (std::size_t i = 0; i < times; ++i) out += text;
    return out;
}

std::vector<BadFile> bad_files() {
    const std::string good = "{" + entry("t", "F32", "1", 0, 4) + "}";
    const std::string whole = file_of(good, "abcd");
    const std::string two = entry("t", "F32", "1", 0, 4) + "," + entry("u", "F32", "1", 4, 8);
    std::vector<BadFile> files = {
        {"length field", "", "too short"},
        {"length field", "\x01"s, "too short"},
        {"length field", whole.substr(0, 7), "too short"},
        {"length field", "\x02\0\0\0\0\0\0"s, "too short"},
        {"header inside the file", length_field(1), "should have 1 bytes"},
        {"header inside the file", length_field(3) + "{}", "should have 3 bytes"},
        {"header inside the file", length_field(good.size() + 5) + good + "abcd", "download cut"},
        {"header inside the file", whole.substr(0, 20), "download cut"},
        {"header inside the file", length_field(100'000'000) + good + "abcd", "download cut"},
        {"header limit", length_field(100'000'001) + good + "abcd", "limit"},
        {"header limit", length_field(std::uint64_t{1} << 63) + good, "limit"},
        {"header limit", length_field(std::numeric_limits<std::uint64_t>::max()) + good, "limit"},
        {"header limit", length_field(std::numeric_limits<std::uint64_t>::max() - 7) + good, "limit"},
        {"header limit", "PK\x03\x04\x14\0\0\0\0\0archive/data.pkl"s, "limit"},
        {"starts with a brace", file_of(""), "start with '{'"},
        {"starts with a brace", file_of(" {}"), "start with '{'"},
        {"starts with a brace", file_of("\n" + good, "abcd"), "start with '{'"},
        {"starts with a brace", file_of("\xEF\xBB\xBF{}"), "start with '{'"},
        {"starts with a brace", file_of("[]"), "start with '{'"},
        {"starts with a brace", file_of("null"), "start with '{'"},
        {"ends in spaces only", file_of("{}\n"), "ends in"},
        {"ends in spaces only", file_of("{}\t "), "ends in"},
        {"ends in spaces only", file_of("{}\0"s), "ends in"},
        {"ends in spaces only", file_of("{}\0\0\0}"s), "NUL"},
        {"ends in spaces only", file_of("{} {}"), "not JSON"},
        {"ends in spaces only", file_of(good + "}", "abcd"), "not JSON"},
        {"JSON", file_of("{"), "ends in"},
        {"JSON", file_of("{}}"), "not JSON"},
        {"JSON", file_of("{\"t\"}"), "not JSON"},
        {"JSON", file_of("{\"t\":}"), "not JSON"},
        {"JSON", file_of("{" + entry("t", "F32", "1", 0, 4) + ",}", "abcd"), "not JSON"},
        {"JSON", file_of("{" + entry("t", "F32", "1,", 0, 4) + "}", "abcd"), "not JSON"},
        {"JSON", file_of("{" + entry("t", "F32", "01", 0, 4) + "}", "abcd"), "not JSON"},
        {"JSON", file_of("{'t':{}}"), "not JSON"},
        {"JSON", file_of("{/* remark */}"), "not JSON"},
        {"JSON", file_of("{\"a\nb\":{}}"), "not JSON"},
        {"UTF-8", file_of("{\"\xFF\":{}}"), "UTF-8"},
        {"UTF-8", file_of("{" + entry("a\xC3", "U8", "4", 0, 4) + "}", "abcd"), "UTF-8"},
        {"UTF-8", file_of("{" + entry("\xC0\xAF", "U8", "4", 0, 4) + "}", "abcd"), "UTF-8"},
        {"UTF-8", file_of("{" + entry("\xED\xA0\x80", "U8", "4", 0, 4) + "}", "abcd"), "UTF-8"},
        {"UTF-8", file_of("{" + entry("\\ud800", "U8", "4", 0, 4) + "}", "abcd"), "UTF-8"},
        {"UTF-8", file_of("{\"__metadata__\":{\"k\":\"\x80\"}}"), "UTF-8"},
        {"no NUL", file_of("{" + entry("a\\u0000b", "U8", "4", 0, 4) + "}", "abcd"), "NUL", "a\\u0000b"},
        {"no NUL", file_of("{\"a\0b\":{}}"s), "NUL"},
        {"no NUL", file_of("{\"__metadata__\":{\"a\\u0000\":\"b\"}}"), "NUL"},
        {"names once",
         file_of("{" + entry("t", "F32", "1", 0, 4) + "," + entry("t", "F32", "1", 0, 4) + "}", "abcd"),
         "twice", "t"},
        {"names once", file_of("{" + two + "," + entry("t", "F32", "1", 8, 12) + "}", "abcdabcdabcd"),
         "twice", "t"},
        {"names once",
         file_of("{" + entry("t", "F32", "1", 0, 4) + "," + entry("\\u0074", "F32", "1", 4, 8) + "}",
                 "abcdabcd"),
         "twice", "t"},
        {"names once", one(R"({"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})"),
         "dtype stands twice", "t"},
        {"names once", one(R"({"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]})"),
         "shape stands twice", "t"},
        {"names once", one(R"({"data_offsets":[0,4],"dtype":"F32","shape":[1],"data_offsets":[0,4]})"),
         "data_offsets stands twice", "t"},
        {"names once", file_of("{\"__metadata__\":{},\"__metadata__\":{}}"), "__metadata__ stands twice"},
        {"names once", file_of("{\"__metadata__\":{\"k\":\"1\",\"k\":\"1\"}}"), "\"k\" stands twice"},
        {"metadata is text to text", file_of("{\"__metadata__\":{\"k\":1}}"), "\"k\" must be a string"},
        {"metadata is text to text", file_of("{\"__metadata__\":{\"k\":null}}"), "\"k\" must be a string"},
        {"metadata is text to text", file_of("{\"__metadata__\":{\"k\":{}}}"), "\"k\" must be a string"},
        {"metadata is text to text", file_of("{\"__metadata__\":{\"k\":[\"v\"]}}"), "\"k\" must be a string"},
        {"metadata is text to text", file_of("{\"__metadata__\":{\"k\":true}}"), "\"k\" must be a string"},
        {"metadata is text to text", file_of("{\"__metadata__\":null}"), "must be an object"},
        {"metadata is text to text", file_of("{\"__metadata__\":\"pt\"}"), "must be an object"},
        {"metadata is text to text", file_of("{\"__metadata__\":[]}"), "must be an object"},
        {"metadata is text to text", file_of("{" + entry("__metadata__", "U8", "4", 0, 4) + "}", "abcd"),
         "\"shape\" must be a string"},
        {"entry is an object", one("null"), "must be an object", "t"},
        {"entry is an object", one("[\"F32\",[1],[0,4]]"), "must be an object", "t"},
        {"entry is an object", one("4"), "must be an object", "t"},
        {"no other keys", one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"name":"t"})"),
         "unknown key \"name\"", "t"},
        {"no other keys", one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"":{}})"), "unknown key",
         "t"},
        {"no other keys", one(R"({"Dtype":"F32","shape":[1],"data_offsets":[0,4]})"), "unknown key \"Dtype\"",
         "t"},
        {"all keys", one("{}"), "dtype is missing", "t"},
        {"all keys", one(R"({"shape":[1],"data_offsets":[0,4]})"), "dtype is missing", "t"},
        {"all keys", one(R"({"dtype":"F32","data_offsets":[0,4]})"), "shape is missing", "t"},
        {"all keys", one(R"({"dtype":"F32","shape":[1]})"), "data_offsets is missing", "t"},
        {"dtype", one(R"({"dtype":"F33","shape":[1],"data_offsets":[0,4]})"), "\"F33\"", "t"},
        {"dtype", one(R"({"dtype":"f32","shape":[1],"data_offsets":[0,4]})"), "\"f32\"", "t"},
        {"dtype", one(R"({"dtype":"","shape":[4],"data_offsets":[0,4]})"), "not known", "t"},
        {"dtype", one(R"({"dtype":"F4","shape":[8],"data_offsets":[0,4]})"), "not supported", "t"},
        {"dtype", one(R"({"dtype":4,"shape":[1],"data_offsets":[0,4]})"), "dtype must be a string", "t"},
        {"dtype", one(R"({"dtype":null,"shape":[1],"data_offsets":[0,4]})"), "dtype must be a string", "t"},
        {"dtype", one(R"({"dtype":{"F32":null},"shape":[1],"data_offsets":[0,4]})"), "dtype must be a string",
         "t"},
        {"shape", one(R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})"), "shape must be", "t"},
        {"shape", one(R"({"dtype":"F32","shape":null,"data_offsets":[0,4]})"), "shape must be", "t"},
        {"shape", one(R"({"dtype":"F32","shape":{"0":1},"data_offsets":[0,4]})"), "shape must be", "t"},
        {"shape", one(R"({"dtype":"F32","shape":["1"],"data_offsets":[0,4]})"), "shape must be", "t"},
        {"shape", one(R"({"dtype":"F32","shape":[[1]],"data_offsets":[0,4]})"), "shape must be", "t"},
        {"shape", one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"), "negative", "t"},
        {"shape", one(R"({"dtype":"F32","shape":[-0],"data_offsets":[0,4]})"), "negative", "t"},
        {"shape", one(R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})"), "unsigned", "t"},
        {"shape", one(R"({"dtype":"F32","shape":[1e0],"data_offsets":[0,4]})"), "unsigned", "t"},
        {"shape", one(R"({"dtype":"F32","shape":[true],"data_offsets":[0,4]})"), "shape must be", "t"},
        {"shape", one(R"({"dtype":"F32","shape":[1e999],"data_offsets":[0,4]})"), "not JSON"},
        {"overflow", file_of("{" + entry("t", "U8", "18446744073709551616", 0, 4) + "}", "abcd"), "unsigned",
         "t"},
        {"overflow", file_of("{" + entry("t", "U8", "18446744073709551615", 0, 4) + "}", "abcd"), "too large",
         "t"},
        {"overflow", file_of("{" + entry("t", "U8", "9223372036854775808", 0, 4) + "}", "abcd"), "too large",
         "t"},
        {"overflow", file_of("{" + entry("t", "F32", "4611686018427387905", 0, 4) + "}", "abcd"), "overflows",
         "t"},
        {"overflow", file_of("{" + entry("t", "U8", "4294967296,4294967297", 0, 4) + "}", "abcd"),
         "overflows", "t"},
        {"overflow", file_of("{" + entry("t", "F64", "2305843009213693952,1", 0, 0) + "}"), "overflows", "t"},
        {"overflow", file_of("{" + entry("t", "U8", "4294967296,4294967296,0", 0, 0) + "}"), "overflows",
         "t"},
        {"offsets", one(R"({"dtype":"F32","shape":[1],"data_offsets":4})"), "data_offsets must be two", "t"},
        {"offsets", one(R"({"dtype":"F32","shape":[1],"data_offsets":[4]})"), "data_offsets must be two",
         "t"},
        {"offsets", one(R"({"dtype":"F32","shape":[1],"data_offsets":[]})"), "data_offsets must be two", "t"},
        {"offsets", one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,4]})"), "data_offsets must be two",
         "t"},
        {"offsets", one(R"({"dtype":"F32","shape":[1],"data_offsets":{"0":0,"1":4}})"),
         "data_offsets must be two", "t"},
        {"offsets", one(R"({"dtype":"F32","shape":[1],"data_offsets":["0","4"]})"),
         "data_offsets must be two", "t"},
        {"offsets", one(R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})"), "negative", "t"},
        {"offsets", one(R"({"dtype":"F32","shape":[1],"data_offsets":[0.0,4]})"), "unsigned", "t"},
        {"forwards", file_of("{" + entry("t", "F32", "1", 4, 0) + "}", "abcd"), "backwards", "t"},
        {"forwards", file_of("{" + entry("t", "U8", "0", 4, 3) + "}", "abcd"), "backwards", "t"},
        {"forwards", file_of("{" + entry("t", "F32", "1", 18446744073709551612U, 0) + "}", "abcd"),
         "backwards", "t"},
        {"inside the data", file_of("{" + entry("t", "F32", "1", 0, 4) + "}", "abc"), "only 3 bytes", "t"},
        {"inside the data", file_of("{" + entry("t", "F32", "1", 0, 4) + "}"), "only 0 bytes", "t"},
        {"inside the data", file_of("{" + two + "}", "abcdabc"), "only 7 bytes", "u"},
        {"inside the data",
         file_of("{" + entry("t", "F32", "1", 18446744073709551608U, 18446744073709551612U) + "}", "abcd"),
         "only 4 bytes", "t"},
        {"size", file_of("{" + entry("t", "F32", "2", 0, 4) + "}", "abcd"),
         "need 8 bytes, data_offsets give 4", "t"},
        {"size", file_of("{" + entry("t", "F16", "1", 0, 4) + "}", "abcd"), "need 2 bytes", "t"},
        {"size", file_of("{" + entry("t", "U8", "0", 0, 4) + "}", "abcd"), "need 0 bytes", "t"},
        {"size", file_of("{" + entry("t", "F32", "", 0, 0) + "}"), "need 4 bytes", "t"},
        {"size", file_of("{" + entry("t", "F32", "1", 0, 0) + "}", "abcd"), "data_offsets give 0", "t"},
        {"begins at 0", file_of("{" + entry("t", "U8", "3", 1, 4) + "}", "abcd"), "gap", "t"},
        {"begins at 0", file_of("{" + entry("t", "U8", "0", 4, 4) + "}", "abcd"), "gap", "t"},
        {"no gap",
         file_of("{" + entry("t", "U8", "1", 0, 1) + "," + entry("u", "U8", "2", 2, 4) + "}", "abcd"), "gap",
         "u"},
        {"no gap",
         file_of("{" + entry("u", "U8", "1", 3, 4) + "," + entry("t", "U8", "2", 0, 2) + "}", "abcd"), "gap",
         "u"},
        {"no overlap",
         file_of("{" + entry("t", "U8", "3", 0, 3) + "," + entry("u", "U8", "2", 2, 4) + "}", "abcd"),
         "inside another", "u"},
        {"no overlap",
         file_of("{" + entry("t", "U8", "4", 0, 4) + "," + entry("u", "U8", "4", 0, 4) + "}", "abcd"),
         "inside another", "u"},
        {"no overlap",
         file_of("{" + entry("t", "U8", "4", 0, 4) + "," + entry("u", "U8", "0", 2, 2) + "}", "abcd"),
         "inside another", "u"},
        {"every byte used", file_of(good, "abcdx"), "1 bytes after the last"},
        {"every byte used", file_of("{}", "x"), "1 bytes after the last"},
        {"every byte used",
         file_of("{\"__metadata__\":{\"format\":\"pt\"}}",
                 "PK\x03\x04"
                 "polyglot"),
         "12 bytes after"},
        {"every byte used", file_of("{" + entry("t", "U8", "0", 0, 0) + "}", "abcd"), "4 bytes after"},
        {"our limits",
         file_of("{" + entry(std::string(kMaxNameBytes + 1, 'n'), "U8", "4", 0, 4) + "}", "abcd"), "longer"},
        {"our limits",
         file_of("{" + entry(repeat("\xC3\xA9", kMaxNameBytes / 2 + 1), "U8", "4", 0, 4) + "}", "abcd"),
         "longer"},
        {"our limits", file_of("{" + entry("t", "U8", repeat("1,", kMaxRank) + "4", 0, 4) + "}", "abcd"),
         "more than 64 dimensions", "t"},
        {"nesting", file_of("{\"t\":" + repeat("[", 100'000) + "}"), "must be an object", "t"},
        {"nesting", file_of("{\"t\":{\"shape\":" + repeat("[", 100'000) + "}}"), "shape must be", "t"},
        {"nesting", file_of(repeat("{\"t\":", 100'000) + "}"), "unknown key", "t"},
    };
    return files;
}

TEST(SafetensorsBadFiles, each_is_refused_with_file_and_tensor) {
    const qlora::test::TempDir folder;
    const auto path = folder / "bad.safetensors";
    std::size_t refused = 0;
    const std::vector<BadFile> files = bad_files();
    for (const BadFile& bad : files) {
        SCOPED_TRACE(bad.rule + ": " + bad.bytes.substr(0, 200));
        qlora::test::write_file(path, bad.bytes);
        try {
            const SafetensorsFile file(path);
            ADD_FAILURE() << "accepted";
        } catch (const CheckpointError& error) {
            ++refused;
            const std::string message = error.what();
            EXPECT_EQ(message.find(path.string() + ": "), 0U) << message;
            EXPECT_NE(message.find(bad.phrase), std::string::npos) << message;
            if (!bad.tensor.empty()) {
                EXPECT_NE(message.find("tensor \"" + bad.tensor + "\""), std::string::npos) << message;
            }
            EXPECT_LT(message.size(), 1000U);
            EXPECT_TRUE(std::all_of(message.begin(), message.end(), [](char c) {
                return c >= ' ' && c <= '~';
            })) << message;
        }
    }
    EXPECT_EQ(refused, files.size());
    EXPECT_GE(refused, 60U);
}

TEST(SafetensorsBadFiles, each_rule_is_broken_at_least_twice) {
    std::map<std::string, std::set<std::string>> by_rule;
    for (const BadFile& bad : bad_files()) by_rule[bad.rule].insert(bad.bytes);
    for (const auto& [rule, files] : by_rule) EXPECT_GE(files.size(), 2U) << rule;
}

TEST(SafetensorsBadFiles, what_they_were_made_from_is_good) {
    const std::string good =
        file_of("{" + entry("t", "F32", "1", 0, 4) + "," + entry("u", "U8", "0", 4, 4) + "}  ", "abcd");
    EXPECT_EQ(parse_safetensors(std::as_bytes(std::span(good)), "good").tensors.size(), 2U);
}

TEST(SafetensorsBadFiles, other_things_than_files_are_refused) {
    const qlora::test::TempDir folder;
    for (const auto& path : {folder / "missing.safetensors", folder.path()}) {
        try {
            const SafetensorsFile file(path);
            FAIL() << path;
        } catch (const CheckpointError& error) {
            EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos);
        }
    }
}

}  // namespace
}  // namespace qlora::io
