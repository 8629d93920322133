#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "tiny_tokenizer.h"
#include "tokenizer/merge_table.h"

namespace qlora::tokenizer {
namespace {

using Ids = std::vector<TokenId>;

Ids encode(const Json& json, std::string_view text) {
    return JsonTokenizer(json, "tiny").encode(text, {});
}

TEST(BpeModel, MergesTheLowestRankFirstThenTheLeftmost) {
    EXPECT_EQ(encode(tiny_json(), "abc"), (Ids{8}));  // bc, then a bc
    EXPECT_EQ(encode(tiny_json(), "ab"), (Ids{6}));
    EXPECT_EQ(encode(tiny_json(), "abab"), (Ids{6, 6}));
    EXPECT_EQ(encode(tiny_json(), "abcbc"), (Ids{8, 7}));
    EXPECT_EQ(encode(tiny_json(), ""), Ids{});
}

TEST(BpeModel, DropsCharactersItDoesNotKnowWithoutAnUnknownToken) {
    EXPECT_EQ(encode(tiny_json(), "axb"), (Ids{6}));
}

TEST(BpeModel, IgnoreMergesTakesAWholeWordOfTheVocabulary) {
    Json json = tiny_json();
    json["model"]["merges"] = Json::array({"a b"});
    EXPECT_EQ(encode(json, "abc"), (Ids{6, 2}));
    json["model"]["ignore_merges"] = true;
    EXPECT_EQ(encode(json, "abc"), (Ids{8}));
}

TEST(BpeModel, ReadsMergesAsPairsToo) {
    Json json = tiny_json();
    json["model"]["merges"] = json_of(R"([["b", "c"], ["a", "b"], ["a", "bc"]])");
    EXPECT_EQ(encode(json, "abcab"), (Ids{8, 6}));
}

TEST(BpeModel, OfAMergeGivenTwiceTheLaterRankCounts) {
    Json json = tiny_json();
    json["model"]["merges"] = json_of(R"(["b c", "a b", "b c"])");
    EXPECT_EQ(encode(json, "abc"), (Ids{6, 2}));
}

TEST(BpeModel, FusesUnknownCharactersOnlyWhenAsked) {
    Json json = tiny_json();
    json["model"]["unk_token"] = "c";
    EXPECT_EQ(encode(json, "axyb"), (Ids{0, 2, 2, 1}));
    json["model"]["fuse_unk"] = true;
    EXPECT_EQ(encode(json, "axyb"), (Ids{0, 2, 1}));
}

TEST(BpeModel, FallsBackToBytesWhenAllBytesOfACharacterAreThere) {
    Json json = tiny_json();
    json["model"]["byte_fallback"] = true;
    json["model"]["vocab"]["<0xC3>"] = 9;
    json["model"]["vocab"]["<0xA9>"] = 10;
    EXPECT_EQ(encode(json, "a\u00e9b"), (Ids{0, 9, 10, 1}));
    EXPECT_EQ(encode(json, "a\u00e8b"), (Ids{6}));  // C3 A8
}

TEST(BpeModel, SameIdsFromManyThreads) {
    const JsonTokenizer tokenizer(tiny_json(), "tiny");
    const std::string text = "abcabbcab";
    const Ids expected = tokenizer.encode(text, {});
    std::vector<std::thread> threads;
    std::vector<int> wrong(4, 0);
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < 200; ++i) {
                const std::string own = text + std::string(static_cast<std::size_t>(i % 40), 'c');
                Ids ids = tokenizer.encode(own, {});
                ids.resize(expected.size());
                if (i % 40 == 0 && ids != expected) ++wrong[t];
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(MergeTable, FindsWhatWasAddedAndNothingElse) {
    MergeTable table(1000);
    for (TokenId id = 0; id < 1000; ++id) table.add(id, id * 7 % 1000, id + 5000);
    for (TokenId id = 0; id < 1000; ++id) {
        EXPECT_EQ(table.rank(id, id * 7 % 1000), id);
        EXPECT_EQ(table.result(id), id + 5000);
        EXPECT_EQ(table.rank(id, 1000), MergeTable::kNone);
    }
}

}  // namespace
}  // namespace qlora::tokenizer
