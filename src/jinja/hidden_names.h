#pragma once

#include "syntax_tree.h"

namespace qlora::jinja {

/// Fills in the `hidden` names of all frames of a program.
///
/// jinja2 decides before it runs which variable a name means. A name that a frame (the template, a loop's
/// body, a macro, a block with a scope of its own) surely sets, and does not read before, is a variable of
/// that frame from its beginning on: what stands inside finds it undefined until it is set, even if the
/// caller gives a variable of that name.
void find_hidden_names(Program& program);

}  // namespace qlora::jinja
