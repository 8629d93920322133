"""Texts for the tokenizer tests, from a seed: many scripts, all kinds of white space, code, spellings of control tokens."""

import random

WHITE_SPACE = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\u00a0", "\u3000", "\u2003", "\u2028",
               "\u0085", "\u180e", "\u200b", "\u202f", "\u1680", "\ufeff", "\x0b", "\x0c", "\t\t", "\x1c", "\x00"]

WORDS = """the of and Tokenizer can't we'll I'M they've You'Re it's 'S 'LL don’t naïve café CAFÉ Straße ŒUVRE fiancée résumé
ﬁne ﬂow Ⅷ ½ ² Å Ω µ İstanbul ıo ſoft K ΑΒΓ αβγ Σίσυφος Привет МИР їжак здравствуйте שלום עולם مرحبا بالعالم السَّلامُ فارسی
हिन्दी नमस्ते বাংলা தமிழ் తెలుగు ไทย สวัสดี ភាសា မြန်မာ 中文 漢字 日本語 ひらがな カタカナ ｶﾀｶﾅ が 안녕하세요 한국어 각 𠜎 𪚥 𝔘𝔫𝔦 𝟙𝟚 ① ٣٤ ४५ 五
👍 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇰🇷🇯🇵 ❤️ ☃ ♞ → ≠ ∑ € £ … — – “quote” «guillemets» 、。 ！？ ¿qué? ꙮ 🫨 \U00031350 \U0002ebf0 \U00010d40
e\u0301 a\u0323\u0302 \u0301 q\u0307\u0323 \u1100\u1161\u11a8 \u0344 \u2126 \uac00\u11a8 \ufb1d \ufdfa ﷺ""".split()

CODE = ["def f(x):\n    return x**2  # square\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }\n", "<div class=\"a\">&amp;</div>",
        "SELECT * FROM t WHERE id=42;", "\tif err != nil {\n\t\treturn err\n\t}\n", "https://example.org/a?b=c&d=%20#e",
        "{\"key\": [1, 2.5e-3, null]}", "x_1 = y__2 + __init__", "a->b::c<d>()", "\\alpha_{i}^{2}", "$HOME/.config", "1,234,567.89",
        "2024-02-30T12:34:56Z", "0xDEADBEEF", "C:\\path\\file.txt", "....", "-----", "=====", "!!!???", "'''\"\"\"", "```py\n```"]

CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<|im_", "|im_end|>",
           "<0x0A>", "<0xE2>", "<tool>", "<tool_call>", "[PAD]", "<|eot_id|>", "▁", "▁▁the", "Ġ", "Ċ", "<mask>", "word", "Café"]

SCRIPTS = [(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF),
           (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x2070, 0x218F),
           (0x2190, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFB00, 0xFDFF), (0xFF00, 0xFFEF),
           (0x10000, 0x103FF), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x20000, 0x2FA1F), (0xE0000, 0xE01EF), (0, 0x1F)]


def _scalar(rng):
    value = rng.randrange(0x110000)
    return chr(value if not 0xD800 <= value <= 0xDFFF else 0xFFFD)


def _part(rng):
    kind = rng.randrange(12)
    if kind < 4:
        return rng.choice(WORDS)
    if kind < 6:
        return rng.choice(WHITE_SPACE)
    if kind == 6:
        return rng.choice(CODE)
    if kind == 7:
        return rng.choice(CONTROL)
    if kind == 8:
        return str(rng.randrange(10 ** rng.randrange(1, 9)))
    if kind == 9:
        low, high = rng.choice(SCRIPTS)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 9)))
    if kind == 10:
        return rng.choice(WORDS + WHITE_SPACE + ["a", "0", "."]) * rng.choice([2, 3, 7, 40])
    return "".join(_scalar(rng) for _ in range(rng.randrange(1, 5)))


def make_texts(count, seed=20240607):
    """`count` different texts; the first ones are the single words, blanks and control spellings."""
    rng = random.Random(seed)
    texts = dict.fromkeys(["", *WORDS, *WHITE_SPACE, *CODE, *CONTROL])
    texts.update(dict.fromkeys(f"{a}{b}{c}" for a in ("", " ", "x") for b in CONTROL for c in ("", " ", "y", "  z")))
    while len(texts) < count:
        glue = rng.choice(["", "", " ", " ", "  ", "\n"])
        texts[glue.join(_part(rng) for _ in range(rng.randrange(1, 13)))] = None
    return list(texts)


def training_corpus():
    """Enough text for merges in many scripts."""
    rng = random.Random(7)
    lines = make_texts(1200, seed=3)
    lines += [" ".join(rng.choice(WORDS[:40]) for _ in range(12)) for _ in range(400)]
    return [line for line in lines if line]
