"""Which files are predicted, and in which order."""

from __future__ import annotations

import io

import pytest

from earsight.errors import DataError
from earsight.inference.clips import find_sounds


def test_names_folders_and_the_stream_in_their_order(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("deep/b.WAV", "deep/er/a.flac", "deep/notes.txt", "deep/er/Ü (1).ogg"):
        (tmp_path / name).touch()
    (tmp_path / "deep" / "folder.wav").mkdir()
    folder = str(tmp_path / "deep")
    found = list(
        find_sounds(["z.wav", "-", folder, "-odd.wav"], stdin=io.StringIO("\ufeffx 1.wav\n\ny.wav\r\n  z.wav \n"))
    )
    assert found == [
        *("z.wav", "x 1.wav", "y.wav", "  z.wav "),
        *(f"{folder}/b.WAV", f"{folder}/er/a.flac", f"{folder}/er/Ü (1).ogg", "-odd.wav"),
    ]


def test_a_folder_without_sound(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="no audio file below"):
        find_sounds(["x.wav", str(tmp_path)], stdin=io.StringIO())
