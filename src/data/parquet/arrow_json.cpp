#include "arrow_json.h"

#include <arrow/array.h>
#include <arrow/extension_type.h>
#include <arrow/record_batch.h>
#include <arrow/scalar.h>
#include <arrow/type.h>
#include <arrow/util/float16.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "../json_cell.h"
#include "../row_source.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/core/utf8.h"

namespace qlora::data {
namespace {

/// Where a value stands in its row.
struct Place {
    std::string_view name;  // of its field
    int depth = 0;          // 0: a column's value; 1: an item of it or a field; ...
    bool is_message_column = false;

    Place below() const { return {name, depth + 1}; }
};

/// A turn is an item of the list that a column holds.
constexpr int kTurnDepth = 1;

void append_value(std::string& out, const arrow::Array& array, std::int64_t i, const Place& place);

template <class Array>
const Array& as(const arrow::Array& array) {
    return static_cast<const Array&>(array);
}

void check_size(const std::string& out) {
    if (out.size() > kMaxRowBytes)
        throw RowFault("the row is longer than " + std::to_string(kMaxRowBytes >> 20) + " MiB");
}

template <class Integer>
void append_integer(std::string& out, Integer value) {
    out += std::to_string(value);
}

// Shortest digits that give the same double, with a point as Python has it. JSON has no NaN: pandas writes
// one for what is missing.
void append_double(std::string& out, double value) {
    if (std::isnan(value)) {
        out += "null";
    } else if (std::isinf(value)) {
        out += value > 0 ? "\"Infinity\"" : "\"-Infinity\"";
    } else {
        char digits[32];
        const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
        const std::string_view text(digits, static_cast<std::size_t>(end - digits));
        out += text;
        if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
    }
}

void append_text(std::string& out, std::string_view text, const Place& place, bool is_text_type) {
    // Text columns are known to be UTF-8; of binary ones many are text that a writer forgot to mark.
    if (!is_text_type && find_invalid_utf8(text) != std::string_view::npos)
        throw RowFault("\"" + std::string(place.name) +
                       "\" holds bytes that are not UTF-8 text; leave the column out");
    append_cell(out, place.is_message_column, text);
    check_size(out);
}

void append_json(std::string& out, std::string_view text, std::string_view name) {
    try {
        parse_json(text, "");
    } catch (const ConfigError& error) {
        throw RowFault("\"" + std::string(name) + "\" should be JSON and is not" + error.what());
    }
    out += text;
    check_size(out);
}

bool is_json_type(const arrow::DataType& type) {
    return type.id() == arrow::Type::EXTENSION &&
           static_cast<const arrow::ExtensionType&>(type).extension_name() == "arrow.json";
}

std::string_view text_at(const arrow::Array& array, std::int64_t i) {
    switch (array.type_id()) {
        case arrow::Type::STRING:
        case arrow::Type::BINARY:
            return as<arrow::BinaryArray>(array).GetView(i);
        case arrow::Type::LARGE_STRING:
        case arrow::Type::LARGE_BINARY:
            return as<arrow::LargeBinaryArray>(array).GetView(i);
        case arrow::Type::STRING_VIEW:
        case arrow::Type::BINARY_VIEW:
            return as<arrow::BinaryViewArray>(array).GetView(i);
        case arrow::Type::FIXED_SIZE_BINARY:
            return as<arrow::FixedSizeBinaryArray>(array).GetView(i);
        default:
            return {};
    }
}

/// Whether a field is as if it were not there. Dictionaries and JSON may hold nulls of their own.
bool is_absent(const arrow::Array& array, std::int64_t i) {
    if (array.IsNull(i)) return true;
    if (array.type_id() == arrow::Type::DICTIONARY) {
        const auto& dictionary = as<arrow::DictionaryArray>(array);
        return is_absent(*dictionary.dictionary(), dictionary.GetValueIndex(i));
    }
    if (array.type_id() == arrow::Type::EXTENSION) {
        const arrow::Array& storage = *as<arrow::ExtensionArray>(array).storage();
        return is_json_type(*array.type()) ? text_at(storage, i) == "null" : is_absent(storage, i);
    }
    if (array.type_id() == arrow::Type::DOUBLE) return std::isnan(as<arrow::DoubleArray>(array).Value(i));
    if (array.type_id() == arrow::Type::FLOAT) return std::isnan(as<arrow::FloatArray>(array).Value(i));
    return false;
}

void append_field(std::string& out, const Place& place, const arrow::Array& array, std::int64_t i) {
    if (is_absent(array, i) && (place.name != "content" || place.depth > kTurnDepth + 1)) return;
    if (out.back() != '{') out += ", ";
    append_json_string(out, place.name);
    out += ": ";
    append_value(out, array, i, place);
}

void append_struct(std::string& out, const arrow::StructArray& array, std::int64_t i, const Place& place) {
    out += '{';
    for (int field = 0; field < array.num_fields(); ++field)
        append_field(out, {array.type()->field(field)->name(), place.depth + 1}, *array.field(field), i);
    out += '}';
}

template <class List>
void append_list(std::string& out, const arrow::Array& array, std::int64_t i, const Place& place) {
    const auto& list = as<List>(array);
    const std::int64_t begin = list.value_offset(i), size = list.value_length(i);
    out += '[';
    for (std::int64_t item = begin; item < begin + size; ++item) {
        if (item > begin) out += ", ";
        append_value(out, *list.values(), item, place.below());
        check_size(out);
    }
    out += ']';
}

/// Keys are text; the parser of rows refuses one that is given twice.
void append_map(std::string& out, const arrow::MapArray& map, std::int64_t i, const Place& place) {
    out += '{';
    for (std::int64_t item = map.value_offset(i); item < map.value_offset(i) + map.value_length(i); ++item) {
        std::string key;
        append_value(key, *map.keys(), item, {"", place.depth + 1});
        if (out.back() != '{') out += ", ";
        if (key.starts_with('"')) {
            out += key;
        } else {
            append_json_string(out, key);
        }
        out += ": ";
        append_value(out, *map.items(), item, {"", place.depth + 1});
        check_size(out);
    }
    out += '}';
}

void append_value(std::string& out, const arrow::Array& array, std::int64_t i, const Place& place) {
    using arrow::Type;
    if (array.IsNull(i)) {
        out += "null";
        return;
    }
    switch (array.type_id()) {
        case Type::NA:
            out += "null";
            return;
        case Type::BOOL:
            out += as<arrow::BooleanArray>(array).Value(i) ? "true" : "false";
            return;
        case Type::INT8:
            return append_integer(out, as<arrow::Int8Array>(array).Value(i));
        case Type::INT16:
            return append_integer(out, as<arrow::Int16Array>(array).Value(i));
        case Type::INT32:
            return append_integer(out, as<arrow::Int32Array>(array).Value(i));
        case Type::INT64:
            return append_integer(out, as<arrow::Int64Array>(array).Value(i));
        case Type::UINT8:
            return append_integer(out, as<arrow::UInt8Array>(array).Value(i));
        case Type::UINT16:
            return append_integer(out, as<arrow::UInt16Array>(array).Value(i));
        case Type::UINT32:
            return append_integer(out, as<arrow::UInt32Array>(array).Value(i));
        case Type::UINT64:
            return append_integer(out, as<arrow::UInt64Array>(array).Value(i));
        case Type::HALF_FLOAT: {
            const std::uint16_t bits = as<arrow::HalfFloatArray>(array).Value(i);
            return append_double(out, arrow::util::Float16::FromBits(bits).ToDouble());
        }
        case Type::FLOAT:
            return append_double(out, static_cast<double>(as<arrow::FloatArray>(array).Value(i)));
        case Type::DOUBLE:
            return append_double(out, as<arrow::DoubleArray>(array).Value(i));
        case Type::STRING:
        case Type::LARGE_STRING:
        case Type::STRING_VIEW:
            return append_text(out, text_at(array, i), place, true);
        case Type::BINARY:
        case Type::LARGE_BINARY:
        case Type::BINARY_VIEW:
        case Type::FIXED_SIZE_BINARY:
            return append_text(out, text_at(array, i), place, false);
        case Type::LIST:
            return append_list<arrow::ListArray>(out, array, i, place);
        case Type::LARGE_LIST:
            return append_list<arrow::LargeListArray>(out, array, i, place);
        case Type::LIST_VIEW:
            return append_list<arrow::ListViewArray>(out, array, i, place);
        case Type::LARGE_LIST_VIEW:
            return append_list<arrow::LargeListViewArray>(out, array, i, place);
        case Type::FIXED_SIZE_LIST:
            return append_list<arrow::FixedSizeListArray>(out, array, i, place);
        case Type::MAP:
            return append_map(out, as<arrow::MapArray>(array), i, place);
        case Type::STRUCT:
            return append_struct(out, as<arrow::StructArray>(array), i, place);
        case Type::DICTIONARY: {
            const auto& dictionary = as<arrow::DictionaryArray>(array);
            return append_value(out, *dictionary.dictionary(), dictionary.GetValueIndex(i), place);
        }
        case Type::EXTENSION: {
            const arrow::Array& storage = *as<arrow::ExtensionArray>(array).storage();
            if (is_json_type(*array.type())) return append_json(out, text_at(storage, i), place.name);
            return append_value(out, storage, i, place);
        }
        default:
            break;  // dates, times, decimals
    }
    const auto scalar = array.GetScalar(i);
    if (!scalar.ok()) throw RowFault("\"" + std::string(place.name) + "\": " + scalar.status().message());
    append_json_string(out, (*scalar)->ToString());
}

}  // namespace

void append_row(std::string& out, const arrow::RecordBatch& batch, std::int64_t i,
                const std::vector<std::string>& message_columns) {
    out += '{';
    for (int column = 0; column < batch.num_columns(); ++column) {
        const std::string& name = batch.column_name(column);
        const bool may_hold_messages =
            std::find(message_columns.begin(), message_columns.end(), name) != message_columns.end();
        append_field(out, {name, 0, may_hold_messages}, *batch.column(column), i);
    }
    out += '}';
    check_size(out);
}

}  // namespace qlora::data
