#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "qlora/data/message.h"
#include "row_fields.h"
#include "turn_reader.h"

namespace qlora::data::formats {

/// The turns at `field`, a non-empty list (or its JSON text); system and developer turns stand first.
/// `names`: see read_turn. DataError with the turn's place.
std::vector<Message> turns_at(RowFields& row, std::string_view field, const TurnNames& names);

/// Puts the row's `system` field, if it says something, before the turns; DataError where they begin with a
/// system turn already. True where it did.
bool add_system_field(RowFields& row, std::vector<Message>& turns);

/// LLaMA-Factory's `history`: earlier rounds as pairs of strings, [question, answer]. Appends their turns.
void add_history_field(RowFields& row, std::vector<Message>& turns);

}  // namespace qlora::data::formats
