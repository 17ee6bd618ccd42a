"""The one style of printed tables: what it looks like, that nothing of it is cut, and that no verb has its own."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from rich.console import Console

import earsight
from earsight.reports.tables import print_rows

ROOT = Path(earsight.__file__).parent
ROWS = [
    {"class": "dog [bold]", "clips": 12, "share %": "95.0 ± 1.2"},
    {"class": "r\nain", "clips": None, "share %": "-"},
    {"class": "all", "clips": 1234, "share %": "3.5", "more": 0.123456789},
]


def printed(rows, *, width=80, terminal=False, **options):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, highlight=False)
    print_rows(rows, console=console, **options)
    return console.file.getvalue()


def test_a_table_is_as_this_one():
    lines = printed(ROWS, total=True, notes=["A [sentence]."]).splitlines()
    assert [line.rstrip() for line in lines] == [
        "class        clips      share %       more",
        "──────────────────────────────────────────",
        "dog [bold]      12   95.0 ± 1.2",
        "r ain                         -",
        "",
        "all           1234          3.5   0.123457",
        "",
        "A [sentence].",
    ]


def test_no_rows_are_no_table():
    assert printed([], notes=["Nothing."]) == "Nothing.\n"


def test_a_row_is_a_line_in_a_file_and_is_broken_on_a_terminal():
    rows = [{"name": "x", "about": "word " * 40 + "end"}]
    assert len(printed(rows).splitlines()) == 4
    shown = printed(rows, terminal=True).splitlines()
    assert len(shown) > 4
    assert max(map(len, shown)) <= 80
    assert " ".join(" ".join(line.split()) for line in shown).count("word") == 40
    assert "…" not in "".join(shown)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nobody_else_draws_tables(path):
    """Neither rich's, nor by widths of names, nor Markdown that is printed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = path.relative_to(ROOT).as_posix()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.module != "rich.table" or name == "reports/tables.py"
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None and name.startswith("commands/"):
            inner = [part for part in ast.walk(node.format_spec) if isinstance(part, ast.FormattedValue)]
            assert not inner, "a width"
        if isinstance(node, ast.Call) and name.startswith("commands/") and name != "commands/steps.py":
            assert getattr(node.func, "id", "") != "markdown"
