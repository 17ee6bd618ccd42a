"""The files of a reproduction: what earlier versions wrote goes on being read."""

from __future__ import annotations

import base64
import json

import pytest

from earsight.errors import RunError
from earsight.experiments.output import write_report
from earsight.experiments.scale import Scale

MACHINE = {"device": "a machine", "threads": 1, "torch": "2"}
PNG = b"\x89PNG not drawn"


def test_figures_that_an_earlier_version_called_pictures_are_in_the_report(tmp_path):
    (tmp_path / "sections").mkdir()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(PNG)
    picture = {"title": "Figure 2a", "path": "figures/a.png", "caption": "Old.", "claims": ["It holds."], "rows": []}
    old = {"section": "figures", "title": "Figures", "rows": [], "claims": [], "empty": [], "pictures": [picture]}
    (tmp_path / "sections" / "figures.json").write_text(json.dumps(old | {"analyses": {}, "cells": {}}))
    files = write_report([], out=tmp_path, scale=Scale(name="s", title="S"), machine=MACHINE)
    assert "![Figure 2a](figures/a.png)" in files["md"].read_text()
    assert base64.b64encode(PNG).decode() in files["html"].read_text()
    assert json.loads(files["json"].read_text())["sections"][0]["figures"] == [picture]


def test_a_broken_section_and_a_folder_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "sections").mkdir()
    (tmp_path / "sections" / "table1.json").write_text("{")
    with pytest.raises(RunError, match=r"table1\.json: cannot be read .*; remove it and run again"):
        write_report([], out=tmp_path, scale=Scale(name="s", title="S"), machine=MACHINE)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="name another folder with out"):
        write_report([], out=tmp_path / "file", scale=Scale(name="s", title="S"), machine=MACHINE)
