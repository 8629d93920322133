#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "qlora/core/fields.h"

namespace qlora::data {

enum class DataFormat { kAuto, kAlpaca, kPromptCompletion, kMessages, kSharegpt, kText };
constexpr EnumTable<DataFormat, 6> enum_table(DataFormat) {
    return {{{"auto", DataFormat::kAuto},
             {"alpaca", DataFormat::kAlpaca},
             {"prompt_completion", DataFormat::kPromptCompletion},
             {"messages", DataFormat::kMessages},
             {"sharegpt", DataFormat::kSharegpt},
             {"text", DataFormat::kText}}};
}

enum class TemplateName { kAuto, kChatml, kLlama3, kAlpaca, kNone };
constexpr EnumTable<TemplateName, 5> enum_table(TemplateName) {
    return {{{"auto", TemplateName::kAuto},
             {"chatml", TemplateName::kChatml},
             {"llama3", TemplateName::kLlama3},
             {"alpaca", TemplateName::kAlpaca},
             {"none", TemplateName::kNone}}};
}

enum class Overlong { kDrop, kTruncate };
constexpr EnumTable<Overlong, 2> enum_table(Overlong) {
    return {{{"drop", Overlong::kDrop}, {"truncate", Overlong::kTruncate}}};
}

enum class TrainOn { kAssistant, kLastAssistant, kAll };
constexpr EnumTable<TrainOn, 3> enum_table(TrainOn) {
    return {{{"assistant", TrainOn::kAssistant},
             {"last_assistant", TrainOn::kLastAssistant},
             {"all", TrainOn::kAll}}};
}

enum class OnBadRow { kStop, kSkip };
constexpr EnumTable<OnBadRow, 2> enum_table(OnBadRow) {
    return {{{"stop", OnBadRow::kStop}, {"skip", OnBadRow::kSkip}}};
}

/// Which column of the data holds a field of a row: the field's name here, the column's name in the files.
struct ColumnNames {
    std::vector<std::pair<std::string, std::string>> columns;
    /// Null where the field goes by its own name.
    const std::string* column_of(std::string_view field) const;
    bool operator==(const ColumnNames&) const = default;
};

/// A template by its name, or a file with a chat template.
struct TemplateChoice {
    TemplateChoice(TemplateName by_name = TemplateName::kAuto) : name(by_name) {}
    TemplateName name;
    std::filesystem::path file;  ///< empty: by name
    bool operator==(const TemplateChoice&) const = default;
};

/// Variables for the chat template; null where none are given.
struct TemplateArguments {
    Json values;
    bool operator==(const TemplateArguments&) const = default;
};

/// Tools or documents for the chat template, as rows have them; null where none are given.
struct TemplateObjects {
    Json list;
    bool operator==(const TemplateObjects&) const = default;
};

/// One file or a list of files in JSON.
struct FileList {
    std::vector<std::filesystem::path> files;
    bool operator==(const FileList&) const = default;
};

/// Some rows of the training files: a share of them, or so many.
struct RowPart {
    double share = 0;       ///< above 0 and below 1; 0: `rows` counts
    std::int64_t rows = 0;  ///< at least 1; 0: `share` counts
    bool operator==(const RowPart&) const = default;
};

/// Where held-out rows come from: a file of their own, or the training files, which are trained without them.
using HeldOut = std::variant<std::filesystem::path, RowPart>;

/// The `data` section.
struct DataConfig {
    FileList train;
    std::optional<HeldOut> eval;
    DataFormat format = DataFormat::kAuto;
    ColumnNames columns;
    TemplateChoice template_;
    TemplateArguments template_arguments;
    TemplateObjects tools, documents;
    std::int64_t max_length = 1024;
    Overlong overlong = Overlong::kDrop;
    TrainOn train_on = TrainOn::kAssistant;
    bool one_row_per_answer = false;
    std::optional<std::int64_t> max_tokens_per_batch;
    bool group_by_length = false;
    OnBadRow on_bad_row = OnBadRow::kStop;

    /// Null where there is no held-out file.
    const std::filesystem::path* eval_file() const {
        return eval ? std::get_if<std::filesystem::path>(&*eval) : nullptr;
    }
    /// Null where no rows are held out of the training files.
    const RowPart* eval_part() const { return eval ? std::get_if<RowPart>(&*eval) : nullptr; }

