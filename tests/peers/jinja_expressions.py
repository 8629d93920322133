"""Templates whose meaning decides bytes; what they give is asked of jinja2, in transformers' own environment."""

VARIABLES = {
    "messages": [
        {"role": "user", "content": "  Hällo <b> & 'quotes' \"two\"\n"},
        {"role": "assistant", "content": "한국어 😀 e\u0301", "items": [3, 1, 2]},
        {"role": "tool", "content": [{"type": "text", "text": "a"}, {"type": "image"}], "id": 7, "score": 0.1},
    ],
    "s": " Mixed Case, it's x-ray {brace} ",
    "spaces": "\u00a0\u3000\x1c a b\x1f\u2003",
    "lines": "one\ntwo\r\nthree\n\nfive\x0bsix\u2028seven\n",
    "empty": "",
    "n": 7,
    "zero": 0,
    "big": 2**62,
    "f": 1.0,
    "floats": [1e16, 1e15, 123456789012345680.0, 1e-05, 0.0001, 0.1 + 0.2, 1e300, -0.0, 2.5, 1e22],
    "numbers": [3, 1, 2, 1],
    "words": ["b", "A", "a", "B", "c"],
    "mixed": [1, "a", None, True, 1.5, [1, ["x"]], {"k": "v'"}],
    "d": {"b": 1, "A": 2, "a": [1, 2], "items": "key", "C": {"x": None}, "get": 5},
    "people": [{"name": "Bo", "age": 3, "tags": ["x"]}, {"name": "al", "age": 2}, {"age": 1, "name": "Al"}],
    "none_value": None,
    "yes": True,
    "no": False,
    "control": "a\tb\x00\x07\x7f\x85\u200b\ufeff\U000e0001/<>&",
    "quotes": ["it's", 'say "x"', "both ' and \"", "back\\slash\n"],
}

