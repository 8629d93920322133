"""Random templates: from a grammar of what the interpreter supports, and by cutting real ones up."""

TEXTS = ["s", "'a'", "'B c'", "''", "'한 😀\\n'", "lines", "spaces", "empty", "messages[0].content", "messages[1].role", "quotes[1]", "words[0]", "x", "control"]
WHOLES = ["n", "zero", "1", "-3", "numbers[0]", "words|length", "true", "messages[2].id"]
LISTS = ["words", "numbers", "people", "messages", "mixed", "quotes", "[1, 'a', none]", "[]", "(1, 'b')", "range(4)", "d.items()", "d.keys()", "d", "floats"]
OTHERS = ["none", "missing", "d", "f", "1.5", "{'a': 1, 'b': [2]}", "y", "people[0]", "d.missing", "d['items']", "floats[2]"]
TEXT_METHODS = ["strip()", "upper()", "lower()", "title()", "lstrip('a ')", "rstrip()", "capitalize()", "replace('a', 'xy')", "strip('aB')"]
TEXT_FILTERS = ["trim", "upper", "lower", "title", "capitalize", "string", "indent(2)", "indent(1, true)", "replace('a', 'b')", "default('x')", "safe", "tojson", "reverse"]
LIST_METHODS = ["split()", "split(' ')", "split('a', 1)", "splitlines()", "rsplit(' ', 1)", "rsplit()"]
LIST_FILTERS = ["list", "reverse|list", "map('string')|list", "map(attribute='name')|list", "selectattr('name')|list", "select|list", "reject('none')|list", "select('string')|list",
                "selectattr('age', 'equalto', 2)|list", "rejectattr('name')|list", "unique|list", "map('upper')|list", "sort(attribute='name')", "reject('in', [1])|list", "map('tojson')|list"]
TESTS = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "boolean", "true", "false", "number", "integer", "float", "eq 1", "in [1, 'a']", "ne 'a'"]
COMPARISONS = ["==", "!=", "<", "<=", ">", ">=", "in", "not in"]


def text(draw, depth):
    kind = draw.randrange(9) if depth else 0
    if kind < 2:
        return draw.choice(TEXTS)
    if kind == 2:
        return f"({text(draw, depth - 1)}).{draw.choice(TEXT_METHODS)}"
    if kind == 3:
        return f"({text(draw, depth - 1)})|{draw.choice(TEXT_FILTERS)}"
    if kind == 4:
        return f"({text(draw, depth - 1)})[{draw.choice(['0', '-1', '1:', ':1', '::-1', '1:3', ':-2', '::2', '-3:'])}]"
    if kind == 5:
        return f"{text(draw, depth - 1)} {draw.choice('~+')} {text(draw, depth - 1)}"
    if kind == 6:
        return f"({expression(draw, depth - 1)})|{draw.choice(['string', 'tojson', 'tojson(indent=1)'])}"
    if kind == 7:
        return f"({items(draw, depth - 1)})|join({draw.choice(['', repr(', '), 'n'])})"
    return f"({text(draw, depth - 1)}) * {draw.choice(['2', '0', 'n'])}"


def whole(draw, depth):
    kind = draw.randrange(5) if depth else 0
    if kind == 0:
        return draw.choice(WHOLES)
    if kind == 1:
        return f"({whole(draw, depth - 1)} {draw.choice(['+', '-', '*', '%', '//', '/'])} {whole(draw, depth - 1)})"
    if kind == 2:
        return f"({items(draw, depth - 1)})|{draw.choice(['list|length', 'list|count', 'first|default(3)|int'])}"
    if kind == 3:
        return f"({text(draw, depth - 1)})|{draw.choice(['length', 'int', 'count', 'int(5)'])}"
    return f"{draw.choice(['-', '+'])}{whole(draw, depth - 1)}|abs"


def items(draw, depth):
    kind = draw.randrange(6) if depth else 0
    if kind < 2:
        return draw.choice(LISTS)
    if kind == 2:
        return f"({text(draw, depth - 1)}).{draw.choice(LIST_METHODS)}"
    if kind == 3:
        return f"({items(draw, depth - 1)})|{draw.choice(LIST_FILTERS)}"
    if kind == 4:
        return f"(({items(draw, depth - 1)})|list)[{draw.choice(['1:', ':1', '::-1', '1:3', ':-1', '::2'])}]"
    return f"[{expression(draw, depth - 1)}, {expression(draw, depth - 1)}]"


def condition(draw, depth):
    kind = draw.randrange(6) if depth else 0
    if kind == 0:
        return draw.choice(["yes", "no", "missing", "empty", "words", "n", "zero"])
    if kind == 1:
        return f"{expression(draw, depth - 1)} is {draw.choice(['', 'not '])}{draw.choice(TESTS)}"
    if kind == 2:
        return f"{condition(draw, depth - 1)} {draw.choice(['and', 'or'])} {condition(draw, depth - 1)}"
    if kind == 3:
        return f"{text(draw, depth - 1)} {draw.choice(COMPARISONS)} {text(draw, depth - 1)}"
    if kind == 4:
        return f"{whole(draw, depth - 1)} {draw.choice(COMPARISONS[:6])} {whole(draw, depth - 1)}"
    return f"not {condition(draw, depth - 1)}"


