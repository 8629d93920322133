// tokenize --model DIR [--special] [--add-special] [--decode] [--skip-special]: JSON strings on stdin, one a
// line, become JSON arrays of ids on stdout; with --decode the reverse. --time prints seconds to stderr.
// tokenize --model DIR --text: {"text": .., "plain": [[begin, end], ..], "cuts": [..], "control": [..]}
// becomes
// {"ids": [..], "ranges": [[begin, end], ..], "crossed": [..]}, and {"prompt": .., "completion": ..} the same
// with "prompt_tokens" and "cut".
#include <chrono>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "qlora/tokenizer/tokenizer.h"

namespace {

struct Options {
    std::string model;
    qlora::tokenizer::EncodeOptions encode;
    bool decode = false;
    bool skip_special = false;
    bool text = false;
    bool time = false;
};

bool parse(int argc, char** argv, Options& options) {
    for (int i = 1; i < argc; ++i) {
        const std::string flag = argv[i];
        if (flag == "--model" && i + 1 < argc) {
            options.model = argv[++i];
        } else if (flag == "--special") {
            options.encode.parse_special = true;
        } else if (flag == "--add-special") {
            options.encode.add_special_tokens = true;
        } else if (flag == "--decode") {
            options.decode = true;
        } else if (flag == "--skip-special") {
            options.skip_special = true;
        } else if (flag == "--text") {
            options.text = true;
        } else if (flag == "--time") {
            options.time = true;
        } else {
            return false;
        }
    }
    return !options.model.empty();
}

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

nlohmann::json encode_text(const qlora::tokenizer::Tokenizer& tokenizer, const nlohmann::json& input) {
    qlora::tokenizer::TextEncodingOptions options;
    for (const auto& range : input.value("plain", nlohmann::json::array()))
        options.plain_ranges.push_back({range.at(0).get<std::size_t>(), range.at(1).get<std::size_t>()});
    options.cuts = input.value("cuts", options.cuts);
    options.control_tokens = input.value("control", options.control_tokens);
    const auto text = tokenizer.encode_text(input.at("text").get<std::string>(), options);
    nlohmann::json ranges = nlohmann::json::array();
    for (const auto& range : text.ranges) ranges.push_back({range.begin, range.end});
    return {{"ids", text.ids}, {"ranges", ranges}, {"crossed", text.crossed_cuts}};
}

void run(const Options& options) {
    const auto load_start = std::chrono::steady_clock::now();
    const auto tokenizer = qlora::tokenizer::load_tokenizer(options.model);
    if (options.time) std::cerr << "load " << seconds_since(load_start) << " s\n";
    double busy = 0;
    std::string line;
    while (std::getline(std::cin, line)) {
        const auto input = nlohmann::json::parse(line);
        nlohmann::json output;
        const auto start = std::chrono::steady_clock::now();
        if (options.text) {
            output = encode_text(*tokenizer, input);
        } else if (options.decode) {
            output =
                tokenizer->decode(input.get<std::vector<qlora::tokenizer::TokenId>>(), options.skip_special);
        } else {
            output = tokenizer->encode(input.get_ref<const std::string&>(), options.encode);
        }
        busy += seconds_since(start);
        std::cout << output.dump() << '\n';
    }
    if (options.time) std::cerr << (options.decode ? "decode " : "encode ") << busy << " s\n";
}

}  // namespace

int main(int argc, char** argv) {
    std::ios::sync_with_stdio(false);
    Options options;
    if (!parse(argc, argv, options)) {
        std::cerr << "usage: tokenize --model DIR [--special] [--add-special] [--decode] [--skip-special] "
                     "[--text] [--time]\n";
        return 2;
    }
    try {
        run(options);
    } catch (const std::exception& error) {
        std::cerr << "tokenize: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
