#include "message_columns.h"

#include <array>
#include <string_view>

namespace qlora::data {
namespace {

constexpr std::array<std::string_view, 4> kTextOrMessages = {"prompt", "completion", "chosen", "rejected"};

}  // namespace

std::vector<std::string> message_columns(const ColumnNames& columns) {
    std::vector<std::string> out;
    for (const std::string_view field : kTextOrMessages) {
        const std::string* column = columns.column_of(field);
        out.push_back(column != nullptr ? *column : std::string(field));
    }
    return out;
}

}  // namespace qlora::data
