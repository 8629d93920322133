#pragma once

#include "runtime.h"

namespace qlora::jinja {

// jinja2's filters over sequences and dicts; the names and orders of their arguments are jinja2's. map,
// select, selectattr, reject, rejectattr, items and unique give iterators, which work only when they are
// asked for items.
Value dictsort_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value first_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value items_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value last_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value length_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value list_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value map_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value max_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value min_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value reject_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value rejectattr_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value reverse_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value select_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value selectattr_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value sort_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value unique_filter(Runtime& runtime, const Value& value, const Arguments& arguments);

}  // namespace qlora::jinja
