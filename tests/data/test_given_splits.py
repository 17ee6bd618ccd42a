"""Data sets that bring a split: folders of parts, audiofolder's metadata, a column; and what looks like one."""

import json
import shutil

import numpy as np
import pytest

from earsight.data import open_dataset
from earsight.data.splits import TEST, TRAIN, VALIDATION, part_folds
from earsight.errors import DataError


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def parts(root, *names, classes=("cat", "dog"), count=3):
    return touch(root, *(f"{name}/{label}/{n}.wav" for name in names for label in classes for n in range(count)))


def refused(path, **kwargs):
    with pytest.raises(DataError) as caught:
        open_dataset(path, **kwargs)
    return str(caught.value)


def table(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("names", "folds"),
    [
        (["train", "test"], [TRAIN, TEST]),
        (["Training", "TESTING"], [TRAIN, TEST]),
        (["train", "validation", "test"], [TRAIN, VALIDATION, TEST]),
        (["train", "dev", "test"], [TRAIN, VALIDATION, TEST]),
        (["train", "dev", "eval"], [TRAIN, VALIDATION, TEST]),
        (["train", "eval", "test"], [TRAIN, VALIDATION, TEST]),
        (["dev", "eval"], [TRAIN, TEST]),
        (["development", "evaluation"], [TRAIN, TEST]),
        (["train", "val"], [TRAIN, TEST]),
        (["train", "eval"], [TRAIN, TEST]),
    ],
)
def test_what_the_names_of_parts_mean(names, folds):
    notes = []
    assert part_folds(names, where="x", notes=notes) == dict(zip(names, folds, strict=True))
    assert notes == (["there is no test part: 'val' is held out in its place"] if "val" in names else [])


@pytest.mark.parametrize(
    "names",
    [["train", "dog"], ["test", "val"], ["train", "training", "test"], ["train", "dev", "val", "test"], ["test"]],
)
def test_parts_that_are_not_certain(names):
    with pytest.raises(DataError, match="expected train and test"):
        part_folds(names, where="x", notes=[])


def test_folders_for_train_and_test(tmp_path):
    data = open_dataset(parts(tmp_path / "set", "train", "test", "validation"))
    assert (data.layout, data.classes, data.split, data.fold_numbers) == ("audiofolder", ("cat", "dog"), True, (TEST,))
    assert {(clip.path.split("/")[0], clip.fold) for clip in data.clips} == {
        ("train", TRAIN),
        ("test", TEST),
        ("validation", VALIDATION),
    }
    assert all(data.file(row).is_file() and data.clips[row].path == data.clips[row].group for row in range(18))
    assert data.describe() == "audiofolder layout (set): 18 clips, 2 classes, 6 train, 6 validation, 6 test"
    assert "6 validation clips train nothing; with training.protocol=inner they choose the epoch" in data.notes
    np.testing.assert_array_equal(data.training(TEST), data.folds == TRAIN)
    np.testing.assert_array_equal(data.validation, data.folds == VALIDATION)
    assert [data.fold_name(fold) for fold in (TEST, TRAIN, VALIDATION)] == ["test", "train", "validation"]


def test_a_part_without_a_class(tmp_path):
    data = open_dataset(touch(parts(tmp_path / "a", "train", "test"), "train/owl/0.wav"))
    assert "no test clip of owl: not tested" in data.notes
    message = refused(touch(parts(tmp_path / "b", "train", "test"), "test/owl/0.wav"))
    assert "no training clip of owl, which cannot be learnt so" in message


def test_classes_called_train_stay_classes(tmp_path):
    folder = open_dataset(parts(tmp_path, ".", classes=("train", "bus", "train_horn"), count=5))
    assert (folder.layout, folder.classes) == ("folder", ("bus", "train", "train_horn"))
    both = parts(tmp_path / "two", "train", "test")
    assert open_dataset(both, layout="folder").classes == ("test", "train")


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (
            ["train/a/0.wav", "test/a/0.wav", "extra/0.wav"],
            "folders test, train look like parts of a data set, but extra",
        ),
        (["train_audio/a/0.wav", "test_soundscapes/0.wav"], "folders test_soundscapes, train_audio look like parts"),
        (["FSDKaggle2018.audio_train/0.wav", "FSDKaggle2018.audio_test/0.wav"], "look like parts of a data set"),
        (["train/0.wav", "test/1.wav"], "test: looks like a part of a data set, but has no class folders"),
    ],
)
def test_what_looks_like_parts_and_is_not_certain(tmp_path, paths, said):
    message = refused(touch(tmp_path, *paths))
    assert said in message
    assert "path,label" in message
    assert open_dataset(parts(tmp_path / "more", "a", "b", "c"), layout="folder").classes == ("a", "b", "c")


