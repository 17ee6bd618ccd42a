"""What the features' tests share."""

import csv

import pytest


@pytest.fixture(scope="session")
def real_clips(esc10):
    """Two clips of each of the ten classes, as paths."""
    with (esc10 / "meta" / "esc50.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["esc10"] == "TRUE"]
    by_class = {}
    for row in rows:
        by_class.setdefault(row["category"], []).append(esc10 / "audio" / row["filename"])
    assert len(by_class) == 10
    return [files[place] for files in by_class.values() for place in (7, 23)]
