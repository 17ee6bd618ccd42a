"""CITATION.cff says the same as the project's metadata and the README."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_the_citation_fits_the_project_and_the_paper():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert (cited["title"], cited["version"], cited["license"]) == (
        project["name"],
        project["version"],
        project["license"],
    )
    paper = cited["preferred-citation"]
    assert f"[arXiv {paper['doi'].removeprefix('10.48550/arXiv.')}]({paper['url']})" in readme
    assert paper["title"] in " ".join(readme.split())
    assert all(author["family-names"] in readme for author in paper["authors"])
    assert set(cited["keywords"]) == set(project["keywords"])


def test_the_dockerfile_copies_what_the_build_needs_and_nothing_is_hidden_from_it():
    words = (ROOT / "Dockerfile").read_text(encoding="utf-8").split("\n")
    copied = [name for line in words if line.startswith("COPY ") for name in line.split()[1:-1]]
    seen = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert set(copied) == {line.removeprefix("!") for line in seen if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
