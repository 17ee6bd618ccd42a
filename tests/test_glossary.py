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
    "picture": 40,  # real images, keys of old run folders and values of old recipes
    "butterfl": 0,
    r"\bresident": 2,  # a class of training/batches.py
    r"\bpacked": 14,  # of training/batches.py and features/augment.py: names of variables
    "running mean": 10,  # of batch norms
    "novelty": 45,  # columns, JSON and npz keys, outputs of ONNX files
    "doubt": 12,  # the value of --score, and of cards
    "plausible": 32,  # columns and JSON keys
    r"\bheard": 40,
    r"\bhears": 2,
    "contest": 30,  # names in the report's templates
    r"\bsuppl(y|ies)\b": 0,
    r"\bfor ever\b": 2,
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