# One expression each, which is printed between brackets.
EXPRESSIONS = r"""
none_value ~ yes ~ no ~ f ~ n
floats
floats[0] ~ ' ' ~ floats[1] ~ ' ' ~ floats[3] ~ ' ' ~ floats[5]
floats|tojson
mixed
mixed|string
mixed|tojson
mixed|tojson(indent=2)
mixed|tojson(indent=0)
mixed|tojson(indent='--')
mixed|tojson(indent=true)
mixed|tojson(separators=(',', ':'))
mixed|tojson(separators=[';', '='], indent=1)
mixed|tojson(ensure_ascii=True)
d|tojson(sort_keys=true)
{1: 2, none: 3, 1.5: 4}|tojson
{true: 2}|tojson
{'b': {}, 'a': [], 'c': [{}]}|tojson(indent=4)
messages|tojson
messages|tojson(true)
messages|tojson(false, 2)
messages[1].content|tojson(ensure_ascii=True)
control
control|tojson
control|tojson(ensure_ascii=true)
[control]
quotes
quotes|join(', ')
(1, 2)
(1,)
()
[]
{}
{'a': 1, 'b': [none, true]}
{'a': 1, 'a': 2}
{1: 'a', 1.0: 'b', true: 'c'}
{1: 'a', true: 'c'}[1.0]
missing
[missing]
missing|default('x')
missing|default
missing|d(1)
none_value|default('x')
none_value|default('x', true)
''|default('x', boolean=true)
0|default('x', true)
missing|length
missing|list
missing|string
missing is none
missing == missing2
missing == none
missing != 1
'a' in missing
missing or 'x'
not missing
missing.attribute
missing['item']
missing + 1
missing()
missing[0]
missing[1:]
d.missing
d.missing.x
d['missing']
d['missing'] is defined
d.b
d.items is string
d['items']
d.items()|list
d.keys()
d.values()
d.items()
d['get']
d.get('b')
d.get('zz')
d.get('zz', 4)
d.get('zz', default=4)
d.get()
d|items|list
missing|items|list
none_value|items|list
d|list
d|length
d|first
d|last
d|reverse|list
d|join('-')
d == {'b': 1}
'b' in d
1 in d
[1] in d
d|dictsort
d|dictsort(true)
d|dictsort(false, 'value')
{'x': 3, 'y': 1}|dictsort(by='value', reverse=true)
messages[1]['items']
messages[1].items()|map('first')|list
messages.0.role
messages[0]['role']
messages[-1].role
messages[5]
messages[5].role
messages[-4]
messages[true].role
messages['x']
messages[1.0]
messages[:1]|length
messages[1:][0].role
messages[::-1][0].role
messages[::2]|length
messages[2:0:-1]|length
messages[:-1]|map(attribute='role')|list
messages[1:100]|map(attribute='role')|join(',')
messages[none:2]|length
messages['a':]
messages[::0]
'abcdef'[1:3]
'abcdef'[::-1]
'abcdef'[-2:]
'abcdef'[:-2]
'abcdef'[4:1:-2]
'abcdef'[-100:100]
'abcdef'[10:]
messages[1].content[0]
messages[1].content[-1]
messages[1].content[::-1]
messages[1].content[1:5]
messages[1].content|length
messages[1].content|reverse
messages[1].content|list
'abc'['upper']()
'abc'.0
'abc'[3]
'abc'|first ~ 'abc'|last
''|first
[]|first
[]|last
range(5)
range(5)|list
range(1, 10, 3)|list
range(10, 0, -3)|list
range(0)|list
range(5)[1:3]
range(5)[::-1]|list
range(5)[-1]
range(3)|length
range(3) == range(0, 3)
3 in range(4)
range(100000)|length
range(100001)|length
range('a')
range(1, 2, 0)
1 + 2
1 + 1.5
'a' + 'b'
'a' + 1
1 + 'a'
[1] + [2]
[1] + (2,)
(1,) + (2,)
1 - 3
-n
- -n
+n
-'a'
-yes
yes + yes
7 // 2
-7 // 2
7 // -2
-7 % 3
7 % -3
7 % 3
7.5 % 2
-7.5 % 2
7.5 // 2
-7.5 // 2
6 / 3
7 / 2
1 / 0
1 // 0
1 % 0
1.5 % 0
'ab' * 3
3 * 'ab'
'ab' * 0
'ab' * -1
[1, 2] * 2
'a' * 1.5
2 * 3.5
1 == 1.0
1 == true
0 == false
'1' == 1
1 is true
true is number
true is integer
1.0 is float
1 is integer
1.0 is integer
none is none
1 is number
'a' is number
'a' is string
[] is sequence
{} is sequence
'a' is sequence
missing is sequence
1 is sequence
none is sequence
d.items() is sequence
d.items() is iterable
(words|map('upper')) is iterable
(words|map('upper')) is sequence
missing is iterable
none is iterable
1 is iterable
{} is mapping
[] is mapping
missing is mapping
missing is undefined
missing is not defined
true is boolean
1 is boolean
false is false
0 is false
true is true
3 is odd
3 is even
4 is divisibleby 2
4 is divisibleby(3)
4.0 is even
'a' is in ['a']
'a' is in 'abc'
3 is ge 3
3 is lt 3
3 is eq 3.0
3 is ne 4
3 is not eq 4
namespace is callable
d is callable
d.get is callable
'b' in 'abc'
'' in 'abc'
1 in 'abc'
'b' not in 'abc'
not 'b' in 'abc'
1 in [1.0, 2]
true in [1]
none in [none]
'a' in ('a', 'b')
1 in none
1 < 2 < 3
1 < 2 > 3
3 > 2 >= 2 == 2
1 < 'a'
'a' < 'b'
'Z' < 'a'
'é' < '한'
[1, 2] < [1, 3]
[1] < [1, 0]
(1, 2) < (1, 3)
none < 1
missing < 1
1 <= 1.0
'a' <= 'a'
{} < {}
1 and 2
0 and 2
'' or 'x'
1 or missing.x
0 or '' or none
not 1 == 2
not (1 and 0)
1 if yes
1 if no
(1 if no) is defined
1 if no else 2 if no else 3
1 if yes else 1/0
'a' ~ 1 ~ none ~ missing ~ 'b' ~ [1]
1 + 2 ~ 3
1 ~ 2 + 3
1 ~ 2 * 3
2 * 3 ~ 4
-1|abs
(-1)|abs
-1.5|abs
2 + 3 * 4 - 1
(2 + 3) * 4
10 - 3 - 2
2 - 3|abs
n is defined and n > 3
n is defined and not n == 3
n > 3 and n < 10 or 1/0
[1, 2, 3,]
{'a': 1,}
'a' 'b' "c"
'a\nb' == "a
b"
'\x41\u00e9\101\t\0\'\"\\'
'\q\é\한\8'
'\U0001F600'
"it's"
'say "hi"'
0x1F + 0o17 + 0b11
1_000
1e3
1.5e-7
.5
1.
012
9223372036854775807
-9223372036854775807 - 1
1e400
[big, -big]
s.strip()
s.lstrip() ~ '|'
s.rstrip() ~ '|'
s.strip(' M}')
s.strip('')
s.strip(none)
s.split()
s.split(' ')
s.split(' ', 1)
s.split(none, 2)
s.split(maxsplit=1)
s.split(sep=',')
s.split('')
s.rsplit(' ', 1)
s.rsplit(none, 2)
s.rsplit()
'a,,b,'.split(',')
''.split(',')
''.split()
'  '.split()
' a  b '.split(none, 1)
' a  b '.rsplit(none, 1)
'aXbXc'.split('X', -1)
'aXbXc'.split('X', 0)
s.split('x')[-1]
spaces.strip()
spaces|trim
spaces.split()
[spaces]
lines.splitlines()
lines.split('\n')
lines|indent
lines|indent(2, true)
lines|indent(2, first=true, blank=true)
lines|indent('> ')
'a'|indent
''|indent(2, true)
'a\n'|indent
'a\n\nb'|indent(1, blank=true)
5|indent
s.upper()
s.lower()
s.title()
s|title
s.capitalize()
s|capitalize
s|upper
s|lower
"it's o'neil x2y"|title
"it's o'neil x2y".title()
'ß straße'.upper()
'ß'|capitalize
'ÀÉÎ ПРИВЕТ'.lower()
'àéî привет 한글'.upper()
'ǆ ǅ'.title()
5|upper
none|upper
n|string ~ '0'
s.startswith(' M')
s.startswith('M')
s.startswith(('x', ' '))
s.startswith('i', 2)
s.startswith('', 100)
s.endswith(' ')
s.endswith(('x', '}'))
s.endswith('s', 0, -1)
s.startswith(1)
s.find('x')
s.find('zz')
messages[1].content.find('😀')
s.find('x', 15)
s.count('x')
'aaa'.count('aa')
'한국'.count('')
s.index('zz')
s.replace('x', 'yy')
s.replace(' ', '', 2)
s.replace('', '-')
'abc'.replace('', '-', 2)
s|replace('x', 'yy')
s|replace('x', 'yy', 1)
s|replace('x', 1)
5|replace(5, 6)
s.replace('x')
'-'.join(words)
'-'.join([1])
'-'.join('abc')
'{} and {}'.format(1, 'b')
'{0}{1}{0}'.format('a', 'b')
'{x}'.format(x=1)
'{{}}'.format()
'{}'.format()
'{'.format(1)
'abc'.removeprefix('a')
'abc'.removesuffix('bc')
'abc'.removesuffix('')
words|join
words|join(', ')
words|join(1)
'abc'|join(',')
mixed|join('|')
people|join(', ', attribute='name')
people|map(attribute='name')|list
people|map(attribute='tags.0')|list
people|map(attribute='tags', default='none')|list
people|map(attribute='tags.0', default='-')|list
people|map('length')|list
words|map('upper')|list
words|map('replace', 'a', 'x')|list
words|map('default', 'y')|list
words|map('zzz')|list
words|map()|list
none_value|map('upper')|list
missing|map('upper')|list
people|selectattr('tags')|map(attribute='name')|list
people|selectattr('age', 'equalto', 2)|list|length
people|selectattr('age', '>', 1)|map(attribute='age')|list
people|selectattr('age', 'ge', 2)|list|length
people|selectattr('tags', 'defined')|list|length
people|selectattr('tags', 'undefined')|list|length
people|rejectattr('tags')|list|length
people|rejectattr('name', 'in', ['Bo', 'al'])|list|length
people|selectattr('age', 'zzz')|list
people|selectattr|list
numbers|select('odd')|list
numbers|reject('odd')|list
numbers|select('>', 1)|list
numbers|select|list
[0, 1, '', 'a', none]|select|list
[0, 1, '', 'a', none]|reject|list
words|select('in', 'ab')|list
messages|selectattr('role', 'equalto', 'user')|list|length
messages|selectattr('content', 'string')|list|length
people|sort(attribute='age')|map(attribute='name')|list
people|sort(attribute='name')|map(attribute='age')|list
people|sort(attribute='name,age')|map(attribute='age')|list
people|sort(true, attribute='name')|map(attribute='age')|list
words|sort
words|sort(case_sensitive=true)
words|sort(reverse=true)
numbers|sort
mixed|sort
words|unique|list
words|unique(true)|list
people|unique(attribute='name')|map(attribute='age')|list
numbers|unique|join
numbers|min
numbers|max
words|min
words|max
words|min(true)
people|min(attribute='age')
people|max(attribute='name')
[]|min
[]|max is defined
numbers|length
numbers|count
5|length
none|length
(words|map('upper'))|length
words|first
words|last
(words|map('upper'))|first
(words|map('upper'))|last
words|reverse|list
(words|map('upper'))|reverse|list
'abc'|reverse
'abc'|list
words|list|length
(words|map('upper'))|tojson
missing|tojson
(words|map('upper'))|list|tojson
d.items()|tojson
d.items()|list|tojson
'42'|int
'42.9'|int
' 42 '|int
'-42'|int
'+4'|int
'4_2'|int
'4__2'|int
'x'|int
'x'|int(5)
''|int
'0x1f'|int(0, 16)
'1f'|int(base=16)
'101'|int(base=2)
'0b11'|int(base=2)
none|int
1.9|int
-1.9|int
true|int
[]|int
missing|int
'1e3'|int
'inf'|int
'nan'|int
'1.5'|float
'x'|float
'x'|float(2)
' 1e3 '|float
'inf'|float
3|float
none|float
'a'|safe + '<'
'<' + 'a'|safe
('a'|safe) ~ '<'
('<a>'|safe) * 2
('a'|safe).replace('a', '<')
('a<b'|safe).split('<')
('a'|safe)|replace('a', '<')
('a'|safe).join(['<', '>'])
('{}'|safe).format('<')
('a'|safe)|upper + '<'
('a'|safe)|trim + '<'
('a'|safe)|title + '<'
('a'|safe)|string + '<'
('a'|safe)[0] + '<'
('a'|safe)|list|first + '<'
['<', 'a'|safe]|join('&')
('a'|safe + '<')|length
5|safe + '<'
missing|safe ~ 'x'
none|safe
('<'|safe)|tojson
['<'|safe]
('a'|safe) == 'a'
('a'|safe) is string
('a'|safe) + 1
('a\nb'|safe)|indent + '<'
'x' ~ ('<' + ('a'|safe))
''.__class__
''.__class__.__mro__
''['__class__']
d.__class__
d.__len__ is defined
[].append
[].append(1)
d.update is defined
d.pop('b')
words.sort()
namespace(_x=1)
namespace(a=1)
namespace({'a': 1}, b=2).b
namespace(a=1)['a']
namespace(a=1).zz
namespace(5)
namespace([('a', 1)]).a
dict(a=1, b=2)
dict({'a': 1}, a=2)
dict([('a', 1)])
strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y %B %A %a %H:%M:%S %y %j %p %I %f %e|%-d|%-m|%_d|%u|%w|%U|%W|%D|%F|%T|%R|%n%t%%|%Z%z|%C|%h|%c|%x|%X|%r')
strftime_now('')
strftime_now()
raise_exception('no')
raise_exception()
raise_exception(5)
raise_exception('a\nb')
loop
undefined_function(1)
5(1)
'a'()
d()
words|trim
5|trim
none|trim
'xxaxx'|trim('x')
'a'|trim(chars='a')
'a'|trim(5)
'a'|upper()
'a'|upper(1)
'a'|join(d='-', attribute=none)
words|join(zz=1)
words | map ( 'upper' ) | join ( '-' )
{'x': {'y': [1, {'z': 'deep'}]}}.x.y[1].z
{'x': 1}['x']
[1, 2, 3][1]
(1, 2, 3)[1:]
(1, 2)[0]
[[1, 2], [3]][0][1]
'abc'.upper().lower().title()[0]
n|string|length
f|string
messages[2].score * 3
messages[2].id + 1
messages[2].content[0].text
messages[2].content|map(attribute='type')|join('+')
messages[2].content is string
messages[2].content is iterable
messages[0].name is defined
messages[1].name
messages[0].content|trim
messages[0].content.strip().split(' ')
messages[0]['content'][-1:]
messages|length
tools
tools is defined
tools is none
documents
add_generation_prompt
bos_token is defined
n if n
(n)
((n))
n,
n, s
""
''
'a' if 'a' in 'abc' and not no else 'b'

"""

