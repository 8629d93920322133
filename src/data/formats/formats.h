#pragma once

#include "qlora/data/record_format.h"

namespace qlora::data::formats {

RecordFormat alpaca();
RecordFormat prompt_completion();
RecordFormat messages();
RecordFormat sharegpt();
RecordFormat text();

}  // namespace qlora::data::formats