    bool operator==(const DataConfig&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("train", self.train, {.required = true, .free_on_resume = true},
              "training file (.jsonl, .json, .csv, .tsv, also with .gz or .zst; .parquet), folder or pattern "
              "such as "
              "rows/*.jsonl, or a list of these");
        visit("eval", self.eval, {.free_on_resume = true},
              "held-out file, folder or pattern, or rows held out of the training files, chosen by "
              "training.seed: a share or a "
              "number of them");
        visit("format", self.format, {}, "layout of a row; auto: from the fields of each row");
        visit("columns", self.columns, {},
              "names of the data's columns where they are others than a format's: {\"prompt\": \"question\", "
              "\"completion\": \"reply\"}");
        visit("template", self.template_, {},
              "how turns become text: the checkpoint's own chat template (auto), a built-in one, or a file "
              "with a template");
        visit("template_arguments", self.template_arguments, {},
              "variables for the chat template, such as {\"enable_thinking\": false}");
        visit("tools", self.tools, {}, "tools that the chat template is given for rows without any");
        visit("documents", self.documents, {}, "documents, likewise");
        visit("max_length", self.max_length, {.min = 2}, "longest row in tokens");
        visit("overlong", self.overlong, {}, "longer rows are dropped, or cut at the end (both are counted)");
        visit("train_on", self.train_on, {},
              "what has a loss: all assistant turns, the last one, or every token");
        visit(
            "one_row_per_answer", self.one_row_per_answer, {},
            "a conversation becomes a row for each answer, with the turns before it as inference sees them");
        visit("max_tokens_per_batch", self.max_tokens_per_batch, {.min = 1},
              "fill micro-batches up to this many tokens instead of counting rows");
        visit("group_by_length", self.group_by_length, {},
              "rows of similar length share a micro-batch; nothing is padded, so it buys little");
        visit("on_bad_row", self.on_bad_row, {},
              "stop before training, or list bad rows in rejected.jsonl and go on");
    }
};

}  // namespace qlora::data

namespace qlora {

template <>
struct FieldType<data::TemplateChoice> {
    static std::string kind() { return FieldType<data::TemplateName>::kind() + " | a path"; }
    static bool fits(const Json& value) { return value.is_string(); }
    static std::string read(const Json& value, const FieldRule& rule, data::TemplateChoice& out);
    static Json write(const data::TemplateChoice& value) {
        return value.file.empty() ? FieldType<data::TemplateName>::write(value.name)
                                  : Json(value.file.string());
    }
};

template <>
struct FieldType<data::TemplateArguments> {
    static std::string kind() { return "null or an object"; }
    static bool fits(const Json& value) { return value.is_null() || value.is_object(); }
    static std::string read(const Json& value, const FieldRule& rule, data::TemplateArguments& out);
    static Json write(const data::TemplateArguments& value) { return value.values; }
};

template <>
struct FieldType<data::TemplateObjects> {
    static std::string kind() { return "null or a list of objects"; }
    static bool fits(const Json& value) { return value.is_null() || value.is_array(); }
    static std::string read(const Json& value, const FieldRule& rule, data::TemplateObjects& out);
    static Json write(const data::TemplateObjects& value) { return value.list; }
};

template <>
struct FieldType<data::FileList> {
    using List = std::vector<std::filesystem::path>;

    static std::string kind() { return "a path or a list of paths"; }
    static bool fits(const Json& value) { return value.is_string() || value.is_array(); }
    static std::string read(const Json& value, const FieldRule& rule, data::FileList& out) {
        if (!fits(value)) return wrong_type(kind(), value);
        if (value.is_string()) return FieldType<List>::read(Json::array({value}), rule, out.files);
        if (value.empty()) return "must name at least one file";
        return FieldType<List>::read(value, rule, out.files);
    }
    static Json write(const data::FileList& value) { return FieldType<List>::write(value.files); }
};

template <>
struct FieldType<data::ColumnNames> {
    using Names = std::vector<std::pair<std::string, std::string>>;

    static std::string kind() { return "an object (field: column)"; }
    static bool fits(const Json& value) { return value.is_object(); }
    static std::string read(const Json& value, const FieldRule& rule, data::ColumnNames& out);
    static Json write(const data::ColumnNames& value) { return FieldType<Names>::write(value.columns); }
};

template <>
struct FieldType<data::RowPart> {
    static std::string kind() { return "a share (above 0, below 1) or a number of the training rows"; }
    static bool fits(const Json& value) { return value.is_number(); }
    static std::string read(const Json& value, const FieldRule&, data::RowPart& out);
    static Json write(const data::RowPart& value) {
        return value.rows > 0 ? Json(value.rows) : Json(value.share);
    }
};

}  // namespace qlora
