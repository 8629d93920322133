#pragma once

#include "runtime.h"

namespace qlora::jinja {

/// Python's upper(), lower(), title() and capitalize(). Characters whose mapping depends on their neighbours
/// or has several characters are refused by name, but for the sharp s.
TextPtr upper(Runtime& runtime, const Text& text);
TextPtr lower(Runtime& runtime, const Text& text);
TextPtr title(Runtime& runtime, const Text& text);
TextPtr capitalize(Runtime& runtime, const Text& text);
/// Jinja's title filter: the first letter after white space and -({[< is upper case, all others lower case.
TextPtr title_words(Runtime& runtime, const Text& text);

}  // namespace qlora::jinja
