// Compressed files give the rows of what they hold; damaged and cut ones are refused in a sentence.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <zlib.h>
#ifdef QLORA_HAS_ZSTD
#include <zstd.h>
#endif

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "data/source_rows.h"

namespace {

using namespace qlora;
using namespace qlora::data;
using data::test::refusal;
using data::test::rows_of_file;
using data::test::SourceRows;

std::string gzip(std::string_view text) {
    z_stream state{};
    EXPECT_EQ(deflateInit2(&state, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    std::string out(deflateBound(&state, text.size()), '\0');
    state.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    state.avail_in = static_cast<uInt>(text.size());
    state.next_out = reinterpret_cast<Bytef*>(out.data());
    state.avail_out = static_cast<uInt>(out.size());
    EXPECT_EQ(deflate(&state, Z_FINISH), Z_STREAM_END);
    out.resize(state.total_out);
    deflateEnd(&state);
    return out;
}

#ifdef QLORA_HAS_ZSTD
std::string zstd(std::string_view text) {
    ZSTD_CCtx* const state = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(state, ZSTD_c_checksumFlag, 1);
    std::string out(ZSTD_compressBound(text.size()), '\0');
    const std::size_t size = ZSTD_compress2(state, out.data(), out.size(), text.data(), text.size());
    EXPECT_FALSE(ZSTD_isError(size));
    ZSTD_freeCCtx(state);
    out.resize(size);
    return out;
}
#endif

struct Compressor {
    const char* ending;
    std::string (*compress)(std::string_view text);
};

class CompressedRows : public testing::TestWithParam<Compressor> {
  protected:
    std::string name(const char* stem) const { return std::string(stem) + GetParam().ending; }
    std::string compress(std::string_view text) const { return GetParam().compress(text); }
};

// Text that does not compress well, so that compressed data too goes over the pieces in which files are read.
std::string long_text() {
    std::string text;
    for (unsigned i = 0; i < 20'000; ++i)
        text += "{\"n\": " + std::to_string(i * 2654435761U) + ", \"a\": \"" + std::to_string(i * 40503U) +
                "\"}\n";
    return text;
}

TEST_P(CompressedRows, RowsAndHashAreThoseOfTheText) {
    const std::string text = long_text();
    std::string plain_hash, hash;
    const SourceRows expected = rows_of_file("rows.jsonl", text, &plain_hash);
    ASSERT_EQ(expected.size(), 20'000U);
    EXPECT_EQ(rows_of_file(name("rows.jsonl"), compress(text), &hash), expected);
    EXPECT_EQ(hash, plain_hash);
    // The name does not say that it is compressed, or says so of text that a browser decompressed.
    EXPECT_EQ(rows_of_file("rows.jsonl", compress(text)), expected);
    EXPECT_EQ(rows_of_file(name("rows.jsonl"), text), expected);
    EXPECT_EQ(rows_of_file(name("rows.csv"), compress("\xEF\xBB\xBF"
                                                      "a\n1\n")),
              (SourceRows{{"{\"a\": \"1\"}", 2, -1, ""}}));
    EXPECT_EQ(rows_of_file(name("rows.json"), compress("[{},\n{}]")).size(), 2U);
}

TEST_P(CompressedRows, SeveralPartsAreOneText) {
    EXPECT_EQ(rows_of_file(name("rows.jsonl"), compress("{}\n{\"a\"") + compress("") + compress(": 1}\n")),
              (SourceRows{{"{}", 1, -1, ""}, {"{\"a\": 1}", 2, -1, ""}}));
    EXPECT_EQ(rows_of_file(name("rows.jsonl"), compress("")), SourceRows{});
}

TEST_P(CompressedRows, ACutOrFollowedFileIsRefused) {
    const std::string whole = compress("{\"a\": \"cut it anywhere\"}\n{}\n");
    for (std::size_t size = 4; size < whole.size(); ++size) {
        const std::string message = refusal(name("rows.jsonl"), whole.substr(0, size));
        EXPECT_NE(message.find("it seems to be cut"), std::string::npos) << size << ": " << message;
    }
    const std::string message = refusal(name("rows.jsonl"), whole + "{\"b\": 2}\n");
    EXPECT_NE(message.find("bytes that are not compressed follow"), std::string::npos) << message;
}

// Checksums find what is changed in the data; no change may crash.
TEST_P(CompressedRows, AChangedByteIsFound) {
    const std::string whole = compress("{\"a\": \"" + std::string(300, 'x') + "change it anywhere\"}\n{}\n");
    const SourceRows expected = rows_of_file(name("rows.jsonl"), whole);
    for (std::size_t at = 0; at < whole.size(); ++at) {
        for (const int bit : {0, 3, 7}) {
            std::string changed = whole;
            changed[at] = static_cast<char>(changed[at] ^ (1 << bit));
            try {
                const SourceRows rows = rows_of_file(name("rows.jsonl"), changed);
                // Without its magic it is text, and bad rows; other bytes of the header may mean nothing.
                EXPECT_TRUE(at < 10 || rows == expected) << at;
            } catch (const DataError& error) {
                EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
            }
        }
    }
}

TEST_P(CompressedRows, WhatIsInsideIsLookedAtToo) {
    EXPECT_NE(refusal(name("rows.jsonl"), compress("<html>")).find("is a web page"), std::string::npos);
    EXPECT_NE(refusal(name("rows.jsonl"), compress(compress("{}"))).find("is compressed twice"),
              std::string::npos);
    EXPECT_NE(refusal(name("rows.parquet"), compress("PAR1....PAR1")).find("holds a compressed Parquet file"),
              std::string::npos);
}

long peak_mib() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss / 1024;
}

TEST_P(CompressedRows, ABombTakesNoMemory) {
    const qlora::test::TempDir folder;
    const std::filesystem::path file = folder / name("rows.jsonl");
    // 96 MiB: one row without an end, then a good one.
    const std::string part = compress(std::string(std::size_t{16} << 20, 'x'));
    {
        std::ofstream out(file, std::ios::binary);
        out << compress("{}\n");
        for (int i = 0; i < 6; ++i) out << part;
        out << compress("\n{}\n");
    }
    const long before = peak_mib();
    const SourceRows rows = rows_of_file(file);
    ASSERT_EQ(rows.size(), 3U);
    EXPECT_EQ(rows[1].fault, "the row is longer than 64 MiB");
    EXPECT_EQ(rows[2].line, 3);
    EXPECT_LT(peak_mib() - before, 150);
}

const Compressor kCompressors[] = {
    {".gz", gzip},
#ifdef QLORA_HAS_ZSTD
    {".zst", zstd},
#endif
};
INSTANTIATE_TEST_SUITE_P(All, CompressedRows, testing::ValuesIn(kCompressors),
                         [](const auto& each) { return std::string(each.param.ending).substr(1); });

TEST(GzipRows, ZerosMayFollow) {
    EXPECT_EQ(rows_of_file("rows.jsonl.gz", gzip("{}\n") + std::string(100'000, '\0')).size(), 1U);
}

#ifdef QLORA_HAS_ZSTD
TEST(ZstdRows, AWindowThatTakesMuchMemoryIsRefused) {
    ZSTD_CCtx* const state = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(state, ZSTD_c_windowLog, 28);
    ZSTD_CCtx_setParameter(state, ZSTD_c_contentSizeFlag, 0);
    const std::string_view text = "{}\n";
    std::string out(1000, '\0');
    ZSTD_inBuffer in{text.data(), text.size(), 0};
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    ZSTD_compressStream2(state, &to, &in, ZSTD_e_flush);
    ZSTD_compressStream2(state, &to, &in, ZSTD_e_end);
    ZSTD_freeCCtx(state);
    out.resize(to.pos);
    const std::string message = refusal("rows.jsonl.zst", out);
    EXPECT_NE(message.find("a window of more than 128 MiB"), std::string::npos) << message;
}
#else
TEST(ZstdRows, ABuildWithoutItSaysSo) {
    EXPECT_NE(refusal("rows.jsonl.zst", "\x28\xb5\x2f\xfd").find("which this build cannot read"),
              std::string::npos);
}
#endif

}  // namespace