@pytest.mark.parametrize(
    "names",
    [
        *(("fold1", "fold2", "fold3"), ("trainset", "testset"), ("Train_Set", "Test_Set"), ("tr", "te")),
        *(
            ("train", "holdout"),
            ("train1", "train2", "heldout"),
            ("split1", "split2"),
            ("cv-1", "cv-2"),
        ),
    ],
)
def test_parts_of_other_names_are_given_away_by_the_classes_in_each(tmp_path, names):
    touch(tmp_path, *(f"{name}/{label}/{n}.wav" for name in names for label in ("cat", "dog") for n in range(5)))
    message = refused(tmp_path)
    assert "look like parts of a data set, for each holds the folders cat, dog; " in message
    assert "or layout folder takes each folder as a class" in message
    assert open_dataset(tmp_path, layout="folder").classes == tuple(sorted(names))
    if names[0] == "fold1":
        assert "label_from 'fold{fold}/{label}/{name}'" in message
        data = open_dataset(tmp_path, label_from="fold{fold}/{label}/{name}")
        assert (data.classes, data.fold_numbers) == (("cat", "dog"), (1, 2, 3))


def test_folders_named_like_parts_that_hold_no_classes_are_classes(tmp_path):
    """And speakers below words, or words below speakers, make none of them a part."""
    plain = touch(tmp_path / "a", *(f"{name}/{n}.wav" for name in ("set1", "set2") for n in range(5)))
    words = touch(tmp_path / "b", *(f"{w}/{who}/{n}.wav" for w in ("no", "yes") for who in "ab" for n in range(5)))
    own = touch(tmp_path / "c", *(f"{name}/{name}-{x}/0.wav" for name in ("fold1", "fold2") for x in range(5)))
    assert [open_dataset(root).classes for root in (plain, words, own)] == [
        ("set1", "set2"),
        ("no", "yes"),
        ("fold1", "fold2"),
    ]


LINES = {"plain": "{}", "windows": "{}", "dotted": "./{}", "absolute": "/data/{}", "names": "0.wav"}


@pytest.mark.parametrize("written", LINES)
def test_lists_of_parts_beside_classes_of_any_names(tmp_path, written):
    """Speech Commands' lists, whose files need not be named as there; a list of which no line fits says so."""
    root = touch(tmp_path, *(f"{word}/my {n}.wav" for word in ("no", "yes") for n in range(4)))
    for name, n in (("testing", 0), ("validation", 1)):
        lines = [LINES[written].format(f"{word}/my {n}.wav") for word in ("no", "yes")]
        table(
            root / f"{name}_list.txt", "\r\n".join(lines).replace("/", "\\" if written == "windows" else "/") + "\r\n"
        )
    if written in ("absolute", "names"):
        message = refused(root)
        assert "testing_list.txt: none of its 2 lines names a sound here (" in message
        assert "; write them as no/my 0.wav, or remove it" in message
        return
    data = open_dataset(root)
    assert (data.layout, data.split, data.classes) == ("folder", True, ("no", "yes"))
    wanted = {"my 0": TEST, "my 1": VALIDATION, "my 2": TRAIN, "my 3": TRAIN}
    assert [clip.fold for clip in data.clips] == [wanted[clip.path[clip.path.index("my") :][:4]] for clip in data.clips]


@pytest.mark.parametrize("beside", ["test_soundscapes", "train_soundscapes", "unlabeled_soundscapes"])
def test_the_table_that_settles_it_is_named_and_opens(tmp_path, beside):
    """BirdCLEF of several years: recordings below train_audio, a table beside it."""
    clips = [f"train_audio/{bird}/{n}.ogg" for bird in "ab" for n in range(5)]
    root = touch(tmp_path, f"{beside}/x.ogg", *clips)
    rows = [f"{bird},[],{bird}/{n}.ogg,Ann" for bird in "ab" for n in range(5)]
    meta = table(root / "train_metadata.csv", "\n".join(["primary_label,secondary_labels,filename,author", *rows]))
    assert f"give {meta}, with root" in refused(root)
    assert f"they are below {root / 'train_audio'}: give root {root / 'train_audio'}" in refused(meta)
    data = open_dataset(meta, root=root / "train_audio")
    assert (len(data.clips), data.classes, data.clips[0].path) == (10, ("a", "b"), "a/0.ogg")
    assert data.root == root / "train_audio"
    assert "paths are taken from column 'filename', labels from 'primary_label'" in data.notes
    assert "columns that are not used: secondary_labels, author" in data.notes


