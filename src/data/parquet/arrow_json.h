#pragma once

#include <arrow/type_fwd.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::data {

/// Why a row has no JSON text.
class RowFault : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Appends fields `0..` of row `i` of the columns as a JSON object. Left out are null fields, here and in
/// structs, as TRL leaves them out: Arrow gives every struct of a list the fields of all, and a null says
/// only that another one has it. The `content` of a turn stays, because a null says something there (a turn
/// that only calls tools). Text columns are read by `append_cell`, `arrow.json` as the JSON that it spells,
/// binary as text, and dates, times and decimals become text. RowFault where a value is no UTF-8 text or no
/// JSON, or the row too long.
void append_row(std::string& out, const arrow::RecordBatch& batch, std::int64_t i,
                const std::vector<std::string>& message_columns);

}  // namespace qlora::data
