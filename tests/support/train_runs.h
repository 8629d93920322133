#pragma once

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "qlora/cli/commands.h"
#include "qlora/core/json.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace qlora::test {

/// Texts of `--set`.
using Settings = std::vector<std::string>;

/// What a run left behind, without anything that depends on time.
struct TrainOutcome {
    int code = 0;
    std::string log;
    std::string printed;         ///< on stdout
    std::vector<Json> metrics;   ///< lines of metrics.jsonl without speed and memory
    std::string adapter_values;  ///< bytes behind the header of the adapter file
    std::string files;           ///< names of all files, then the content of adapter_config.json
    std::int64_t threads = 0;

    bool has_same_numbers(const TrainOutcome& other) const {
        return metrics == other.metrics && adapter_values == other.adapter_values;
    }
    bool says(const std::string& text) const { return log.find(text) != std::string::npos; }
    /// Data rows in the order they were trained; needs `training.log_rows`.
    std::vector<std::int64_t> rows() const {
        std::vector<std::int64_t> out;
        for (const Json& line : metrics) {
            if (!line.contains("rows")) continue;
            for (const Json& row : line["rows"]) out.push_back(row.get<std::int64_t>());
        }
        return out;
    }
};

/// Whole runs of qlora-train in this process, on tiny models and rows in a folder of their own.
class TrainRuns {
  public:
    TrainRuns() {
        write_model("model", {.seed = 1});
        write_model("other_model", {.seed = 2});
        // Large enough for its dense forms to show in the memory plan, which is in hundredths of a GB.
        write_model("wide_model", {.intermediate = 16000});
        write_rows("train.jsonl", 12, 0);
        write_rows("other_train.jsonl", 12, 5);
        write_rows("one_row.jsonl", 1, 0);
        write_rows("eval.jsonl", 4, 7);
        write_rows("other_eval.jsonl", 4, 9);
        write_file(
            folder_ / "turns.jsonl",
            R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, )"
            R"({"role": "user", "content": "b a"}, {"role": "assistant", "content": "a b"}]})"
            "\n");
        write_file(folder_ / "own.jinja",
                   "{{ 'ab' if mode else '' }}{{ 'a' if tools else 'b' }}{{ 'b' if documents else 'a' }}"
                   "{% for message in messages %}{{ message.content }}{% endfor %}");
        write_file(folder_ / "bad_row.jsonl", read_file(folder_ / "train.jsonl") + "{}\n");
    }

    std::string path(const std::string& name) const { return (folder_ / name).string(); }

    /// Six steps on one CPU thread.
    Json config() const {
        return {
            {"model", {{"path", path("model")}, {"device", "cpu"}, {"threads", 1}}},
            {"peft", {{"r", 4}}},
            {"data", {{"train", path("train.jsonl")}, {"eval", path("eval.jsonl")}, {"template", "none"}}},
            {"training",
             {{"gradient_accumulation_steps", 2}, {"learning_rate", 1e-2}, {"logging_steps", 1}}}};
    }

    /// The output folder is a new one each time.
    TrainOutcome run(Json config, const Settings& settings) {
        output_ = folder_ / ("run" + std::to_string(++runs_));
        config["training"]["output_dir"] = output_.string();
        write_file(folder_ / "run.json", config.dump());
        return again({}, settings);
    }
    TrainOutcome run(const Settings& settings) { return run(config(), settings); }

    /// qlora-train with the configuration and the output folder of the last run.
    TrainOutcome again(const std::vector<std::string>& flags, const Settings& settings) {
        return start(cli::train_main, "qlora-train", flags, settings);
    }
    /// qlora-eval with the same.
    TrainOutcome evaluate(const std::vector<std::string>& flags, const Settings& settings) {
        return start(cli::eval_main, "qlora-eval", flags, settings);
    }

    /// Of the last run.
    const std::filesystem::path& output() const { return output_; }

  private:
    TrainOutcome start(int (*program)(int, char**), const char* name, const std::vector<std::string>& flags,
                       const Settings& settings) const {
        std::vector<std::string> words = {name, "--config", path("run.json")};
        words.insert(words.end(), flags.begin(), flags.end());
        for (const std::string& setting : settings) {
            words.emplace_back("--set");
            words.push_back(setting);
        }
        std::vector<char*> arguments;
        for (std::string& word : words) arguments.push_back(word.data());
        TrainOutcome out;
        testing::internal::CaptureStderr();
        testing::internal::CaptureStdout();
        out.code = program(static_cast<int>(arguments.size()), arguments.data());
        out.printed = testing::internal::GetCapturedStdout();
        out.log = testing::internal::GetCapturedStderr();
        out.threads = at::get_num_threads();
        if (std::filesystem::exists(output_)) read_output(out);
        return out;
    }

    static constexpr int kTokens = 40;  // of which the tokenizer has 31

    void write_model(const std::string& name, TinyModel model) const {
        model.vocab = kTokens;
        model.bias = true;
        std::filesystem::create_directory(folder_ / name);
        model.write(folder_ / name);
        write_file(folder_ / name / "tokenizer.json", tokenizer().dump());
        write_file(folder_ / name / "tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
    }

    /// A token for each small letter, blank, line feed and full stop, and chatml's two.
    static Json tokenizer() {
        Json vocabulary = Json::object();
        for (char letter = 'a'; letter <= 'z'; ++letter)
            vocabulary[std::string(1, letter)] = static_cast<int>(vocabulary.size());
        for (const char* piece : {"Ġ", "Ċ", "."}) vocabulary[piece] = static_cast<int>(vocabulary.size());
        Json added = Json::array();
        for (const char* token : {"<|im_start|>", "<|im_end|>"}) {
            added.push_back({{"id", static_cast<int>(vocabulary.size() + added.size())},
                             {"content", token},
                             {"single_word", false},
                             {"lstrip", false},
                             {"rstrip", false},
                             {"normalized", false},
                             {"special", true}});
        }
        const Json bytes = {
            {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
        return {{"version", "1.0"},
                {"truncation", nullptr},
                {"padding", nullptr},
                {"added_tokens", added},
                {"normalizer", nullptr},
                {"pre_tokenizer", bytes},
                {"post_processor", nullptr},
                {"decoder", bytes},
                {"model",
                 {{"type", "BPE"},
                  {"dropout", nullptr},
                  {"unk_token", nullptr},
                  {"continuing_subword_prefix", nullptr},
                  {"end_of_word_suffix", nullptr},
                  {"fuse_unk", false},
                  {"byte_fallback", false},
                  {"ignore_merges", false},
                  {"vocab", vocabulary},
                  {"merges", Json::array()}}}};
    }

    /// Row i has 3 + i % 5 letters of prompt and 2 + i % 3 of completion.
    void write_rows(const std::string& name, int count, int shift) const {
        std::string text;
        for (int row = 0; row < count; ++row) {
            std::string prompt, answer;
            for (int i = 0; i < 3 + row % 5; ++i)
                prompt += static_cast<char>('a' + (row * 7 + i * 3 + shift) % 26);
            for (int i = 0; i < 2 + row % 3; ++i)
                answer += static_cast<char>('a' + (row * 5 + i + shift) % 26);
            text += Json{{"prompt", prompt + " "}, {"completion", answer}}.dump() + "\n";
        }
        write_file(folder_ / name, text);
    }

    void read_output(TrainOutcome& out) const {
        std::set<std::string> names;
        for (const auto& entry : std::filesystem::recursive_directory_iterator(output_))
            names.insert(std::filesystem::relative(entry.path(), output_).string());
        for (const std::string& name : names) out.files += name + "\n";
        if (names.contains("metrics.jsonl")) {
            std::istringstream lines(read_file(output_ / "metrics.jsonl"));
            for (std::string line; std::getline(lines, line);) {
                Json value = parse_json(line, "metrics.jsonl");
                for (const char* timed : {"tokens_per_second", "step_time", "memory_bytes"})
                    value.erase(timed);
                out.metrics.push_back(std::move(value));
            }
        }
        if (!names.contains("adapter/adapter_model.safetensors")) return;
        out.files += read_file(output_ / "adapter/adapter_config.json");
        const std::string adapter = read_file(output_ / "adapter/adapter_model.safetensors");
        std::uint64_t header = 0;
        std::memcpy(&header, adapter.data(), sizeof header);
        out.adapter_values = adapter.substr(sizeof header + header);
    }

    TempDir folder_;
    int runs_ = 0;
    std::filesystem::path output_;
};

}  // namespace qlora::test
