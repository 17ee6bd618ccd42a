"""Several labels a clip: what tables write, what is certain, what is refused, and the targets that come of it."""

import numpy as np
import pytest
from test_given_splits import refused, table, touch

from earsight.data import open_dataset
from earsight.data.datasets import Clip
from earsight.data.labels import class_columns, read_cells
from earsight.data.splits import TEST, TRAIN, VALIDATION


def listed(root, header, *rows, count=8, name="list.csv"):
    touch(root, *(f"{n}.wav" for n in range(count)))
    return table(root / name, "\n".join([header, *rows]))


def told(root, header, *rows, **kwargs):
    return open_dataset(listed(root, header, *rows), **({"folds": None} | kwargs))


PAIRS = ["dog", "cat", "dog;cat", "cat", "dog", "cat;dog", "dog", "cat"]


@pytest.mark.parametrize("sign", [";", "|", ",", " ; "])
@pytest.mark.parametrize("column", ["label", "labels", "species"])
def test_labels_between_signs_in_a_cell(tmp_path, sign, column):
    rows = [f'{n}.wav,"{label.replace(";", sign)}"' for n, label in enumerate(PAIRS)]
    data = told(tmp_path, f"path,{column}", *rows)
    assert data.several
    assert data.classes == ("cat", "dog")
    assert [clip.label for clip in data.clips[:4]] == ["dog", "cat", "cat;dog", "cat"]
    assert data.clips[5].labels == ("cat", "dog")
    np.testing.assert_array_equal(data.targets[:3], [[0, 1], [1, 0], [1, 1]])
    assert data.targets.dtype == np.float32
    assert data.sizes().tolist() == [5, 5]
    assert "2 of 8 clips have several labels (1.25 a clip)" in " ".join(data.notes)
    assert "several labels a clip" in data.describe()
    with pytest.raises(RuntimeError, match="targets"):
        data.labels  # noqa: B018


def test_commas_in_names_are_no_signs(tmp_path):
    names = ["Bees, wasps, etc.", "dog", "Bees, wasps, etc.", "dog"]
    data = told(tmp_path, "path,label", *(f'{n}.wav,"{name}"' for n, name in enumerate(names)))
    assert (data.several, data.classes) == (False, ("Bees, wasps, etc.", "dog"))
    # Beside another sign they are part of a name, in a column that says that it holds several too.
    names = ["Bees, wasps, etc.|dog", "dog", "Bees, wasps, etc.", "dog"]
    data = told(tmp_path, "path,labels", *(f'{n}.wav,"{name}"' for n, name in enumerate(names)))
    assert (data.several, data.classes) == (True, ("Bees, wasps, etc.", "dog"))


def test_single_and_several_can_be_set(tmp_path):
    rows = [f"{n}.wav,{label}" for n, label in enumerate(PAIRS)]
    path = listed(tmp_path, "path,label", *rows)
    data = open_dataset(path, labels="single", folds=None)
    assert (data.several, data.classes) == (False, ("cat", "cat;dog", "dog", "dog;cat"))
    assert "labels both: expected one of auto, single, several" in refused(path, labels="both")
    one = listed(tmp_path, "path,label", *(f"{n}.wav,{'xy'[n % 2]}" for n in range(8)), name="one.csv")
    data, several = (open_dataset(one, labels=mode, folds=2) for mode in ("auto", "several"))
    assert (data.several, several.several) == (False, True)
    assert data.digest == several.digest
    np.testing.assert_array_equal(data.targets, several.targets)
    assert several.folds.tolist() != [0] * 8
    assert "labels single: 2 of 8 clips have several labels ('dog;cat')" in refused(
        listed(tmp_path, "path,labels", *rows), labels="single"
    )


def test_several_rows_a_clip(tmp_path):
    rows = ["0.wav,dog,a,1", "1.wav,cat,b,2", "0.wav,cat,a,1", "2.wav,dog,c,2", "3.wav,cat,d,1", "2.wav,dog,c,2"]
    data = told(tmp_path, "path,label,group,fold", *rows)
    assert [(clip.path, clip.label, clip.group, clip.fold) for clip in data.clips] == [
        ("0.wav", "cat;dog", "a", 1),
        ("1.wav", "cat", "b", 2),
        ("2.wav", "dog", "c", 2),
        ("3.wav", "cat", "d", 1),
    ]
    assert "6 rows are of 4 clips: a clip has the labels of all its rows" in data.notes
    # What must agree and does not.
    message = refused(listed(tmp_path, "path,label,fold", "0.wav,dog,1", "1.wav,cat,2", "0.wav,cat,2"))
    assert "lines 2 and 4: 0.wav has fold '1' and '2'; the rows of a clip must agree" in message
    message = refused(listed(tmp_path, "path,label,group", "0.wav,dog,p", "1.wav,cat,q", "0.wav,cat,r"))
    assert "0.wav has group 'p' and 'r'" in message
    # A row that is there twice is a mistake, as it was.
    assert "1 files are named more than once (0.wav)" in refused(
        listed(tmp_path, "path,label", "0.wav,dog", "1.wav,cat", "0.wav,dog")
    )
    assert "named more than once" in refused(
        listed(tmp_path, "path,label", "0.wav,dog", "1.wav,cat", "0.wav,cat"), labels="single"
    )