# Whole templates.
TEMPLATES = [
    # A name that a frame sets later is undefined inside that frame until then, even if it is a variable of the caller.
    "{% for i in [1] %}[{{ n }}]{% endfor %}{% set n = 1 %}{{ n }}", "{{ n }}{% for i in [1] %}[{{ n }}]{% endfor %}{% set n = 1 %}",
    "{% macro m() %}[{{ n }}]{% endmacro %}{{ m() }}{% set n = 1 %}{{ m() }}", "{% for i in [1] %}[{{ n }}]{% endfor %}{% if yes %}{% set n = 1 %}{% endif %}{{ n }}",
    "{% for i in [1] %}[{{ n }}]{% endfor %}{% if yes %}{% set n = 1 %}{% else %}{% set n = 2 %}{% endif %}{{ n }}",
    "{% for i in [1] %}[{{ n }}]{% endfor %}{% if yes %}{% set n = 1 %}{% elif no %}{% set n = 3 %}{% else %}{% set n = 2 %}{% endif %}{{ n }}",
    "{% for i in [1, 2] %}{% for j in [1] %}[{{ n }}]{% endfor %}{% set n = i %}{% for j in [1] %}[{{ n }}]{% endfor %}{% endfor %}{{ n }}",
    "{{ n }}{% for i in [1, 2] %}{% for j in [1] %}[{{ n }}]{% endfor %}{% set n = i %}{% for j in [1] %}[{{ n }}]{% endfor %}{% endfor %}{{ n }}",
    "{% set x %}{% for i in [1] %}[{{ n }}]{% endfor %}{% set n = 5 %}{{ n }}{% endset %}{{ x }}{{ n }}", "{% for i in [1] %}{{ n }}{% endfor %}{% set n %}x{% endset %}{{ n }}",
    "{% for i in [] %}{% else %}{% set n = 1 %}{{ n }}{% endfor %}{{ n }}", "{% for i in [1] %}{{ n is defined }}{% endfor %}{% macro n() %}{% endmacro %}",
    "{% for i in [1] if n %}{{ i }}{% endfor %}{% set n = 1 %}", "{% filter upper %}{% for i in [1] %}{{ s }}{% endfor %}{% set s = 'b' %}{{ s }}{% endfilter %}{{ s }}",
    "{% if yes %}{% for i in [1] %}[{{ n }}]{% endfor %}{% set n = 1 %}{% endif %}{{ n }}", "{% for n in [1] %}{% for i in [1] %}{{ n }}{% endfor %}{% set n = 2 %}{{ n }}{% endfor %}{{ n }}",
    "{% macro m(n=s) %}{% for i in [1] %}{{ n }}{{ s }}{% endfor %}{% set s = 1 %}{{ s }}{% endmacro %}{{ m() }}", "{% generation %}{% for i in [1] %}{{ n }}{% endfor %}{% set n = 1 %}{{ n }}{% endgeneration %}{{ n }}",
    "{% for i in range(2) %}{{ range is defined }}{% endfor %}{% set range = 5 %}{{ range }}",
    "a\n{% if yes %}\nb\n{% endif %}\nc",
    "a\n  {% if yes %}  \n  b\n  {% endif %}\n c",
    "a\n  {%- if yes -%}  \n  b\n  {%- endif -%}\n c",
    "a\n  {%+ if yes +%}  \n  b\n  {%+ endif +%}\n c",
    "a \n\n {{- n -}} \n\n b",
    "a {{ n }}\n\nb\n{{ n }}\n",
    "a\n\n", "\n", "", "a\r\nb\rc\n", "{{ 'a\r\nb' }}", "{{ 'a\\r\\nb' }}", "\r\n",
    "  {# c #}\n x {# d #}\ny{#- e -#}\n z\n\t{# f #}{# g #}\n",
    "a{# x\ny #}\nb", "a {#+ x +#}\nb", "{#- -#}  x", "{##}a", "a{#-#} b",
    "  {% set x = 1 %}{% set y = 2 %}\n  {{ x }}\n  {% if x %}{% endif %} z",
    "\u00a0{% if yes %}x{% endif %}\u00a0{%- if yes %} y{% endif %}",
    "{{ '{{' }} {{ '%}' }} {{ \"}}\" }} { { % } {{ {'a': {'b': 1}}.a.b }}",
    "{{ {'a': {}}}}", "{{-1}} {{+1}} {{ -1 }}", "{% if yes: %}x{% endif %}",
    "{% for i in [1,2,3] %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %}",
    "{% for i in [1] %}x{% else %}none{% endfor %}",
    "{% for i in missing %}x{% else %}none{% endfor %}",
    "{% for i in none %}x{% endfor %}", "{% for i in 5 %}x{% endfor %}",
    "{% for c in 'a한😀' %}[{{ c }}]{% endfor %}",
    "{% for k in d %}{{ k }} {% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|items %}{{ loop.index }}{{ k }};{% endfor %}",
    "{% for (a, b) in [(1, 2), [3, 4], 'xy'] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}",
    "{% for i in range(6) if i is odd %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ i }}{{ loop.previtem }}"
    "{{ loop.nextitem }} {% endfor %}",
    "{% for i in numbers %}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.depth }} {% endfor %}",
    "{% for i in numbers|select('odd') %}{{ loop.last }}{{ loop.length }}{{ i }} {% endfor %}",
    "{% for i in [1,2] %}{% for j in [3,4] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for i in [1,2] %}{% for j in [3] if loop.index %}{{ j }}{% endfor %}{% endfor %}",
    "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [1] %}{% break %}{% else %}x{% endfor %}y",
    "{% for i in [1,2] %}{% for j in [1,2] %}{% break %}{% endfor %}{{ i }}{{ j }}{% endfor %}",
    "{% for i in [1,2] %}{% set b %}x{% break %}{% endset %}{{ b }}{% endfor %}z",
    "{% break %}", "{% for i in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% for i in [1] %}x{% else %}{% break %}{% endfor %}",
    "{% set x = 1 %}{% for i in [1,2] %}{{ x }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if yes %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% if no %}{% set x = 2 %}{% endif %}{{ x is defined }}{{ n }}{% if yes %}{% set n = 9 %}{% endif %}{{ n }}",
    "{% for i in [1,2] %}{% if i == 2 %}{% set n = 5 %}{% endif %}{{ n }}{% endfor %}{{ n }}",
    "{% for n in [1,2] %}{{ n }}{% endfor %}{{ n }}",
    "{% set x = 'a' %}{% set x = x + 'b' %}{{ x }}",
    "{% set x, y = 1, 2 %}{{ x }}{{ y }}", "{% set x, y = [1] %}{{ x }}", "{% set x = 1, 2 %}{{ x }}",
    "{% set ns = namespace(a=1, b='x') %}{% for i in [1,2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns }}",
    "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns|tojson }}",
    "{% set ns = namespace(a=1) %}{{ ns.b is defined }}{{ ns.b }}{{ ns['a'] }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}", "{% set d.x = 1 %}", "{% set missing.x = 1 %}",
    "{% set x %}a{{ n }}\nb{% endset %}[{{ x }}]", "{% set x | upper %}abc{% endset %}{{ x }}",
    "{% set x | upper | replace('B', 'x') %}abc{% endset %}{{ x }}", "{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y }}",
    "{% set x %}<{% endset %}{{ ('a'|safe) + x }}",
    "{% filter upper %}abc{{ s }}{% endfilter %}", "{% filter indent(2) | upper %}a\nb{% endfilter %}",
    "{% filter trim %}{% set q = 1 %} a {% endfilter %}{{ q }}",
    "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=5, a=4) }} {{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}", "{% macro m(a, b=1, c) %}{% endmacro %}",
    "{% macro m(a) %}{{ a is defined }}{% endmacro %}{% set a = 5 %}{{ m() }}",
    "{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}{% set x = 2 %}{{ m() }}",
    "{% macro m() %}{{ i }}{% endmacro %}{% for i in [1,2] %}{{ m() }}.{% endfor %}",
    "{% for i in [1,2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro m(n) %}{% if n > 0 %}{{ n }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(5) }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}x{% endmacro %}{{ a() }}",
    "{% macro m() %}<{% endmacro %}{{ m() + '>' }}{{ m() is string }}{{ ('a'|safe) + m() }}",
    "{% macro m(x) %}{{ loop is defined }}{% endmacro %}{% for i in [1] %}{{ m(1) }}{% endfor %}",
    "{% macro m(x) %}{% set y = x %}{{ y }}{% endmacro %}{{ m(1) }}{{ y }}",
    "{% macro m(a, a) %}{% endmacro %}", "{{ m is defined }}{% macro m() %}{% endmacro %}{{ m is defined }}",
    "{% if yes %}{% macro m() %}x{% endmacro %}{% endif %}{{ m() }}",
    "{% if 0 %}a{% elif '' %}b{% elif [] %}c{% elif {} %}d{% elif missing %}e{% elif none %}f{% else %}g{% endif %}",
    "{% if no %}{{ x|nofilter }}{% endif %}ok", "{{ x|nofilter }}", "{% if yes %}{{ n|nofilter }}{% endif %}",
    "{% if no %}{{ x is notest }}{% endif %}ok", "{{ x is notest }}", "{{ n if yes else n|nofilter }}", "{{ n|nofilter if no else n }}",
    "{% if no %}{% for i in [1] %}{{ i|nofilter }}{% endfor %}{% endif %}", "{% if n|nofilter %}{% endif %}", "{% if no and n|nofilter %}{% endif %}x",
    "{% for i in [1] %}{% if no %}{{ i|nofilter }}{% endif %}{% endfor %}ok",
    "{% macro m() %}{{ 1|nofilter }}{% endmacro %}", "{% if no %}{% set x %}{{ 1|nofilter }}{% endset %}{% endif %}",
    "{% if no %}{% generation %}{{ 1|nofilter }}{% endgeneration %}{% endif %}",
    "{% set x = words|map('upper') %}{{ x|list }}{{ x|list }}", "{% set x = words|map('upper') %}{{ x|first }}{{ x|first }}{{ x|list }}",
    "{% set x = words|map('nofilter') %}ok", "{% set x = d|items %}{% for k, v in x %}{{ k }}{% endfor %}{% for k, v in x %}{{ k }}{% endfor %}",
    "{% generation %}a{{ n }}{% endgeneration %}b", "a{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }}",
    "{% for m in messages %}{% generation %}{{ m.role }}{% if loop.last %}!{% endif %}{% endgeneration %},{% endfor %}",
    "{% for i in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% set ns = namespace(stop=false) %}{% for i in range(5) if not ns.stop %}{{ i }}{% if i == 2 %}{% set ns.stop = true %}{% endif %}{% endfor %}",
    "{% set ns = namespace(stop=false) %}{% for i in range(5) if not ns.stop %}{{ i }}{{ loop.last }}{% if i == 2 %}{% set ns.stop = true %}{% endif %}{% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}{{ loop.nextitem.role if loop.nextitem else '-' }} {% endfor %}",
    "{% set loop = 1 %}", "{% for loop in [1] %}{% endfor %}", "{% set true = 1 %}", "{% set none = 1 %}", "{% for true in [1] %}{% endfor %}",
    "{% if %}{% endif %}", "{% if yes %}", "{% endif %}", "{% for %}{% endfor %}", "{% for i in [1] %}{% endif %}", "{{ }}", "{{ n", "{% if yes", "{{ 'a }}",
    "{# a", "{{ n }} }}", "{{ (n }}", "{{ n) }}", "{{ [n }} ]", "{{ n ! }}", "{{ n ? }}", "{{ $ }}", "{{ n.'a' }}", "{{ n.}}", "{{ n|}}", "{{ n is }}",
    "{% %}", "{% 5 %}", "{% unknown %}", "{% else %}", "{% if yes %}{% else %}{% else %}{% endif %}", "{% if yes %}{% elif %}{% endif %}",
    "{% if yes %}{% else %}{% elif no %}{% endif %}", "{% set %}", "{% set x %}", "{% set x = %}", "{% set 5 = 1 %}", "{% set 'a' = 1 %}", "{% set x.y.z = 1 %}",
    "{% macro %}{% endmacro %}", "{% macro m %}{% endmacro %}", "{% macro m() %}", "{% filter %}{% endfilter %}", "{% filter nofilter %}{% endfilter %}",
    "{% endfor x %}", "{% if yes %}{% endif x %}", "{{ n n }}", "{{ n is defined is defined }}", "{{ n is string or n is number }}", "{{ f(a b) }}", "{{ f(a=1, 2) }}", "{{ f(a=1, a=2) }}",
    "{{ a[] }}", "{{ words[1:2:3:4] }}", "{{ '\\x4' }}", "{{ '\\ud800' }}", "{{ '\\ud83d\\ude00' }}", "{{ '\\u12' }}",
    "{{ not }}", "{{ 1 in }}", "{{ and }}", "{{ is }}", "{{ in }}", "{{ if }}", "{{ not not yes }}", "{{ 1 not in [2] }}", "{{ not not }}",
    "{{ [1,2,3]|first if [1,2,3] }}", "{% set x = 1 if no %}{{ x is defined }}", "{{ 'a' if no }}", "{{ [x for x in y] }}", "{{ lambda: 1 }}",
    "{{ words|sort|first|upper }}", "{{ d.items|list }}", "{{ (1, 2)|tojson }}", "{{ loop.index }}", "{{ messages.0.role.upper() }}",
    "{{ -n|abs }}{{ -5|string|length }}", "{{ 5|string ~ 'a' * 2 }}", "{{ 2 * 'a' ~ 'b' }}", "{{ 1 < 2 and 2 < 3 }}", "{{ 1 if 0 else 2 if 1 else 3 }}",
    "{{ 'x' is in 'xyz' }}{{ 'q' is not in 'xyz' }}", "{% if 'a' is not string %}x{% else %}y{% endif %}", "{{ n is divisibleby 7 and yes }}",
    "{%- set a = 1 -%}\n\n  {{- a -}}  \n x", "\n\n{%- if yes %}\n\n x\n\n{%- endif %}\n\n", "{% if yes -%}\n a\n{%- else -%}\n b\n{%- endif %}\n",
    "a{{ '\n' }}\nb{{ '' }}\n", "x\n\t \n\t{% if yes %}\n\t\ty\n\t{% endif %}\n", "{% if yes %}{% endif %}\n\n{% if yes %}\n{% endif %}", " {{ n }} {% if yes %} {{ n }} {% endif %} ",
]  # fmt: skip