def test_parts_within_classes_are_noted(tmp_path):
    root = touch(tmp_path, *(f"{c}/{part}/{n}.wav" for c in "ab" for part in ("train", "test") for n in range(3)))
    assert any("folders test, train within the classes are not taken as a split" in n for n in open_dataset(root).notes)
    data = open_dataset(root, label_from="{label}/{split}/{name}")
    assert (data.split, data.classes, int((data.folds == TEST).sum())) == (True, ("a", "b"), 6)


def test_a_single_part(tmp_path):
    data = open_dataset(parts(tmp_path, "train", count=5))
    assert (data.classes, data.split, data.fold_numbers) == (("cat", "dog"), False, (1, 2, 3, 4, 5))
    assert "'train' is the only part: folds are drawn" in data.notes

    # Without classes below it may be one itself.
    assert "only one class, 'train'" in refused(touch(tmp_path / "other", "train/0.wav", "train/1.wav"))


# --- metadata.csv ---------------------------------------------------------------------------------------------------


def test_metadata_at_the_top(tmp_path):
    touch(tmp_path, "a/0.wav", "a/1.wav", "a/2.wav", "b/3.wav", "left.wav")
    meta = "file_name,label,transcription\na/0.wav,x,hm\na/1.wav,y,\na/2.wav,x,\nb/3.wav,y,\n"
    table(tmp_path / "metadata.csv", meta)
    data = open_dataset(tmp_path, folds=2)
    assert (data.layout, data.classes, len(data.clips), data.split) == ("audiofolder", ("x", "y"), 4, False)
    assert "1 sound that metadata.csv does not name was left out" in data.notes
    assert "columns that are not used: transcription" in data.notes
    assert open_dataset(tmp_path, layout="folder", folds=None).classes == ("a", "b")


def test_metadata_whose_paths_begin_with_parts(tmp_path):
    names = [f"{part}/{n}.wav" for part in ("train", "test") for n in range(4)]
    touch(tmp_path, *names)
    lines = [json.dumps({"file_name": name, "label": "xy"[n % 2], "n": n}) for n, name in enumerate(names)]
    table(tmp_path / "metadata.jsonl", "\n".join([*lines[:3], "", *lines[3:]]))
    data = open_dataset(tmp_path)
    assert (data.split, data.folds.tolist(), data.classes) == (True, [TRAIN] * 4 + [TEST] * 4, ("x", "y"))


def test_metadata_in_each_part(tmp_path):
    for part, extra in (("train", "owl"), ("test", "dog")):
        touch(tmp_path / part, "0.wav", "1.wav", "2.wav")
        table(tmp_path / part / "metadata.csv", f"file_name,label,group\n0.wav,owl,g0\n1.wav,dog,\n2.wav,{extra},g0\n")
    data = open_dataset(tmp_path)
    assert [clip.path for clip in data.clips][3:] == ["train/0.wav", "train/1.wav", "train/2.wav"]
    assert [clip.group for clip in data.clips] == ["g0", "test/1.wav", "g0", "g0", "train/1.wav", "g0"]
    assert any(note.startswith("LEAK: 1 sources") for note in data.notes)
    (tmp_path / "test" / "2.wav").unlink()
    assert "1 of 6 files do not exist (test/2.wav)" in refused(tmp_path)
    assert open_dataset(tmp_path, skip_missing=True).missing == ("test/2.wav",)


def test_a_part_whose_files_are_gone_is_named(tmp_path):
    names = [f"{n}.wav" for n in range(4)]
    for part in ("train", "test"):
        touch(tmp_path / part, *names)
        table(tmp_path / part / "metadata.csv", "file_name,label\n0.wav,owl\n1.wav,dog\n2.wav,owl\n3.wav,dog\n")
    for part in ("test", "train"):
        for name in names:
            (tmp_path / part / name).unlink()
        assert f"its {part} part has no clip" in refused(tmp_path, skip_missing=True)
        touch(tmp_path / part, *names)
    # Where nothing at all is there, its place is asked for, and nothing is left out.
    for path in tmp_path.glob("*/*.wav"):
        path.unlink()
    message = refused(tmp_path, skip_missing=True)
    assert "8 of 8 files do not exist" in message
    assert "name the folder that they are in with root" in message


