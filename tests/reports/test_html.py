"""Pages: whatever a name holds, it is shown and does nothing; the same values give the same bytes."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import jinja2
import pytest

from earsight.errors import RunError
from earsight.reports.drawings import blank
from earsight.reports.html import inline_svg, render, shown, write_page

HOSTILE = (
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "a'b&amp;c",
    "\u202etxt.wav",
    "שלום",
    "🐸",
    "x" * 300,
    "line\nbreak\ttab\x00nul\x1besc",
    "caf\udce9.wav",
    "{{ 7 * 7 }}{% raw %}",
    '$x^2$ #000000 id="a" url(#b)',
)


class Reader(html.parser.HTMLParser):
    """What a browser makes of a page: its elements, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def drawing(label="a line"):
    figure = blank(4.0, 2.0)
    axis = figure.subplots()
    axis.plot([1, 2], [2, 3], "ko-", label=label)
    axis.set_title(label, parse_math=False)
    return figure


@pytest.fixture
def page(monkeypatch):
    """A page with a table, made of a template that stands in this test."""
    import earsight.reports.html as module

    source = (
        "{% extends 'base.html' %}{% import 'parts.html' as parts %}{% block content %}"
        "{{ parts.table('Clips', columns, rows, right=['n']) }}{% if drawn %}{{ parts.figure(drawn, 'F') }}{% endif %}"
        "{% endblock %}"
    )
    environment = module._environment.__wrapped__()
    environment.loader = jinja2.ChoiceLoader([jinja2.DictLoader({"t.html": source}), environment.loader])
    monkeypatch.setattr(module, "_environment", lambda: environment)
    return lambda **context: render("t.html", title=context.pop("title", "T"), context={"drawn": None, **context})


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_and_does_nothing(page, name):
    text = page(title=name, columns=["name", "n"], rows=[[name, 3]])
    text.encode("utf-8")
    read = Reader(text)
    assert "script" not in read.elements
    assert not [found for found in read.attributes if found[1].startswith("on")]
    assert "".join(read.texts).count(shown(name)) == 3  # title, heading, cell
    assert re.search(r"<bdi>[^<]*</bdi></th>", text)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_in_a_drawing(page, name):
    text = page(columns=["a"], rows=[], drawn=inline_svg(drawing(shown(name)), name="d", alt=name))
    text.encode("utf-8")
    read = Reader(text)
    assert "script" not in read.elements
    assert not [found for found in read.attributes if found[1].startswith("on")]
    assert shown(name) in "".join(read.texts)
    assert ("svg", "aria-label", shown(name)) in read.attributes


def test_drawings_keep_their_names_apart_and_are_the_same_each_time():
    first, second = (inline_svg(drawing(), name=name, alt="x") for name in "ab")
    assert inline_svg(drawing(), name="a", alt="x") == first
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', first))
    assert used
    assert used <= ids[0]


def test_drawings_take_the_colours_of_the_page_and_keep_text_as_text():
    text = inline_svg(drawing("words"), name="a", alt="x")
    assert "words</text>" in text
    assert "currentColor" in text
    assert "#000000" not in text
    assert "<style" not in text
    assert "http" not in text


def test_a_page_stands_alone(page):
    read = Reader(page(columns=["a"], rows=[["b"]], drawn=inline_svg(drawing(), name="d", alt="x")))
    assert not set(read.elements) & {"script", "link", "iframe", "object", "embed", "base"}
    outside = [value for _, name, value in read.attributes if name in ("src", "href", "action") and value[:1] != "#"]
    assert outside == []
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:") in (
        read.attributes
    )
    assert read.elements.count("h1") == 1
    assert ("html", "lang", "en") in read.attributes
    assert ("th", "scope", "col") in read.attributes
    assert ("th", "scope", "row") in read.attributes


def test_a_name_that_a_template_lacks_is_an_error(page):
    with pytest.raises(jinja2.UndefinedError):
        page(columns=["a"])


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "page.html"
    write_page("é", target)
    assert target.read_bytes() == "é".encode()
    with pytest.raises(RunError, match="cannot be written"):
        write_page("x", tmp_path)
    with pytest.raises(RunError, match="cannot be written"):
        write_page("x", target / "below.html")
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line():
    with pytest.raises(RunError, match=r"/dev/full: cannot be written \(No space left"):
        write_page("x", Path("/dev/full"))