# jinja2 renders these; the interpreter refuses them by name, since no template of transformers uses such things.
REFUSED = [
    "{{ '%s' % 1 }}", "{{ 2 ** 3 }}", "{{ words|batch(2)|list }}", "{{ 'a'.center(5) }}", "{{ 'a'|center(5) }}", "{{ cycler(1) }}",
    "{{ joiner() is defined }}", "{{ lipsum is defined }}", "{% with a = 1 %}{{ a }}{% endwith %}", "{% raw %}x{% endraw %}", "{% print 1 %}",
    "{% block a %}{% endblock %}", "{% call m() %}{% endcall %}{% macro m() %}{% endmacro %}", "{% autoescape true %}{% endautoescape %}",
    "{% for i in [1] recursive %}{% endfor %}", "{{ dict(*[]) }}", "{{ dict(**{}) }}", "{{ '\\N{BULLET}' }}", "{{ 'İ'.lower() }}", "{{ 'ŉ'.upper() }}",
    "{{ 'ΑΣ'.lower() }}", "{{ n.bit_length() }}", "{{ '{:>5}'.format(1) }}", "{{ '{0.x}'.format(d) }}", "{{ 'a' is lower }}", "{{ 'a' is sameas 'b' }}",
    "{{ 99999999999999999999 }}", "{{ big * 2 }}", "{{ '99999999999999999999'|int }}", "{{ loop.cycle(1) }}{% for i in [1] %}{{ loop.cycle(1) }}{% endfor %}",
    "{{ 'a'.isdigit() }}", "{{ words[1, 2] }}", "{{ strftime_now('%Q') }}", "{{ words|wordcount }}", "{{ words|map('upper') is string }}{{ words|groupby('x') }}",
    "{% include 'x' ignore missing %}", "{{ '한'|urlencode }}", "{% macro m() %}{{ varargs }}{% endmacro %}", "{% set 이름 = 1 %}{{ 이름 }}",
    "{{ self.x }}", "{{ d.get }}", "{{ d|items }}", "{{ 'a'.upper }}", "{{ words|map }}", "{{ n.real }}", "{{ big + big }}", "{{ big - -big }}", "{{ '%d' % 5 }}",
]  # fmt: skip
