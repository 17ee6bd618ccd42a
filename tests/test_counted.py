"""Counted nouns: one epoch is no "1 epochs", wherever a number is written into a sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import earsight
from earsight.errors import counted

ROOT = Path(earsight.__file__).parent
NOUNS = "epochs|trials|recipes|members|cells|points|seeds"
"""Of which one is common, and which sentences in all rooms count."""
PLURAL = re.compile(r"\{(?P<what>[^{}]+)\} (?:" + NOUNS + r")\b")


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [(1, "epoch", "1 epoch"), (0, "epoch", "0 epochs"), (2, "class", "2 classes"), (1, "class", "1 class")],
)
def test_a_noun_follows_its_number(number, noun, words):
    assert counted(number, noun) == words


def plurals(text):
    return [found["what"] for found in PLURAL.finditer(text) if not re.search("percent|signed|100 ", found["what"])]


def test_a_plural_after_a_number_is_seen():
    assert plurals('f"{len(trials)} trials of {epochs:3} epochs"') == ["len(trials)", "epochs:3"]
    assert plurals("f\"{counted(n, 'trial')}, {percent(gain)} points\"") == []


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_sentence_has_a_plural_after_any_number(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.strip() for line in lines if 'f"' in line and plurals(line)] == []