def test_a_metadata_file_of_another_kind_changes_nothing(tmp_path):
    parts(tmp_path, ".", count=5)
    before = open_dataset(tmp_path).digest
    for content in (b"name,license\nx,y\n", b"\xff\xfe\x00", b""):
        (tmp_path / "metadata.csv").write_bytes(content)
        assert open_dataset(tmp_path).digest == before


def test_what_metadata_cannot_say(tmp_path):
    touch(tmp_path, "0.wav", "1.wav")
    meta = table(tmp_path / "metadata.csv", "file_name,transcription\n0.wav,hm\n1.wav,ha\n")
    assert "no column 'label'; found file_name, transcription" in refused(tmp_path)
    meta.unlink()
    jsonl = tmp_path / "metadata.jsonl"
    table(jsonl, '{"file_name": "0.wav", "label": ["a", "b"]}\n{"file_name": "1.wav", "label": ["a"]}\n')
    message = refused(tmp_path, labels="single")
    assert "1 of 2 clips have several labels ('a;b'); 1 have one" in message
    table(jsonl, '{"file_name": "0.wav"\n')
    assert "line 1 is not JSON" in refused(tmp_path)
    table(jsonl, '["file_name"]\n')
    assert "line 1 is no JSON object" in refused(tmp_path)
    jsonl.unlink()
    touch(tmp_path, "train-0.parquet")
    assert "write the rows of train-0.parquet, which is not read, as a csv" in refused(tmp_path)


# --- the column split, and names ------------------------------------------------------------------------------------


def rows_of(root, header, *values):
    """A table in which row n is about n.wav of class x or y."""
    touch(root, *(f"{n}.wav" for n in range(len(values))))
    lines = [f"{n}.wav,{'xy'[n % 2]},{value}" for n, value in enumerate(values)]
    return table(root / "list.csv", "\n".join([f"path,label,{header}", *lines]))


def test_the_column_split(tmp_path):
    data = open_dataset(rows_of(tmp_path, "Split", *["train", "Train", "dev", "dev", "test", "TEST"]))
    assert (data.layout, data.split) == ("csv", True)
    assert data.folds.tolist() == [TRAIN, TRAIN, VALIDATION, VALIDATION, TEST, TEST]
    assert "2 train, 2 validation, 2 test" in data.describe()


def test_a_column_split_that_says_nothing_certain(tmp_path):
    data = open_dataset(rows_of(tmp_path, "split", *["train"] * 4), folds=2)
    assert (data.split, data.fold_numbers) == (False, (1, 2))
    assert "column 'split' says 'train' alone, which divides nothing" in data.notes
    message = refused(rows_of(tmp_path, "split", *"1122"))
    assert "line 2: split is '1'; expected train, test or validation; did you mean a column 'fold'?" in message
    assert "split is 'x'" in refused(rows_of(tmp_path, "split", "train", "test", "x", "x"))
    assert "no part of them is for training" in refused(rows_of(tmp_path, "split", "test", "test", "val", "val"))


def test_a_fold_beside_a_split(tmp_path):
    both = open_dataset(rows_of(tmp_path, "split,fold", "train,1", "train,1", "test,2", "test,2"))
    assert (both.split, both.fold_numbers) == (False, (1, 2))
    assert any("agree: fold 2 is the test part, and `train --fold 2` holds it out" in note for note in both.notes)
    for rows in (
        ["train,1", "train,2", "test,1", "test,2"],
        ["train,1", "train,2", "test,3", "test,3"],  # the test part would train the folds 1 and 2
        ["train,1", "val,1", "test,2", "test,2"],
    ):
        message = refused(rows_of(tmp_path, "split,fold", *rows))
        assert "the columns fold and split divide the clips in two ways; remove one, or name the column" in message
    # A split that says one part divides nothing.
    assert open_dataset(rows_of(tmp_path, "split,fold", *(f"dev,{n}" for n in (1, 1, 2, 2)))).fold_numbers == (1, 2)


