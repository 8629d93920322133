// libFuzzer target for the row parser: whatever the bytes are, the row becomes a record that rendering can
// rely on, or is refused with a DataError. Build with clang++ -fsanitize=fuzzer,address,undefined.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/data/record_format.h"

namespace {

using namespace qlora::data;

// What rendering relies on: the parser let it through, so it must hold.
void check(const Record& record) {
    if (record.kind == RecordKind::kText) {
        if (record.text.empty() || !record.messages.empty()) std::abort();
        return;
    }
    if (record.messages.empty() || record.context > record.messages.size()) std::abort();
    for (std::size_t i = 1; i < record.messages.size(); ++i) {
        if (record.messages[i].role() == Role::kSystem) std::abort();
    }
    for (const Message& message : record.messages) {
        const bool says = !message.content().empty() || !message.reasoning().empty() || message.calls_tools();
        if (!says && message.role() == Role::kAssistant) std::abort();
    }
    if (!record.tools.is_null() && !record.tools.is_array()) std::abort();
    const bool is_pair = record.kind != RecordKind::kConversation;
    if (is_pair && (record.messages.size() < 2 || record.messages.back().role() != Role::kAssistant))
        std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    const qlora::data::ColumnNames columns{
        (data[0] & 0x20) != 0 ? std::vector<std::pair<std::string, std::string>>{{"prompt", "text"}}
                              : std::vector<std::pair<std::string, std::string>>{}};
    const auto format = static_cast<DataFormat>(data[0] % 6);
    try {
        check(parse_record(text, format, (data[0] & 0x40) != 0, columns));
    } catch (const qlora::DataError&) {
    }
    return 0;
}
