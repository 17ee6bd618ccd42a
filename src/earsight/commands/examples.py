"""Two commands for each verb, as its ``--help`` ends with them: the lines of ``examples.txt``; the tests run them."""

from __future__ import annotations

from pathlib import Path


def _read() -> dict[str, dict[str, str]]:
    """Of each verb, by its words: commands and what they are for."""
    out: dict[str, dict[str, str]] = {}
    for line in Path(__file__).with_name("examples.txt").read_text(encoding="utf-8").splitlines():
        command, _, about = line.partition("  # ")
        group, name = [*command.split()[1:], ""][:2]
        out.setdefault(f"{group} {name}" if group in ("recipe", "analyze") else group, {})[command] = about
    return out


EXAMPLES = _read()


def examples_text(name: str) -> str:
    """The examples of a verb, after the sign by which click prints a paragraph line for line."""
    lines = [f"  {command}\n      {about}" for command, about in EXAMPLES[name].items()]
    return "\b\nExamples:\n" + "\n".join(lines)