def test_lists_in_json_and_in_cells(tmp_path):
    touch(tmp_path, *(f"{n}.wav" for n in range(4)))
    rows = ['["a", "b"]', '["a"]', "[]", '"b"']
    lines = [f'{{"path": "{n}.wav", "label": {row}}}' for n, row in enumerate(rows)]
    data = open_dataset(table(tmp_path / "list.jsonl", "\n".join(lines)), folds=None)
    assert [clip.label for clip in data.clips] == ["a;b", "a", "", "b"]
    assert data.clips[2].labels == ()
    assert "1 have none and train as clips of no class" in " ".join(data.notes)
    cells = ["['a', 'b']", "['a']", "[]", "['b']"]
    path = listed(tmp_path, "path,label", *(f'{n}.wav,"{cell}"' for n, cell in enumerate(cells)))
    assert open_dataset(path, folds=None).digest == data.digest
    # As pandas writes an array of numpy: without commas two texts would become one.
    path = listed(tmp_path, "path,label", "0.wav,['a' 'b']", "1.wav,['a']")
    assert "'['a' 'b']' is no list of labels" in refused(path)


def test_one_label_in_each_list_is_one_label(tmp_path):
    data = told(tmp_path, "path,label", *(f"{n}.wav,['{'xy'[n % 2]}']" for n in range(4)))
    assert (data.several, data.classes) == (False, ("x", "y"))


def test_birdclef(tmp_path):
    root = tmp_path / "birdclef"
    names = ["asbfly/XC1.ogg", "asbfly/XC2.ogg", "grewar/XC3.ogg", "grewar/XC4.ogg"]
    touch(root / "train_audio", *names)
    secondary = ["\"['grewar', 'x']\"", "[]", "['']", "['asbfly']"]
    rows = [f"{n.split('/')[0]},{two},{n}" for n, two in zip(names, secondary, strict=True)]
    path = table(root / "train.csv", "\n".join(["primary_label,secondary_labels,filename", *rows]))
    data = open_dataset(path, folds=None, root=root / "train_audio")
    assert (data.several, data.classes) == (True, ("asbfly", "grewar", "x"))
    assert [clip.label for clip in data.clips] == ["asbfly;grewar;x", "asbfly", "grewar", "asbfly;grewar"]
    assert "labels are those of 'primary_label' and of 'secondary_labels'" in data.notes
    single = open_dataset(path, folds=None, labels="single", root=root / "train_audio")
    assert (single.several, single.classes) == (False, ("asbfly", "grewar"))


def test_fsd50k_with_all_its_labels(tmp_path):
    dev = ["1,Bark,m,train", '2,"Bark,Dog","m,n",train', "3,Rain,m,train", "4,Rain,m,val", '5,"Bark,Dog",m,val']
    table(tmp_path / "FSD50K.ground_truth/dev.csv", "\n".join(["fname,labels,mids,split", *dev]))
    test = ['7,"Rain,Water","m,n"', '8,"Bark,Dog",m']
    table(tmp_path / "FSD50K.ground_truth/eval.csv", "\n".join(["fname,labels,mids", *test]))
    touch(
        tmp_path, *(f"FSD50K.dev_audio/{n}.wav" for n in range(1, 6)), *(f"FSD50K.eval_audio/{n}.wav" for n in (7, 8))
    )
    data = open_dataset(tmp_path)
    assert (data.layout, data.several, data.split) == ("fsd50k", True, True)
    assert data.classes == ("Bark", "Dog", "Rain", "Water")
    assert [(clip.label, clip.fold) for clip in data.clips] == [
        ("Bark", TRAIN),
        ("Bark;Dog", TRAIN),
        ("Rain", TRAIN),
        ("Rain", VALIDATION),
        ("Bark;Dog", VALIDATION),
        ("Rain;Water", TEST),
        ("Bark;Dog", TEST),
    ]
    assert "no training clip of Water: not learnt" in data.notes
    assert "subset single takes those alone" in refused(tmp_path, labels="single")


# --- What is not known ----------------------------------------------------------------------------------------------


