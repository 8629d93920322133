"""The page of qlora-data in a real browser: what it looks like at two widths, and that it asks for nothing.

QLORA_FULL=1 only, since that takes Debian's chromium. The page runs no script, so a copy that may is measured in frames as
wide as the screens.
"""

import html
import json
import os
import re
import struct
import subprocess

import pytest

pytestmark = pytest.mark.skipif(not os.environ.get("QLORA_FULL"), reason="QLORA_FULL=1: needs chromium")

WIDTHS = (1280, 400)
DARK = "--blink-settings=preferredColorScheme=0"
WORD = "unbroken" * 300
TEXT = " ".join(f"word{i * 37 % 101}" for i in range(120))
POLICY = "default-src 'none'; style-src 'unsafe-inline'"

# What stands on the screen: sizes in CSS pixels, rounded.
MEASURE = """<script>
addEventListener("load", () => {
  const box = element => {
    const r = element.getBoundingClientRect();
    return {left: Math.round(r.left), top: Math.round(r.top), width: Math.round(r.width), height: Math.round(r.height)};
  };
  const all = selector => [...document.querySelectorAll(selector)];
  // Right of the screen, or of their own box, and nothing around them scrolls.
  const beyond = all("body *").filter(element => element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".wide"));
  const spilt = all("body *").filter(element => !element.closest("svg") && element.scrollWidth > element.clientWidth + 1 &&
                                     element.clientWidth > 0 && !element.closest(".wide"));
  parent.postMessage({
    width: innerWidth, scrolled: document.documentElement.scrollWidth,
    beyond: beyond.map(element => element.outerHTML.slice(0, 100)), spilt: spilt.map(element => element.outerHTML.slice(0, 100)),
    charts: all("svg").map(svg => ({...box(svg), bars: all("svg rect").filter(bar => svg.contains(bar)).map(box)})),
    pairs: all(".pair").map(pair => [...pair.children].filter(child => child.tagName == "DIV").map(box)),
    scrolls: all(".wide").filter(element => element.scrollWidth > element.clientWidth + 1).length,
    color: getComputedStyle(document.body).color,
  }, "*");
});
</script>"""
FRAMES = """<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">%s<script>
const found = [];
addEventListener("message", event => {
  found.push(event.data);
  if (found.length == %d) {
    const out = document.createElement("pre");
    out.id = "found";
    out.textContent = JSON.stringify(found);
    document.body.append(out);
  }
});
document.querySelectorAll("iframe").forEach(frame => frame.src = "measured.html");
</script>"""


def browse(file, *flags):
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
               "--virtual-time-budget=20000", *flags, file.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=file.parent)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def page(bin_dir, tiny_model, tmp_path_factory):
    def row(prompt, answer):
        return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}

    folder = tmp_path_factory.mktemp("page") / ("a-folder-with-a-name-that-goes-on-and-on-" * 4)
    folder.mkdir()
    rows = [row(f"What is {i}?", f"It is {i}, {'so ' * (i % 9)}there.") for i in range(40)]
    rows += [row("Again?", TEXT), row("Again?", TEXT + " more"), row(WORD, WORD), row("Why?", "안녕하세요 여러분 반갑습니다 " * 30)]
    rows += [row(f"Say it, {i}.", "As an AI language model, I cannot. " + WORD) for i in range(12)]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in rows) + '{"cut\n{"' + WORD[:200] + '": 1}\n')
    file = folder / "page.html"
    result = subprocess.run([bin_dir / "qlora-data", "--model", tiny_model(tie=True), "--data", data, "--score", "--html", file,
                             "--set", "data.on_bad_row=skip", "--set", "data.max_length=4096"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return file


def measure(page, *flags):
    """By width what the script tells."""
    text = page.read_text()
    assert text.count(POLICY) == 1
    copy = text.replace(POLICY, "default-src 'unsafe-inline'").replace("</head>", MEASURE + "</head>")
    (page.parent / "measured.html").write_text(copy)
    frames = page.parent / "frames.html"
    each = "".join(f'<iframe width="{width}" height="900" style="border: 0"></iframe>' for width in WIDTHS)
    frames.write_text(FRAMES % (each, len(WIDTHS)))
    dom = browse(frames, "--dump-dom", "--window-size=1800,1000", *flags).stdout
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.S).group(1)))
    assert sorted(one["width"] for one in found) == sorted(WIDTHS)
    return {one["width"]: one for one in found}


@pytest.fixture(scope="module")
def measured(page):
    return measure(page)


def test_the_browser_has_nothing_to_complain_about(page):
    result = browse(page, "--dump-dom")
    assert "<h1>Rows of rows.jsonl</h1>" in result.stdout
    assert "CONSOLE" not in result.stderr and "ERR_" not in result.stderr, result.stderr


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(measured, width):
    assert measured[width]["scrolled"] <= width
    assert measured[width]["beyond"] == [] and measured[width]["spilt"] == []
    # Of the tables only the one with six columns of numbers may need to be moved on a small screen.
    assert measured[width]["scrolls"] <= (1 if width < 500 else 0)


@pytest.mark.parametrize("width", WIDTHS)
def test_histograms_have_a_size(measured, width):
    charts = measured[width]["charts"]
    assert len(charts) >= 3
    for chart in charts:
        assert 200 <= chart["width"] <= width and 50 <= chart["height"]
        assert len(chart["bars"]) > 1 and max(bar["height"] for bar in chart["bars"]) >= 0.5 * chart["height"]
        assert all(bar["width"] >= 1 for bar in chart["bars"])


def test_the_worst_rows_stand_side_by_side_where_there_is_room(measured):
    pairs = [pair for pair in measured[1280]["pairs"]]
    assert len(pairs) > 10 and all(len(pair) == 2 for pair in pairs)
    for left, right in pairs:
        assert left["top"] == right["top"] and right["left"] >= left["left"] + left["width"] and right["width"] >= 400
    for above, below in measured[400]["pairs"]:
        assert below["top"] >= above["top"] + above["height"] and below["left"] == above["left"]


def test_words_are_light_on_a_dark_screen(page, measured):
    dark = measure(page, DARK)
    assert (measured[1280]["color"], dark[1280]["color"]) == ("rgb(0, 0, 0)", "rgb(255, 255, 255)")


@pytest.mark.parametrize("flags", [[], [DARK]], ids=["light", "dark"])
def test_a_screenshot_shows_it(page, flags, tmp_path):
    browse(page, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1280,1600", *flags)
    png = (tmp_path / "page.png").read_bytes()
    assert struct.unpack(">8x4x4sII", png[:24]) == (b"IHDR", 1280, 1600)
    assert len(png) > 50_000  # one colour alone takes some 10 KB
