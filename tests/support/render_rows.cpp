// Renders a data file for a model folder: one JSON line a kept row, then one with the statistics. For the
// peer tests.
#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <string>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/data/preview.h"
#include "qlora/data/prompt_template.h"
#include "qlora/data/sft_dataset.h"

namespace {

using namespace qlora;
using namespace qlora::data;

struct Arguments {
    std::string model;
    std::string rejected;
    std::string chat_template;
    std::int64_t preview = 0;
    std::int64_t embedding_rows = 0;
    Json settings = Json::object();  // of the `data` section
};

template <class T>
void add_setting(CLI::App& app, Json& settings, const std::string& flag, const std::string& key) {
    app.add_option_function<T>(flag, [&settings, key](const T& value) { settings[key] = value; });
}

Json line_of(const Example& example) {
    Json supervised = Json::array();
    for (const std::uint8_t value : example.supervised) supervised.push_back(value != 0);
    return {{"row", example.row},
            {"place", example.place},
            {"ids", example.ids},
            {"supervised", supervised},
            {"answer_begin", example.answer_begin},
            {"prompt", example.prompt},
            {"expected", example.expected},
            {"task", example.task}};
}

Json line_of(const Dataset& dataset) {
    const DatasetStatistics& s = dataset.statistics;
    return {{"read", s.read},
            {"kept", s.kept},
            {"dropped", s.dropped()},
            {"rejected", s.rejected},
            {"truncated", s.truncated},
            {"tokens", s.tokens},
            {"supervised_tokens", s.supervised_tokens},
            {"duplicates", s.duplicates.count},
            {"conflicts", s.conflicts.count},
            {"fingerprint", dataset.fingerprint}};
}

void render(const Arguments& arguments) {
    DataConfig config;
    ReadState state;
    read_fields(arguments.settings, "data", config, state);
    state.faults.throw_if_any<ConfigError>("settings");
    const auto tokenizer = tokenizer::load_tokenizer(arguments.model);
    const auto special = tokenizer::load_special_tokens(arguments.model, *tokenizer);
    const PromptTemplate prompt_template(config.template_, read_chat_template(arguments.model), *tokenizer,
                                         special);
    if (!arguments.chat_template.empty())
        write_file_atomically(arguments.chat_template, prompt_template.chat_template().value_or(""));
    const Dataset dataset =
        load_dataset(config.train.files, config, prompt_template, arguments.embedding_rows);
    if (!arguments.rejected.empty()) write_rejected(arguments.rejected, dataset.rejected);
    for (const Example& example : dataset.examples) std::cout << line_of(example).dump() << "\n";
    std::cout << line_of(dataset).dump() << "\n";
    if (arguments.preview > 0) {
        std::cerr << preview_rows(dataset, *tokenizer, arguments.preview) << describe(dataset.statistics);
    }
}

}  // namespace

int main(int argc, char** argv) {
    Arguments arguments;
    CLI::App app{"Renders a data file to token ids."};
    app.add_option("--model", arguments.model, "model folder")->required();
    add_setting<std::string>(app, arguments.settings, "--data", "train");
    add_setting<std::string>(app, arguments.settings, "--format", "format");
    add_setting<std::string>(app, arguments.settings, "--template", "template");
    add_setting<std::int64_t>(app, arguments.settings, "--max-length", "max_length");
    add_setting<std::string>(app, arguments.settings, "--overlong", "overlong");
    add_setting<std::string>(app, arguments.settings, "--train-on", "train_on");
    add_setting<std::string>(app, arguments.settings, "--on-bad-row", "on_bad_row");
    app.add_option("--rejected", arguments.rejected, "where bad rows are listed");
    app.add_option("--chat-template", arguments.chat_template, "where the template is written as Jinja");
    app.add_option("--preview", arguments.preview, "rows shown on stderr");
    app.add_option("--embedding-rows", arguments.embedding_rows);
    CLI11_PARSE(app, argc, argv);
    try {
        render(arguments);
        return 0;
    } catch (const Error& error) {
        std::cerr << error.what() << "\n";
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
