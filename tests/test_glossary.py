"""docs/glossary.md names modules that exist, in order; and the words that it retired do not come back in the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import earsight

ROOT = Path(earsight.__file__).parent
GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"
# Word -> how often it may stand in src, and what for.
RETIRED = {
    "picture": 16,  # real images, keys of old run folders, values of old recipes
    "butterfl": 0,
    r"\blanes?\b": 1,
    r"\bresident": 0,
    r"\bpacked": 1,  # of PyAV's formats
    "running mean": 2,  # of batch norms
    "novelty": 35,  # columns, JSON and npz keys, outputs of ONNX files
    "doubt": 10,  # the value of --score, and of cards
    "plausible": 19,  # columns and JSON keys
    r"\bheard": 4,  # a journal's key, and the row of a recording that broke off
    r"\bhears": 0,
    r"\bexpansion": 0,
    "corpus": 0,
    "contest": 0,
    r"\btold\b": 3,
    r"\bsaid\b": 0,
    r"\bsuppl(y|ies)\b": 0,
    r"\bfor ever\b": 0,
    r"\bcome home\b": 0,
}


def terms() -> list[str]:
    text = GLOSSARY.read_text(encoding="utf-8").split("\n## ")[0]
    return [re.sub(r"\W+", " ", term).strip().lower() for term in re.findall(r"^- \*\*(.+?)\*\*", text, flags=re.M)]


def source() -> str:
    kinds = {".py", ".html", ".js", ".css", ".yaml"}
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*")) if path.suffix in kinds)


def test_every_term_stands_once_in_the_order_of_the_alphabet():
    found = terms()
    assert len(found) > 45
    assert found == sorted(set(found))


def test_every_module_that_is_named_is_there():
    named = set(re.findall(r"`earsight\.([\w.]+)`", GLOSSARY.read_text(encoding="utf-8")))
    assert len(named) > 25
    missing = [
        name
        for name in sorted(named)
        if not (ROOT / f"{name.replace('.', '/')}.py").is_file() and not (ROOT / name.replace(".", "/")).is_dir()
    ]
    assert missing == []


@pytest.mark.parametrize("word", RETIRED)
def test_retired_words_stay_away(word):
    assert len(re.findall(word, source(), flags=re.I)) <= RETIRED[word]
