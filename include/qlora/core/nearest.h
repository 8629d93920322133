#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace qlora {

/// ASCII letters in lower case, all else as it is.
std::string lower_case(std::string_view text);

/// Edits (insert, delete, replace, swap of neighbours) that turn `a` into `b`.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// Up to `limit` candidates a user may have meant by `name`, best first: few edits apart (about a third of
/// the length), or one contains the other. Case does not count.
std::vector<std::string> near_names(std::string_view name, const std::vector<std::string>& candidates,
                                    std::size_t limit = 3);

/// The end of a message: `; did you mean "a" or "b"?`, or nothing when no candidate is near.
std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace qlora
