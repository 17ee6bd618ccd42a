import dataclasses
import json
import os

import numpy as np
import pytest
import soundfile

from earsight.data import Clip, Dataset, Hints, open_dataset
from earsight.data.layouts import measured_hints
from earsight.errors import DataError

RATE = 8000


def sound(path, seconds=0.5, rate=RATE, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(list(str(path).encode()))  # each file its own, for copies stay in one fold
    wave = generator.normal(scale=0.1, size=round(seconds * rate))
    soundfile.write(path, wave, rate, **kwargs)
    return path


def table(path, *lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def refused(path, **kwargs):
    with pytest.raises(DataError) as caught:
        open_dataset(path, **kwargs)
    message = str(caught.value)
    assert message.count("\n") <= 1
    return message


# --- ESC-50 ---------------------------------------------------------------------------------------------------------

ESC50_HEADER = "filename,fold,target,category,esc10,src_file,take"


def esc50(root, folds=(1, 2, 3, 4, 5), suffix=".wav"):
    lines = [ESC50_HEADER]
    for fold in folds:
        for target, (category, esc10) in enumerate([("dog", "TRUE"), ("cat", "FALSE"), ("rain", "True")]):
            for take in "AB":
                name = f"{fold}-{fold}{target}-{take}-{target}{suffix}"
                (root / "audio").mkdir(parents=True, exist_ok=True)
                (root / "audio" / name).touch()
                lines.append(f"{name},{fold},{target},{category},{esc10},{fold}{target},{take}")
    table(root / "meta" / "esc50.csv", *lines)
    return root


def test_esc50(tmp_path):
    data = open_dataset(esc50(tmp_path / "ESC-50-master", suffix=".ogg"))
    assert data.layout == "esc50"
    assert data.name == "ESC-50-master"
    assert data.hints == Hints(44100, 5.0, 250)
    assert data.clips[0] == Clip(path="audio/1-10-A-0.ogg", label="dog", fold=1, group="10")
    assert data.classes == ("cat", "dog", "rain")
    assert data.fold_numbers == (1, 2, 3, 4, 5)
    assert data.labels.dtype == data.folds.dtype == np.int64
    np.testing.assert_array_equal(data.labels[:6], [1, 1, 0, 0, 2, 2])
    np.testing.assert_array_equal(data.folds[:7], [1, 1, 1, 1, 1, 1, 2])
    assert list(data.groups[:3]) == ["10", "10", "11"]
    assert data.file(0) == tmp_path / "ESC-50-master/audio/1-10-A-0.ogg"
    assert data.describe() == "ESC-50 layout (ESC-50-master): 30 clips, 3 classes, 5 official folds"
    assert data.notes == ()


def test_esc10_is_a_subset_of_esc50(tmp_path):
    data = open_dataset(esc50(tmp_path), subset="esc10")
    assert (data.name, len(data.clips), data.classes) == ("esc10", 20, ("dog", "rain"))
    assert "esc10" in refused(tmp_path, subset="esc100")


def test_esc50_with_a_marker_takes_its_name_and_hints(tmp_path):
    esc50(tmp_path)
    marker = {"name": "mine", "sample_rate_hz": 16000, "clip_seconds": 1.0, "frames": 50}
    (tmp_path / "dataset.json").write_text(json.dumps(marker))
    data = open_dataset(tmp_path)
    assert (data.name, data.hints) == ("mine", Hints(16000, 1.0, 50))
    for broken in (
        "{",
        "[]",
        '{"name": "x"}',
        '{"name": "x", "sample_rate_hz": "many", "clip_seconds": 1, "frames": 2}',
    ):
        (tmp_path / "dataset.json").write_text(broken)
        assert "dataset.json" in refused(tmp_path)


def test_esc50_rows_without_their_files(tmp_path):
    esc50(tmp_path)
    for name in sorted((tmp_path / "audio").iterdir())[:4]:
        name.unlink()
    message = refused(tmp_path)
    assert "4 of 30 files do not exist" in message
    assert message.count(".wav") == 3


def test_esc50_rows_that_are_wrong(tmp_path):
    good = (esc50(tmp_path) / "meta/esc50.csv").read_text()
    for old, new, said in (
        ("category", "kind", "no column 'category'"),
        (",1,0,dog", ",one,0,dog", "fold is 'one'"),
        (",1,0,dog", ",1.5,0,dog", "fold is '1.5'"),
        (",0,dog", ",0,", "empty label"),
    ):
        (tmp_path / "meta/esc50.csv").write_text(good.replace(old, new, 1))
        assert said in refused(tmp_path)


def test_a_class_within_one_fold_cannot_be_trained(tmp_path):
    esc50(tmp_path)
    path = tmp_path / "meta/esc50.csv"
    path.write_text(
        path.read_text().replace("1,2,rain", "1,2,frog").replace("\n1-12-A-2.wav,1,2,rain", "\n1-12-A-2.wav,1,2,frog")
    )
    message = refused(tmp_path)
    assert "'frog'" in message
    assert "fold 1" in message


def test_a_class_that_a_fold_does_not_test_is_noted(tmp_path):
    esc50(tmp_path)
    path = tmp_path / "meta/esc50.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if ",3,1,cat" not in line))
    assert open_dataset(tmp_path).notes == ("class 'cat' has no clip in fold 3: it is not tested there",)
    assert "at least two folds" in refused(esc50(tmp_path / "one", folds=(1,)))


@pytest.mark.real_audio
def test_real_esc10(esc10):
    data = open_dataset(esc10)
    assert data.describe() == "ESC-50 layout (esc10): 400 clips, 10 classes, 5 official folds"
    for fold in data.fold_numbers:
        np.testing.assert_array_equal(np.bincount(data.labels[data.folds == fold]), np.full(10, 8))
    for group in set(data.groups):
        assert len(set(data.folds[data.groups == group])) == 1


# --- UrbanSound8K and GTZAN -----------------------------------------------------------------------------------------


def test_urbansound8k(tmp_path):
    lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for fold in range(1, 11):
        for number, name in enumerate(["drilling", "dog_bark"]):
            file = f"{fold}{number}-{number}-0-0.wav"
            (tmp_path / f"audio/fold{fold}").mkdir(parents=True, exist_ok=True)
            (tmp_path / f"audio/fold{fold}" / file).touch()
            lines.append(f"{file},{fold}{number},0.0,4.0,1,{fold},{number},{name}")
    table(tmp_path / "metadata/UrbanSound8K.csv", *lines)
    data = open_dataset(tmp_path)
    assert (data.layout, data.hints) == ("urbansound8k", Hints(22050, 4.0, 250))
    assert data.clips[-1] == Clip("audio/fold10/101-1-0-0.wav", "dog_bark", 10, "101")
    assert data.fold_numbers == tuple(range(1, 11))
    assert "10 official folds" in data.describe()


@pytest.mark.parametrize("home", ["", "genres", "genres_original"])
@pytest.mark.parametrize("suffix", ["wav", "au"])
def test_gtzan(tmp_path, home, suffix):
    genres = ("blues", "disco", "jazz")
    for genre in genres:
        folder = tmp_path / home / genre
        folder.mkdir(parents=True)
        for number in range(10):
            (folder / f"{genre}.{number:05d}.{suffix}").touch()
    (tmp_path / home / "blues/notes.wav").touch()
    data = open_dataset(tmp_path, seed=1)
    assert (data.layout, data.hints, data.classes) == ("gtzan", Hints(22050, 30.0, 1500), genres)
    assert len(data.clips) == 30
    assert data.file(0).is_file()
    for fold in range(1, 6):
        np.testing.assert_array_equal(np.bincount(data.labels[data.folds == fold]), [2, 2, 2])
    assert any("not named <genre>.<number>" in note for note in data.notes)
    assert (open_dataset(tmp_path, seed=2).folds != data.folds).any()


# --- a folder per class ---------------------------------------------------------------------------------------------


def folders(root, classes=("ä b", "dog (small)", "猫"), count=5):
    for name in classes:
        for number in range(count):
            sound(root / name / f"clip {number} (é).WAV")
    return root


def test_a_folder_per_class(tmp_path):
    data = open_dataset(folders(tmp_path / "my sounds"))
    assert (data.layout, data.name, data.classes) == ("folder", "my sounds", ("dog (small)", "ä b", "猫"))
    assert all(data.file(row).is_file() for row in range(15))
    assert [clip.group for clip in data.clips] == [clip.path for clip in data.clips]
    assert data.hints == Hints(8000, 0.5, 50)
    for fold in range(1, 6):
        np.testing.assert_array_equal(np.bincount(data.labels[data.folds == fold]), [1, 1, 1])
    assert "stratified" in data.describe()
    assert any("seed 0" in note for note in data.notes)


def test_nested_folders_links_and_what_is_no_sound(tmp_path):
    root = tmp_path / "set"
    for name in ("cat", "dog"):
        for number in range(3):
            sound(root / name / "deep" / "er" / f"{number}.wav")
    elsewhere = sound(tmp_path / "elsewhere" / "more.flac")
    (root / "cat" / "linked.flac").symlink_to(elsewhere)
    (root / "dog" / "linked folder").symlink_to(elsewhere.parent, target_is_directory=True)
    (root / "cat" / "loop").symlink_to(root / "cat", target_is_directory=True)
    (root / "dog" / "up").symlink_to(root, target_is_directory=True)
    (root / "cat" / "self").symlink_to("self")
    for name in (".DS_Store", "cat/._0.wav", "cat/list.txt", "dog/list.csv", "readme.md"):
        (root / name).write_text("x")
    sound(root / "loose.wav")
    (root / "empty").mkdir()
    data = open_dataset(root, folds=2)
    cats = [clip.path for clip in data.clips if clip.label == "cat"]
    assert cats == ["cat/deep/er/0.wav", "cat/deep/er/1.wav", "cat/deep/er/2.wav", "cat/linked.flac"]
    dogs = [clip.path for clip in data.clips if clip.label == "dog"]
    assert dogs == ["dog/deep/er/0.wav", "dog/deep/er/1.wav", "dog/deep/er/2.wav", "dog/linked folder/more.flac"]
    notes = " | ".join(data.notes)
    assert "'empty' holds no sound" in notes
    assert "2 hidden names left out" in notes
    assert "1 file was left out: its ending is not a sound's (none 1); rename what" in notes
    assert "3 files beside the sounds, none by the ending (.csv 1, .md 1, .txt 1)" in notes
    assert "1 sound beside the class folders" in notes
    assert "links to folders already listed" in notes


def test_what_is_named_like_a_sound_stays_listed(tmp_path):
    folders(tmp_path, classes=("a", "b"))
    (tmp_path / "a" / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe.wav")
    (tmp_path / "b" / "gone.wav").symlink_to("nowhere")
    paths = {clip.path for clip in open_dataset(tmp_path).clips}
    assert {"a/folder.wav", "a/pipe.wav", "b/gone.wav"} < paths


def test_one_label_however_it_is_spelt_in_unicode(tmp_path):
    folders(tmp_path, classes=("T\u0075\u0308r", "b"))
    assert open_dataset(tmp_path).classes == ("T\u00fcr", "b")


def test_numbers_as_classes_are_sorted_by_value(tmp_path):
    assert open_dataset(folders(tmp_path, classes=("10", "9", "1"))).classes == ("1", "9", "10")


def test_folders_that_cannot_be_trained_on(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no clips" in refused(tmp_path / "empty")
    sound(tmp_path / "loose" / "a.wav")
    assert "no class folders" in refused(tmp_path / "loose")
    assert "only one class, 'a'" in refused(folders(tmp_path / "one", classes=("a",)))
    few = folders(tmp_path / "few", classes=("a", "b"))
    for number in (3, 4):
        (few / "b" / f"clip {number} (é).WAV").unlink()
    message = refused(few)
    assert "'b' has 3 clips, fewer than 5 folds" in message
    assert "splits 3" in message
    assert open_dataset(few, folds=3).fold_numbers == (1, 2, 3)
    assert "at least 2" in refused(few, folds=1)
    (few / "b" / "clip 1 (é).WAV").unlink()
    (few / "b" / "clip 2 (é).WAV").unlink()
    message = refused(few, folds=2)
    assert "has 1 clip; at least 2 sources" in message
    (tmp_path / "t.csv").write_text("path,label,group\na.wav,a,one\nb.wav,a,one\nc.wav,b,two\nd.wav,b,three\n")
    for name in "abcd":
        sound(tmp_path / f"{name}.wav")
    assert "class 'a' has 2 clips from 1 group; at least 2" in refused(tmp_path / "t.csv", folds=2)


def test_paths_that_are_no_data_set(tmp_path):
    assert "no such folder" in refused(tmp_path / "none")
    assert "single file" in refused(sound(tmp_path / "x.wav"))
    assert "no such folder" in refused("nul\0")
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv")


def test_layout_by_name(tmp_path):
    esc50(tmp_path / "set")
    assert "did you mean 'esc50'?" in refused(tmp_path / "set", layout="esc-50")
    assert "known: auto, esc50" in refused(tmp_path / "set", layout="zzz")
    assert "UrbanSound8K.csv" in refused(tmp_path / "set", layout="urbansound8k")
    assert "genres" in refused(tmp_path / "set", layout="gtzan")
    assert "is a csv file" in refused(tmp_path / "set", layout="csv")
    folders(tmp_path / "plain")
    assert "meta/esc50.csv" in refused(tmp_path / "plain", layout="esc50")
    assert "esc10" in refused(tmp_path / "plain", subset="esc10")
    assert open_dataset(folders(tmp_path / "set"), layout="folder").layout == "folder"


# --- csv ------------------------------------------------------------------------------------------------------------


def listed(root, header="path,label", delimiter=",", count=6):
    lines = [header.replace(",", delimiter)]
    for number in range(count):
        sound(root / "w" / f"{number}.wav")
        values = {"path": f"w/{number}.wav", "label": "ab"[number % 2], "fold": str(number // 2), "group": f"g{number}"}
        lines.append(delimiter.join(values[name] for name in header.split(",")))
    return lines


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv_with_folds_and_groups(tmp_path, delimiter, encoding, ending):
    lines = listed(tmp_path, "label,group,path,fold", delimiter)
    path = tmp_path / "list.csv"
    path.write_bytes((ending.join(lines) + ending + ending).encode(encoding))
    data = open_dataset(path)
    assert (data.layout, data.name, data.root) == ("csv", "list", tmp_path)
    assert data.clips[3] == Clip("w/3.wav", "b", 1, "g3")
    assert data.fold_numbers == (0, 1, 2)
    assert data.describe() == "a csv of clips (list): 6 clips, 2 classes, 3 given folds"


def test_csv_without_folds(tmp_path):
    data = open_dataset(table(tmp_path / "list.csv", *listed(tmp_path)), folds=3)
    assert data.fold_numbers == (1, 2, 3)
    assert data.clips[0].group == "w/0.wav"
    assert "3 stratified folds" in data.describe()
    assert "folds" not in open_dataset(tmp_path / "list.csv", folds=None).describe()
    grouped = listed(tmp_path, "path,label,group")
    same = open_dataset(table(tmp_path / "g.csv", *(line.replace("g2", "g0") for line in grouped)), folds=2)
    assert same.folds[0] == same.folds[2]


def test_csv_with_paths_of_every_kind(tmp_path):
    lines = listed(tmp_path / "set")
    outside = sound(tmp_path / "outside" / "x, y.wav")
    sound(tmp_path / "set" / "ü (1)" / "ß.WAV")
    lines += [f'"{outside}",a', '"../outside/../outside/z.wav",b', "w\\..\\ü (1)\\ß.WAV,a"]
    sound(tmp_path / "outside" / "z.wav")
    data = open_dataset(table(tmp_path / "set" / "list.csv", *lines), folds=2)
    assert [clip.path for clip in data.clips[6:]] == [
        outside.as_posix(),
        (tmp_path / "outside/z.wav").as_posix(),
        "ü (1)/ß.WAV",
    ]
    assert all(data.file(row).is_file() for row in range(9))


def test_csv_that_is_wrong(tmp_path):
    lines = listed(tmp_path)
    path = tmp_path / "list.csv"

    def said(*rows):
        return refused(table(path, *rows), folds=2)

    assert "no column 'path'; found sound, label" in said("sound,label", "w/0.wav,a")
    assert "expected path, label: name 'audio_path' so, which names sounds" in said("audio_path,label", "w/0.wav,a")
    assert "names sounds" not in said("one,two,label", "w/0.wav,w/1.wav,a")
    assert "names sounds" not in said("one,label", "w/0,a")
    assert "no column 'path'; found nothing" in said("")
    assert "without rows" in said("path,label")
    assert "empty path or label in 1 rows (line 4" in said(*lines[:3], "w/2.wav, ", *lines[4:])
    assert "2 of 8 files do not exist (no.wav, none.wav)" in said(*lines, "no.wav,a", "none.wav,b")
    assert "1 files are named more than once (w/0.wav)" in said(*lines, "./w/0.wav,a")
    # Under another label it has two (tests/data/test_labels.py), unless each clip is to have one.
    with pytest.raises(DataError, match="named more than once"):
        open_dataset(table(path, *lines, "./w/0.wav,b"), folds=2, labels="single")
    assert "line 8: 3 values for 2 columns" in said(*lines, "w/a, b.wav,a")
    assert "only one class" in said(*(line.replace(",b", ",a") for line in lines))
    folds = listed(tmp_path, "path,label,fold")
    assert "line 2: fold is ''" in said(*(line.replace("a,0", "a,") for line in folds))
    assert "line 2: fold is 'x'" in said(*(line.replace("a,0", "a,x") for line in folds))
    assert "line 2: fold is 'inf'" in said(*(line.replace("a,0", "a,inf") for line in folds))
    assert "not a csv" in said(*lines, '"w/0.wav')
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    assert "a PNG image" in refused(path)
    path.write_bytes("path,label\nw/0.wav,Köln".encode("latin-1"))
    assert "UTF-8" in refused(path)


def test_folds_that_a_spreadsheet_wrote_as_decimals(tmp_path):
    lines = [line.replace(",0", ",0.0") for line in listed(tmp_path, "path,label,fold")]
    assert open_dataset(table(tmp_path / "x.csv", *lines)).fold_numbers == (0, 1, 2)


# --- hints and digest -----------------------------------------------------------------------------------------------


def test_hints_come_from_the_headers(tmp_path):
    paths = []
    for number, (seconds, rate) in enumerate([(1.0, 96000)] * 3 + [(2.01, 96000)] * 17 + [(40.0, 16000)]):
        paths.append(sound(tmp_path / f"{number}.wav", seconds, rate).name)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    hints, notes = measured_hints(tmp_path, ["bad.wav", *paths])
    assert hints == Hints(96000, 2.1, 105)  # noise of all frequencies
    assert "features.sample_rate_hz=auto takes 96000 Hz" in notes[0]
    hints, _ = measured_hints(tmp_path, [paths[-1]])
    assert hints == Hints(16000, 30.0, 1500)
    hints, _ = measured_hints(tmp_path, [sound(tmp_path / "tiny.wav", 0.01, 4000).name])
    assert hints == Hints(8000, 0.5, 50)
    hints, notes = measured_hints(tmp_path, ["bad.wav"])
    assert hints == Hints(22050, 5.0, 250)
    assert "can be read" in notes[0]


def test_only_two_hundred_headers_are_read(tmp_path, monkeypatch):
    from earsight.data import audio

    sound(tmp_path / "x.wav")
    asked = []
    original = audio.info
    monkeypatch.setattr(audio, "info", lambda path: asked.append(path) or original(path))
    measured_hints(tmp_path, ["x.wav"] * 1000)
    assert len(asked) == 200


def test_digest_names_the_rows_and_nothing_else(tmp_path):
    one = open_dataset(esc50(tmp_path / "one"))
    other = open_dataset(esc50(tmp_path / "other"))
    assert one.digest == other.digest
    assert len(one.digest) == 12
    assert int(one.digest, 16) >= 0
    clip = one.clips[0]
    seen = {one.digest}
    for change in ({"path": "x"}, {"label": "cat"}, {"fold": 2}, {"group": "x"}):
        clips = (dataclasses.replace(clip, **change), *one.clips[1:])
        seen.add(dataclasses.replace(one, clips=clips).digest)
    seen.add(dataclasses.replace(one, clips=one.clips[::-1]).digest)
    assert len(seen) == 6


def test_digest_of_a_known_row():
    clips = (Clip("a/ü.wav", "a", 1, "g"), Clip("b.wav", "b", 2, "h"))
    data = Dataset("x", "csv", root=None, clips=clips, classes=("a", "b"), hints=Hints(8000, 1.0, 50))
    # sha256 of '["a/\\u00fc.wav", "a", 1, "g"]\n["b.wav", "b", 2, "h"]\n', by sha256sum
    assert data.digest == "e46e62408682"


def test_a_part_of_a_file_has_a_name_and_a_digest_of_its_own():
    """Clips that are whole files keep the digest that they had before there were parts."""
    clips = [Clip("a.wav", "a", 1, "g", begin, end) for begin, end in ((0.0, None), (0.0, 2.0), (0.0, 2.001))]
    assert [clip.name for clip in clips] == ["a.wav", "a.wav@0.000-2.000", "a.wav@0.000-2.001"]
    sets = [Dataset("x", "boxes", None, (clip,), ("a",), Hints(8000, 1.0, 50)) for clip in clips]
    assert len({one.digest for one in sets}) == len({one.clips_digest for one in sets}) == 3
    assert sets[2].seconds.tolist() == [2.001]


def test_a_folder_named_background_is_none_of_the_classes(tmp_path):
    for label in ("owl", "No_Call"):
        for number in range(3):
            sound(tmp_path / label / f"{label}{number}.wav")
    data = open_dataset(tmp_path, folds=None)
    assert (data.classes, data.background) == (("No_Call", "owl"), "No_Call")
    assert any("'No_Call' is none of the classes: trained as that, never an event" in note for note in data.notes)


def test_arrays_are_read_only(tmp_path):
    data = open_dataset(esc50(tmp_path))
    for array in (data.labels, data.folds, data.groups):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    assert data.labels is data.labels