def test_a_fold_or_a_split_beside_folders_of_parts(tmp_path):
    names = [f"{part}/{n}.wav" for part in ("train", "test") for n in range(4)]
    touch(tmp_path, *names)

    def written(column, values):
        rows = [f"{name},{'xy'[n % 2]},{value}" for n, (name, value) in enumerate(zip(names, values, strict=True))]
        table(tmp_path / "metadata.csv", "\n".join([f"file_name,label,{column}", *rows]))

    written("split", ["train"] * 4 + ["test"] * 4)
    assert open_dataset(tmp_path).folds.tolist() == [TRAIN] * 4 + [TEST] * 4
    written("split", ["test"] * 4 + ["train"] * 4)
    assert "the column split and the folders train, test divide the clips in two ways" in refused(tmp_path)
    written("fold", [1, 1, 2, 2] * 2)
    assert "the column fold and the folders train, test divide the clips in two ways" in refused(tmp_path)
    written("fold", [1] * 4 + [2] * 4)
    assert open_dataset(tmp_path).fold_numbers == (1, 2)
    (tmp_path / "metadata.csv").unlink()
    for part, column in (("train", "fold"), ("test", "x")):
        rows = [f"{n}.wav,{'xy'[n % 2]},{n // 2}" for n in range(4)]
        table(tmp_path / part / "metadata.csv", "\n".join([f"file_name,label,{column}", *rows]))
    assert "its column fold divides the clips of the folder 'train', which is one part" in refused(tmp_path)
    for n in range(4):
        (tmp_path / "test" / f"{n}.wav").unlink()
    (tmp_path / "test" / "metadata.csv").unlink()
    alone = open_dataset(tmp_path)
    assert (alone.split, alone.folds.tolist()) == (False, [0, 0, 1, 1])


FSDD = [f"recordings/{digit}_{who}_{n}.wav" for digit in range(3) for who in ("ann", "bob") for n in range(3)]


def test_labels_from_names(tmp_path):
    root = touch(tmp_path / "fsdd", *FSDD, "tools/x.py")
    message = refused(root)
    assert "only one class, 'recordings'" in message
    assert "label_from '{label}_{group}_{n}'" in message
    data = open_dataset(root, label_from="{label}_{group}_{n}", folds=2)
    assert (data.layout, data.classes, len(data.clips)) == ("folder", ("0", "1", "2"), 18)
    assert (data.clips[0].label, data.clips[0].group, data.clips[0].path) == ("0", "ann", "recordings/0_ann_0.wav")
    for group in ("ann", "bob"):
        assert len(set(data.folds[data.groups == group])) == 1
    loose = root / "recordings"
    assert "label_from" in refused(loose)
    assert open_dataset(loose, label_from="{label}_{who}_{n}", folds=3).clips[0].group == "0_ann_0.wav"


def test_names_that_give_folds_and_splits(tmp_path):
    root = touch(
        tmp_path, *(f"{part}/{label}-{n}.wav" for part in ("train", "test") for label in "ab" for n in range(2))
    )
    data = open_dataset(root, label_from="{split}/{label}-{n}")
    assert (data.split, int((data.folds == TEST).sum())) == (True, 4)
    pooled = open_dataset(root, label_from="{part}/{label}-{n}", folds=2)
    assert (pooled.split, pooled.fold_numbers) == (False, (1, 2))
    folds = open_dataset(root, label_from="{label}-{fold}")
    assert folds.folds.tolist() == [0, 1, 0, 1] * 2


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{group}_{n}", "expected {label}"),
        ("{label}_{label}", "each name once"),
        ("{label}_{n}", "fits in several ways"),
        ("{label}_{group}_x", "18 of 18 names do not fit (recordings/0_ann_0.wav"),
    ],
)
def test_patterns_that_do_not_fit(tmp_path, pattern, said):
    root = touch(tmp_path, *FSDD)
    if pattern == "{label}_{n}":
        touch(root, "dog_bark_ann_3.wav")
        pattern = "{label}_{group}_{n}"
    assert said in refused(root, label_from=pattern)


def test_the_only_folder_may_hold_the_classes(tmp_path):
    message = refused(parts(tmp_path, "data"))
    assert f"if the folders in it are the classes (cat, dog), give {tmp_path / 'data'}" in message
    deep = parts(tmp_path / "zip" / "archive", "sounds")
    assert f"are the classes (cat, dog), give {deep / 'sounds'}" in refused(tmp_path / "zip")
    assert "label_from" in refused(touch(tmp_path / "flat", *(f"archive/sounds/{n}.wav" for n in range(4))))