def test_a_column_of_unknown_classes(tmp_path):
    rows = ["0.wav,dog,cat", "1.wav,cat,", "2.wav,dog;cat,", "3.wav,bird,cat;dog", "4.wav,dog,*", "5.wav,,bird"]
    data = told(tmp_path, "path,label,unknown", *rows)
    assert data.clips[3].unknown == ("cat", "dog")
    assert data.clips[4].unknown == ("bird", "cat")
    np.testing.assert_array_equal(
        data.targets,
        np.array([[0, np.nan, 1], [0, 1, 0], [0, 1, 1], [1, np.nan, np.nan], [np.nan, np.nan, 1], [np.nan, 0, 0]]),
    )
    assert "in 4 some classes are unknown and left out of training and scores" in " ".join(data.notes)
    plain = told(tmp_path, "path,label", *(row.rsplit(",", 1)[0] for row in rows))
    assert plain.digest != data.digest
    assert plain.clips_digest != data.clips_digest
    assert "line 2: unknown names 'cow', which is the label of no clip" in refused(
        listed(tmp_path, "path,label,unknown", "0.wav,dog,cow;cat", "1.wav,cat,dog")
    )
    assert "line 2: 'dog' is a label and unknown too" in refused(
        listed(tmp_path, "path,label,unknown", "0.wav,dog,dog", "1.wav,cat,dog")
    )


def test_a_column_called_unknown_that_is_about_something_else(tmp_path):
    data = told(tmp_path, "path,label,unknown", *(f"{n}.wav,{'xy'[n % 2]},{'tf'[n // 2]}" for n in range(4)))
    assert not data.several
    assert "columns that are not used: unknown" in data.notes


def test_a_column_a_class(tmp_path):
    rows = [
        "0.wav,1,0,,12.5,g1",
        "1.wav,0,1,0,3.5,g1",
        "2.wav,1,1,0,7,g2",
        "3.wav,0,0,1,0.5,g2",
        "4.wav,0.0,nan,0,1,g3",
    ]
    data = told(tmp_path, "file_name,Dog,Cat,owl,seconds,group", *rows)
    assert (data.several, data.classes) == (True, ("Cat", "Dog", "owl"))
    np.testing.assert_array_equal(
        data.targets, np.array([[0, 1, np.nan], [1, 0, 0], [1, 1, 0], [0, 0, 1], [np.nan, 0, 0]])
    )
    assert "columns that are not used: seconds" in data.notes
    assert data.groups.tolist() == ["g1", "g1", "g2", "g2", "g3"]
    # One 1 in each row is one label.
    data = told(tmp_path, "path,dog,cat", "0.wav,1,0", "1.wav,0,1", "2.wav,1,0", "3.wav,0,1")
    assert (data.several, [clip.label for clip in data.clips]) == (False, ["dog", "cat", "dog", "cat"])
    message = refused(listed(tmp_path, "path,dog,cat", "0.wav,1,0", "1.wav,0.5,1"))
    assert "line 3: column 'dog' is 0.5; expected 1, 0, or empty for not known" in message
    assert "no column 'label'" in refused(listed(tmp_path, "path,seconds", "0.wav,12", "1.wav,3"))


def test_class_columns_of_nothing():
    assert class_columns(["", "a"], [(2, ["x", "7"])], where="t") == ([], [()], [()])


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_learnt(tmp_path):
    assert "no clip has a label" in refused(listed(tmp_path, "path,label", "0.wav,", "1.wav,"), labels="several")
    assert "all clips have the same labels, 'dog'" in refused(
        listed(tmp_path, "path,label", "0.wav,dog", "1.wav,dog"), labels="several"
    )
    one = told(tmp_path, "path,label", "0.wav,dog", "1.wav,", labels="several")
    assert one.classes == ("dog",)
    message = refused(listed(tmp_path, "path,label", "0.wav,dog", "1.wav,", "2.wav,cat"))
    assert "empty path or label in 1 rows (line 3)" in message
    assert "labels several: an empty label is then none of the classes" in message
    assert "the class 'a;b' holds a ';'" in refused(touch(tmp_path / "x", "a;b/1.wav", "c/1.wav"), labels="several")
    assert "the label 'a;b' holds a ';'" in refused(
        listed(tmp_path, "path,label", "0.wav,\"['a;b', 'c']\"", "1.wav,['c']")
    )


def test_a_list_that_is_none():
    with pytest.raises(Exception, match="is no list of labels"):
        read_cells(["[dog, cat]"], where="t", certain=True)


# --- Folds ----------------------------------------------------------------------------------------------------------


def test_notes_on_folds_of_rare_classes(tmp_path):
    rows = [f"{n}.wav,{'a;b' if n < 3 else 'b'},{1 + n % 2},{n}" for n in range(6)] + [
        "6.wav,rare;b,1,6",
        "7.wav,a,2,7",
    ]
    data = told(tmp_path, "path,label,fold,group", *rows)
    assert (
        "1 class (rare (fold 1)) with clips in one fold alone: not learnt while that is held out, and tested there all "
        "the same; more sources would mend it" in data.notes
    )
    rows = [f"{n}.wav,{'a;b' if n < 3 else 'b'},{1 + n % 3}" for n in range(7)] + ["7.wav,a;c,1", "8.wav,c,2"]
    data = open_dataset(listed(tmp_path, "path,label,fold", *rows, count=9))
    assert "1 class (c) without a clip in fold 3: not tested there" in data.notes


def test_clip_keeps_its_neutral_fields():
    clip = Clip("a.wav", "x", 1, "g")
    assert (clip.unknown, clip.labels, clip.name) == ((), ("x",), "a.wav")
