#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <random>
#include <string>

#include "tiny_tokenizer.h"

namespace qlora::tokenizer {
namespace {

constexpr std::size_t kBytes = 1'000'000;
constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz";

std::string random_text(std::size_t size, double spaces) {
    std::mt19937 random(5);
    std::string text;
    while (text.size() < size) {
        text += random() % 1000 < spaces * 1000 ? ' ' : kLetters[random() % kLetters.size()];
    }
    return text;
}

// All letters, and merges of every pair, of a pair with a letter and of pairs with each other: long chains.
Json large_json() {
    Json json = tiny_json();
    Json vocab = Json::object();
    Json merges = Json::array();
    int id = 0;
    const auto add = [&](const std::string& token) {
        Json::object_t& all = vocab.get_ref<Json::object_t&>();
        static_cast<Json::object_t::Container&>(all).emplace_back(token, id++);
    };
    for (const char letter : kLetters) add(std::string(1, letter));
    add("Ġ");
    std::vector<std::string> pairs;
    for (const char a : kLetters) {
        for (const char b : kLetters) pairs.push_back(std::string{a, b});
    }
    std::shuffle(pairs.begin(), pairs.end(), std::mt19937(3));
    for (const std::string& pair : pairs) {
        add(pair);
        merges.push_back(pair.substr(0, 1) + " " + pair.substr(1));
    }
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        for (std::size_t j = 0; j < 40; ++j) {
            const std::string& other = pairs[(i * 7 + j * 13) % pairs.size()];
            add(pairs[i] + other);
            merges.push_back(pairs[i] + " " + other);
        }
    }
    json["model"]["vocab"] = std::move(vocab);
    json["model"]["merges"] = std::move(merges);
    json["pre_tokenizer"] =
        json_of(R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true})");
    json["decoder"] = json_of(R"({"type": "ByteLevel"})");
    return json;
}

double timed(const char* what, const std::function<void()>& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::cout << "[  speed   ] " << what << ": " << seconds << " s\n";
    return seconds;
}

TEST(TokenizerSpeed, PrintsTheTimeOfOneMegabyte) {
    const Json json = large_json();
    std::unique_ptr<JsonTokenizer> tokenizer;
    timed("27,743 tokens from parsed JSON",
          [&] { tokenizer = std::make_unique<JsonTokenizer>(json, "large"); });
    ASSERT_EQ(tokenizer->vocab_size(), 26 + 1 + 676 + 676 * 40);
    const struct {
        const char* name;
        std::string text;
    } cases[] = {{"1 MB of words", random_text(kBytes, 0.2)},
                 {"1 MB, one word", random_text(kBytes, 0)},
                 {"1 MB of one letter", std::string(kBytes, 'a')},
                 {"1 MB of spaces", std::string(kBytes, ' ')}};
    for (const auto& [name, text] : cases) {
        std::vector<TokenId> ids;
        timed(name, [&, &whole = text] { ids = tokenizer->encode(whole, {}); });
        EXPECT_EQ(tokenizer->decode(ids, false), text);
    }
}

}  // namespace
}  // namespace qlora::tokenizer
