"""Which files are predicted, and in which order."""

from __future__ import annotations

import io
import os

import pytest

from earsight.data import decoders, open_dataset
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


@pytest.mark.parametrize("name", ["x.wav", "x.m4a", "x.ts"])
def test_folders_named_like_a_sound_are_searched(tmp_path, name):
    for label in "ab":
        (tmp_path / label / name / "deep").mkdir(parents=True)
        for sound in ("plain.wav", f"{name}/lost.wav", f"{name}/deep/lost.wav"):
            (tmp_path / label / sound).touch()
    wanted = [f"{label}/{sound}" for label in "ab" for sound in (f"{name}/deep/lost.wav", f"{name}/lost.wav")]
    wanted = sorted([*wanted, "a/plain.wav", "b/plain.wav"])
    assert list(find_sounds([str(tmp_path)], stdin=io.StringIO())) == [f"{tmp_path}/{path}" for path in wanted]
    assert [clip.path for clip in open_dataset(tmp_path, folds=2).clips] == wanted


def test_a_folder_without_sound(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no audio file below.*1 file beside the sounds, .* \(.txt 1\)"):
        find_sounds([str(tmp_path)], stdin=io.StringIO())
    said = []
    assert list(find_sounds(["x.wav", str(tmp_path)], stdin=io.StringIO(), say=said.append)) == ["x.wav"]
    assert said == [f"{tmp_path}: no audio file below this folder"]


def test_what_a_search_leaves_out_is_said_as_check_says_it(tmp_path, monkeypatch):
    for label in "ab":
        (tmp_path / label).mkdir()
        for name in ("0.wav", "1.wav", "2.ts", "3.TS", "4.gsm", "5", "6.csv", "7.JPG", ".DS_Store"):
            (tmp_path / label / name).touch()
    said = []
    assert len(list(find_sounds([str(tmp_path)], stdin=io.StringIO(), say=said.append))) == 4
    assert said == [
        "8 files were left out: their endings are not those of sounds (.ts 4, none 2, .gsm 2); "
        "rename what is sound, as to .wav (its content says what it is), or name it by itself"
    ]
    assert len(said) == 1
    assert said[0] in (notes := open_dataset(tmp_path, folds=2).notes)
    assert "4 files beside the sounds, none by the ending (.csv 2, .jpg 2)" in notes
    assert said[0] in open_dataset(tmp_path, label_from="{label}", folds=None, testing=True).notes
    monkeypatch.setattr(decoders, "has_ffmpeg", lambda: False)
    (tmp_path / "a" / "6.m4a").touch()
    list(find_sounds([str(tmp_path), "x.wma", "y.ts"], stdin=io.StringIO(), say=said.append))
    assert said[2].startswith("3 files (.m4a 1, .ts 1, .wma 1) in codings that libsndfile does not read: `pip install")


@pytest.mark.parametrize("packet", [188, 192])
def test_transport_streams_are_known_from_programs_of_the_same_ending(tmp_path, packet):
    stream = bytearray(2 * packet)
    stream[packet - 188 :: packet] = b"GG"
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "stream.TS").write_bytes(stream)
        (tmp_path / label / "stream.m2ts").write_bytes(stream)
        (tmp_path / label / "program.ts").write_text("G" + "export const x = 1;\n" * 20)
        (tmp_path / label / "folder.ts").mkdir()
        os.mkfifo(tmp_path / label / "pipe.ts")
    said = []
    found = list(find_sounds([str(tmp_path)], stdin=io.StringIO(), say=said.append))
    streams = [f"{label}/stream{ending}" for label in "ab" for ending in (".TS", ".m2ts")]
    assert found == [f"{tmp_path}/{stream}" for stream in streams]
    assert said[0].startswith("4 files were left out: their endings are not those of sounds (.ts 4)")
    assert [clip.path for clip in open_dataset(tmp_path, folds=None, testing=True).clips] == streams


def test_a_list_in_utf_16(tmp_path):
    list_of = io.TextIOWrapper(io.BytesIO("x.wav\n".encode("utf-16")), encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DataError, match="the list on standard input is UTF-16; send it as UTF-8"):
        list(find_sounds(["-"], stdin=list_of))
