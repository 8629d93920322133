#include "qlora/data/data_config.h"

namespace qlora {

std::string FieldType<data::RowPart>::read(const Json& value, const FieldRule&, data::RowPart& out) {
    data::RowPart part;
    bool is_read = false;
    if (value.is_number_integer()) {
        is_read = FieldType<std::int64_t>::read(value, {.min = 1}, part.rows).empty();
    } else if (value.is_number()) {
        part.share = value.get<double>();
        is_read = part.share > 0 && part.share < 1;
    }
    if (!is_read)
        return wrong_type("a path, a share of the training rows (above 0, below 1) or a whole number of them",
                          value);
    out = part;
    return "";
}

}  // namespace qlora