def expression(draw, depth=3):
    """Mostly of fitting types, so that most templates mean something."""
    if not depth:
        return draw.choice(TEXTS + WHOLES + LISTS + OTHERS)
    kind = draw.randrange(12)
    if kind < 4:
        return text(draw, depth)
    if kind == 4:
        return whole(draw, depth)
    if kind == 5:
        return items(draw, depth)
    if kind == 6:
        return condition(draw, depth)
    if kind == 7:
        return f"{expression(draw, depth - 1)} if {condition(draw, depth - 1)}" + (f" else {expression(draw, depth - 1)}" if draw.random() < 0.7 else "")
    if kind == 8:
        return f"({expression(draw, depth - 1)} {draw.choice(['or', 'and', '~', '=='])} {expression(draw, depth - 1)})"
    if kind == 9:
        return f"(({items(draw, depth - 1)})|list|{draw.choice(['first', 'last'])})"
    if kind == 10 and draw.random() < 0.3:  # of any types
        return f"({expression(draw, depth - 1)}){draw.choice(['.name', '[0]', '|sort', '|items|list', '|dictsort', '.a', '|max', '.upper()', '[1:]', '(1)', ' + 1', ' < 2'])}"
    return draw.choice(OTHERS)


def space(draw):
    return draw.choice(["", "", " ", "\n", "\n  ", "  \n", "text", " text\n", "\t", "\u00a0"])


def tag(draw, text):
    return draw.choice(["{% ", "{%- ", "{%- ", "{%+ ", "{%"]) + text + draw.choice([" %}", " -%}", " -%}", " +%}", "%}"])


def statements(draw, depth, in_loop=False):
    return "".join(space(draw) + statement(draw, depth, in_loop) + space(draw) for _ in range(draw.randrange(1, 4)))


def statement(draw, depth, in_loop):
    kind = draw.randrange(12) if depth else draw.randrange(4)
    body = lambda loop=in_loop: statements(draw, depth - 1, loop)  # noqa: E731
    if kind < 3:
        return draw.choice(["{{ ", "{{- "]) + expression(draw) + draw.choice([" }}", " -}}"])
    if kind == 3:
        return tag(draw, f"set {draw.choice(['x', 'y', 'n'])} = {expression(draw)}")
    if kind in (4, 5):
        middle = tag(draw, "else") + body() if draw.random() < 0.5 else ""
        if draw.random() < 0.3:
            middle = tag(draw, f"elif {condition(draw, 2)}") + body() + middle
        return tag(draw, f"if {condition(draw, 3)}") + body() + middle + tag(draw, "endif")
    if kind in (6, 7):
        head = draw.choice(["x in numbers", "x in words", "x in people", "x, y in d.items()", "x in messages", "x in range(3)", f"x in {items(draw, 2)}"])
        if draw.random() < 0.3:
            head += f" if {condition(draw, 2)}"
        inside = draw.choice(["", "{{ loop.index }}{{ loop.last }}", "{{ loop.previtem }}", "{{ loop.first }}"]) + body(True)
        end = tag(draw, "else") + body() if draw.random() < 0.2 else ""
        return tag(draw, f"for {head}") + inside + end + tag(draw, "endfor")
    if kind == 8:
        return tag(draw, "set " + draw.choice(["x", "y"]) + draw.choice(["", " | upper", " | trim"])) + body() + tag(draw, "endset")
    if kind == 9:
        name = draw.choice("pq")
        call = f"{{{{ {name}({draw.choice(['', '1', 'n, s', 'b=2', 'words'])}) }}}}"
        return tag(draw, f"macro {name}(a, b={expression(draw, 1)})") + body(False) + tag(draw, "endmacro") + call
    if kind == 10:
        return tag(draw, "filter " + draw.choice(["upper", "trim", "indent(1)", "replace('a', 'b')"])) + body() + tag(draw, "endfilter")
    if in_loop:
        return tag(draw, f"if {condition(draw, 1)}") + tag(draw, draw.choice(["break", "continue"])) + tag(draw, "endif")
    return "{# " + space(draw) + draw.choice(["#}", "-#}", "+#}"])


def random_template(draw):
    return statements(draw, 3)


def mutated(draw, template):
    """The template with one to three places cut out, doubled, exchanged or overwritten."""
    for _ in range(draw.randrange(1, 4)):
        begin = draw.randrange(len(template))
        end = min(len(template), begin + draw.choice([1, 1, 2, 5, 20, 200]))
        other = draw.randrange(len(template))
        piece = draw.choice(["", template[begin:end] * 2, template[other : other + end - begin],
                             draw.choice(["{%", "%}", "{{", "}}", "(", ")", "[", "]", "'", '"', "|", ".", "-", "~", "{#", "\\", " if ", " is "])])  # fmt: skip
        template = template[:begin] + piece + template[end:]
    return template