def test_options_that_do_not_belong(tmp_path):
    parts(tmp_path, ".", count=5)
    assert "root" in refused(tmp_path, root=tmp_path)
    listed = rows_of(tmp_path / "l", "fold", *"1122")
    assert "a file, but layout 'folder' is a folder" in refused(listed, label_from="{label}")


def test_a_copy_in_train_and_test_is_a_leak(tmp_path):
    import soundfile

    from earsight.data.checks import check_dataset

    parts(tmp_path, "train", "test", count=2)
    for seed, path in enumerate(sorted(tmp_path.rglob("*.wav"))):
        wave = np.random.default_rng(0 if path.name == "0.wav" and path.parent.name == "cat" else seed).normal(
            size=8000
        )
        soundfile.write(path, 0.1 * wave, 8000)
    found = {finding.kind: finding for finding in check_dataset(open_dataset(tmp_path)).findings}
    assert found["leak"].clips == ("test/cat/0.wav", "train/cat/0.wav")
    assert "the same sound is in test and train" in found["leak"].text


def test_folders_that_hold_the_same_folders_are_classes_and_a_note_says_what_else_they_may_be(tmp_path):
    names = [f"{speaker}/{word}/{n}.wav" for speaker in ("anna", "bert") for word in ("hi", "lo") for n in range(3)]
    data = open_dataset(touch(tmp_path / "words", *names), folds=2)
    assert data.classes == ("anna", "bert")
    assert data.notes[0] == (
        "folders hold hi, lo alike, and are one class each all the same; if those are the classes, label_from "
        "'{group}/{label}/{name}' takes them so"
    )
    data = open_dataset(tmp_path / "words", folds=2, label_from="{group}/{label}/{name}")
    assert data.classes == ("hi", "lo")
    # A speaker may lack a word.
    shutil.rmtree(tmp_path / "words" / "bert" / "lo")
    assert (
        open_dataset(tmp_path / "words", folds=2).notes[0].startswith("folders hold hi alike, and are one class each")
    )
    # Sounds beside them, or other folders, are what classes have.
    touch(tmp_path / "words", "anna/0.wav")
    assert "one class each all the same" not in "".join(open_dataset(tmp_path / "words", folds=2).notes)


def test_a_folder_between_the_parts_and_the_classes_has_a_remedy_that_works(tmp_path):
    names = [f"{part}/audio/{word}/{n}.wav" for part in ("train", "test") for word in ("hi", "lo") for n in range(3)]
    message = refused(touch(tmp_path / "deep", *names))
    assert "if the folders below are the classes, label_from '{split}/audio/{label}/{name}' takes them so" in message
    data = open_dataset(tmp_path / "deep", label_from="{split}/audio/{label}/{name}")
    assert (data.classes, data.split) == (("hi", "lo"), True)


def test_a_clip_in_both_of_speech_commands_lists_is_refused(tmp_path):
    names = [f"{word}/{n:08x}_nohash_0.wav" for word in ("yes", "no") for n in range(6)]
    touch(tmp_path, *names)
    for name in ("testing_list.txt", "validation_list.txt"):
        table(tmp_path / name, "\n".join(names[:2]) + "\n")
    said = "testing_list.txt and validation_list.txt both name 2 files (no/"
    assert said in refused(tmp_path) or said.replace("(no/", "(yes/") in refused(tmp_path)


def test_what_explain_wrote_beside_the_classes_is_no_class(tmp_path):
    names = [f"{label}/{n}.wav" for label in "ab" for n in range(4)]
    names += [f"explanations/{n}.{kind}.wav" for n in range(4) for kind in ("used", "unused")]
    data = open_dataset(touch(tmp_path / "set", *names), folds=2)
    assert data.classes == ("a", "b")
    assert data.notes[:2] == (
        "folder 'explanations' holds no sound and is no class",
        "8 sounds that `earsight explain` wrote left out",
    )


def test_sounds_that_no_part_s_metadata_names_are_counted(tmp_path):
    for part in ("train", "test"):
        touch(tmp_path / part, *(f"{n}.wav" for n in range(5)))
        rows = [f"{n}.wav,{'ab'[n % 2]}" for n in range(4)]
        table(tmp_path / part / "metadata.csv", "\n".join(["file_name,label", *rows]))
    notes = open_dataset(tmp_path).notes
    for part in ("train", "test"):
        assert f"{part}: 1 sound that metadata.csv does not name was left out" in notes
