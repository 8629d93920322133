// Renders a data file for a model folder: one JSON line a kept row, then one with the statistics. For the
// peer tests.
#include <exception>
#include <iostream>
#include <map>
#include <string>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/core/whole_file.h"
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
    std::vector<tokenizer::TokenId> end_ids;
    Json settings = Json::object();  // of the `data` section
};

/// `--flag value` pairs. Numbers and words of settings go through the reader of the `data` section.
Arguments read_arguments(int argc, char** argv) {
    const std::map<std::string, std::string> settings = {
        {"--data", "train"},        {"--format", "format"},     {"--template", "template"},
        {"--overlong", "overlong"}, {"--train-on", "train_on"}, {"--on-bad-row", "on_bad_row"}};
    Arguments out;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string flag = argv[i], value = argv[i + 1];
        if (settings.contains(flag)) {
            out.settings[settings.at(flag)] = value;
        } else if (flag == "--max-length") {
            out.settings["max_length"] = std::stoll(value);
        } else if (flag == "--model") {
            out.model = value;
        } else if (flag == "--rejected") {
            out.rejected = value;
        } else if (flag == "--chat-template") {
            out.chat_template = value;
        } else if (flag == "--preview") {
            out.preview = std::stoll(value);
        } else if (flag == "--settings") {
            out.settings.update(parse_json(value, flag));
        } else if (flag == "--end-ids") {
            out.end_ids = parse_json(value, flag).get<std::vector<tokenizer::TokenId>>();
        } else if (flag == "--embedding-rows") {
            out.embedding_rows = std::stoll(value);
        } else {
            throw ConfigError("render_rows: unknown flag " + flag);
        }
    }
    if (argc % 2 == 0) throw ConfigError("render_rows: each flag has a value");
    return out;
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
            {"cut_edges", s.cut_edges},
            {"without_end", s.without_end},
            {"fingerprint", dataset.fingerprint}};
}

void render(const Arguments& arguments) {
    DataConfig config;
    ReadState state;
    read_fields(arguments.settings, "data", config, state);
    state.faults.throw_if_any<ConfigError>("settings");
    const auto tokenizer = tokenizer::load_tokenizer(arguments.model);
    const auto special = tokenizer::load_special_tokens(arguments.model, *tokenizer);
    TemplateInputs inputs{.arguments = config.template_arguments.values,
                          .tools = config.tools.list,
                          .documents = config.documents.list,
                          .clock = {.year = 2026, .month = 2, .day = 9, .hour = 4, .minute = 5, .second = 7},
                          .tool_use = read_tool_template(arguments.model),
                          .end_ids = arguments.end_ids};
    for (const auto& [name, text] : tokenizer::special_token_texts(arguments.model))
        inputs.special_tokens[name] = text;
    const auto& file = config.template_.file;
    const PromptTemplate prompt_template =
        file.empty()
            ? PromptTemplate(config.template_.name, read_chat_template(arguments.model), *tokenizer, special,
                             inputs)
            : PromptTemplate(read_whole_file(file), file.filename().string(), *tokenizer, special, inputs);
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
    try {
        render(read_arguments(argc, argv));
        return 0;
    } catch (const Error& error) {
        std::cerr << error.what() << "\n";
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
