"""Boxes as crowsetta and opensoundscape wrote them: see boxes_by_others/make.py, which made the files."""

from pathlib import Path

import pytest
from test_annotations import recording

from earsight.data.annotations import read_boxes

HERE = Path(__file__).parent / "boxes_by_others"
WREN = 'it\'s a "wren"'
OF_A = [("a.wav", 0.25, 1.75, "owl", 200.0, 900.5), ("a.wav", 3.5, 4.125, WREN, 2000.0, 7000.0)]
ALL = [*OF_A, ("b.wav", 0.1, 0.333333, "owl", 250.0, 800.0)]


@pytest.fixture
def root(tmp_path):
    recording(tmp_path / "rec" / "a.wav")
    recording(tmp_path / "rec" / "b.wav")
    return tmp_path / "rec"


@pytest.mark.parametrize("name", ["opensoundscape.csv", "opensoundscape"])
def test_of_opensoundscape(root, name):
    found = read_boxes(HERE / name, root)
    assert [(box.path, box.begin, box.end, box.label, box.fmin, box.fmax) for box in found.boxes] == ALL


@pytest.mark.parametrize(
    ("name", "bands"), [("raven.txt", True), ("audbbox.txt", True), ("audseq.txt", False), ("simple.csv", False)]
)
def test_of_crowsetta(root, name, bands):
    found = read_boxes(HERE / f"crowsetta.{name}", root / "a.wav")
    assert [(box.path, box.begin, box.end, box.label) for box in found.boxes] == [row[:4] for row in OF_A]
    assert not bands or [(box.fmin, box.fmax) for box in found.boxes] == [row[4:] for row in OF_A]


def test_crowsettas_generic_table_names_its_sounds(root):
    found = read_boxes(HERE / "crowsetta.generic.csv", root)
    assert [(box.path, box.begin, box.end, box.label) for box in found.boxes] == [row[:4] for row in OF_A]
