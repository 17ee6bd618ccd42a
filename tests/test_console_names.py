"""What the command line prints obeys no name, and its JSON is JSON."""

from __future__ import annotations

import io
import json

import pytest
import typer
from rich.table import Table

from earsight import console
from earsight.errors import EarsightError

HOSTILE = "\x1b]0;owned\x1b[2J\x9bdog\u202e"
SPELT = "\\x1b]0;owned\\x1b[2J\\x9bdog\\u202e"


@pytest.fixture
def printed(monkeypatch) -> io.StringIO:
    """What goes to either stream."""
    stream = io.StringIO()
    for one in (console.out, console.err):
        monkeypatch.setattr(one, "_file", stream)  # "file" would stay what it was found as
    return stream


def test_lines_tables_errors_and_progress(printed):
    console.say(f"{HOSTILE}\nsecond line")
    assert printed.getvalue() == f"{SPELT}\nsecond line\n"
    table = Table("class")
    table.add_row(HOSTILE)
    console.out.print(table)
    assert SPELT[:10] in printed.getvalue().splitlines()[-2]

    @console.verb
    def fails() -> None:
        raise EarsightError(f"{HOSTILE}: no such class")

    with pytest.raises(typer.Exit):
        fails()
    with console.bar(HOSTILE, "clips") as shown:
        shown(10, 10, HOSTILE)
    assert printed.getvalue().count(SPELT) == 4
    assert not {"\x1b", "\x9b", "\u202e"} & set(printed.getvalue())


def test_styles_of_our_own_still_reach_a_terminal():
    stream = io.StringIO()
    shown = type(console.out)(file=stream, force_terminal=True, color_system="standard", highlight=False)
    shown.print(HOSTILE, style="red", markup=False)
    assert stream.getvalue() == f"\x1b[31m{SPELT}\x1b[0m\n"


def test_json_is_always_json(capsys):
    console.print_json({"a": float("nan"), "b": [float("inf")], "name": "\x1b\x9b"})
    text = capsys.readouterr().out
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None], "name": "\x1b\x9b"}
    assert "\x9b" not in text
