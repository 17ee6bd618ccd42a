"""Tables of clips: what spreadsheets write, what columns mean, and what is done with none of them."""

import pytest
from test_given_splits import refused, table, touch

from earsight.data import open_dataset
from earsight.data.clip_tables import read_csv
from earsight.errors import DataError


def listed(root, header, *rows, count=4):
    touch(root, *(f"{n}.wav" for n in range(count)))
    return table(root / "list.csv", "\n".join([header, *rows]))


@pytest.mark.parametrize("opening", ["sep=;", "\ufeffsep=;", '"sep=;"', "SEP=;\r"])
def test_a_first_line_that_names_the_delimiter(tmp_path, opening):
    path = listed(tmp_path, f"{opening}\npath;label;fold", "0.wav;a,b;1,0", "1.wav;c;1.0", "2.wav;a,b;2", "3.wav;c;2,0")
    data = open_dataset(path)
    assert (data.classes, data.folds.tolist()) == (("a,b", "c"), [1, 1, 2, 2])
    path = listed(tmp_path, "sep=;\npath;label;fold", "0.wav;a;1,5")
    assert "line 3: fold is '1,5'" in refused(path)


@pytest.mark.parametrize("before", ["", "\n", "\r\n\n", ",,\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_what_stands_before_the_columns(tmp_path, before, delimiter):
    rows = [f"path{delimiter}label", f"a.wav{delimiter}dog", "", f"b.wav{delimiter}cat"]
    (tmp_path / "x.csv").write_text(before.replace(",", delimiter) + "\n".join(rows) + "\n")
    listing = read_csv(tmp_path / "x.csv")
    assert (listing.paths, listing.labels) == (["a.wav", "b.wav"], ["dog", "cat"])
    (tmp_path / "x.csv").write_text(before.replace(",", delimiter) + "# made by hand\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"line \d begins with '#', .* remove comments, or the '#'"):
        read_csv(tmp_path / "x.csv")


@pytest.mark.parametrize("column", ["is_test", "test", "IsTrain", "is_validation", "test_set"])
def test_a_column_that_says_yes_or_no_of_a_part(tmp_path, column):
    rows = "".join(f"{row}.wav,{'ab'[row % 2]},{row > 3}\n" for row in range(6))
    (tmp_path / "x.csv").write_text(f"path,label,{column}\n{rows}")
    notes = read_csv(tmp_path / "x.csv").notes
    assert any("is not used; did you mean split? Name it so, with train and test in it" in note for note in notes)


def test_columns_that_are_not_used_are_named_once(tmp_path):
    rows = [f"{n}.wav,{'xy'[n % 2]},s{n // 2},m,{n}" for n in range(4)]
    data = open_dataset(listed(tmp_path, "path,label,Speaker ID,note,", *rows), folds=2)
    assert data.notes[:2] == (
        "columns that are not used: note, (without a name)",
        "column 'speaker id' is not used; it has 2 values for 4 clips: did you mean group? "
        "Clips of a 'group' are never torn apart",
    )


@pytest.mark.parametrize(
    ("column", "values", "named"),
    [
        ("source", "aabb", True),
        ("recording_id", "aabb", True),
        ("fsid", "aabb", True),
        ("source", "abcd", False),  # as many as clips
        ("source", "aaaa", False),  # one
        ("length", "aabb", False),
    ],
)
def test_columns_that_look_like_a_group(tmp_path, column, values, named):
    rows = [f"{n}.wav,{'xy'[n % 2]},{value}" for n, value in enumerate(values)]
    notes = open_dataset(listed(tmp_path, f"path,label,{column}", *rows), folds=2).notes
    assert any("did you mean group?" in note for note in notes) == named
    grouped = [row + f",g{n}" for n, row in enumerate(rows)]
    notes = open_dataset(listed(tmp_path, f"path,label,{column},group", *grouped), folds=2).notes
    assert not any("did you mean group?" in note for note in notes)


@pytest.mark.parametrize(
    ("column", "values", "meant"),
    [
        ("subset", "train test", "split"),
        ("Data Set", "dev eval", "split"),
        ("partition", "training testing", "split"),
        ("usage", "train test", "split"),
        ("cv_fold", "1 2", "fold"),
        ("set", "red blue", None),
        ("subset", "train train", None),
    ],
)
def test_columns_that_look_like_a_split(tmp_path, column, values, meant):
    rows = [f"{n}.wav,{'xy'[n // 2]},{values.split()[n % 2]}" for n in range(4)]
    notes = open_dataset(listed(tmp_path, f"path,label,{column}", *rows), folds=2).notes
    said = f"column '{column.lower()}' is not used; did you mean {meant}? Rename it so, and it says what is held out"
    assert (said in notes) is (meant is not None)
    assert any("not used" in note for note in notes)
    notes = open_dataset(
        listed(tmp_path, f"path,label,{column},fold", *(f"{row},{n % 2}" for n, row in enumerate(rows)))
    ).notes
    assert not any("did you mean" in note for note in notes)


def test_every_column_that_looks_like_a_group_is_named(tmp_path):
    rows = [f"{n}.wav,{'xy'[n % 2]},s{n // 2},{n // 3}" for n in range(4)]
    notes = open_dataset(listed(tmp_path, "path,label,speaker,site", *rows), folds=2).notes
    assert [note.split("'")[1] for note in notes if "did you mean group?" in note] == ["speaker", "site"]


@pytest.mark.parametrize(
    "columns",
    [
        *("begin,end", "Start Time,Stop", "Begin Time (s),End Time (s)", "onset_s,offset_s", "start,duration"),
        *("offset,duration", "segment_start,segment_end", "xmin,xmax", "start_ms,end_ms"),
        *("t_start,t_end", "min_t,max_t", "StartTime,EndTime", "tstart,tend", "start_timestamp,end_timestamp"),
        *("window_start,window_end", "start_hms,end_hms", "t1,t2", "t0,t1", "beginTime,endTime", "TimeMin,TimeMax"),
    ],
)
def test_boxes_are_refused(tmp_path, columns):
    message = refused(listed(tmp_path, f"path,label,{columns}", "0.wav,x,0.5,1.5", "0.wav,y,2,3"))
    begin, end = columns.lower().split(",")
    assert (
        f"columns '{begin}' and '{end}' mark parts of sounds: give the folder of the sounds as the data set" in message
    )
    assert "mark parts of sounds" in refused(listed(tmp_path, f"path,label,{columns}", "0.wav,x,0,1", "1.wav,y,0,2"))
    # Without a value they mark nothing.
    empty = [f"{n}.wav,{'xy'[n % 2]},," for n in range(4)]
    assert len(open_dataset(listed(tmp_path, f"path,label,{columns}", *empty), folds=2).clips) == 4


@pytest.mark.parametrize(
    "column", ["Begin Time (s)", "begin", "start", "onset", "offset", "start_time", "chunk_start", "StartTime"]
)
def test_a_begin_without_an_end_is_refused_where_it_is_a_number(tmp_path, column):
    message = refused(listed(tmp_path, f"path,label,{column}", "0.wav,x,0", '1.wav,y,"1,5"'))
    assert f"column '{column.lower()}' marks parts of sounds: give the folder of the sounds as the data set" in message
    assert "remove this column to take each file whole" in message
    for value in ("", "0.0", "2024-05-03 04:30", "04:30:00"):
        rows = [f"{n}.wav,{'xy'[n % 2]},{value}" for n in range(4)]
        notes = open_dataset(listed(tmp_path, f"path,label,{column}", *rows), folds=2).notes
        assert f"columns that are not used: {column.lower()}" in notes


@pytest.mark.parametrize("column", ["start", "begin_time"])
def test_a_begin_on_a_clock_is_none_of_the_day_within_the_first_hour(tmp_path, column):
    rows = [f"0.wav,{'xy'[n % 2]},0:00:0{n}" for n in range(4)]
    assert f"column '{column}' marks parts of sounds" in refused(listed(tmp_path, f"path,label,{column}", *rows))
    for later in ("00:00:00", "23:59:00"):  # all at the begin, or from one day into the next
        rows = [f"{n}.wav,{'xy'[n % 2]},{'00:00:00' if n else later}" for n in range(4)]
        assert len(open_dataset(listed(tmp_path, f"path,label,{column}", *rows), folds=2).clips) == 4


@pytest.mark.parametrize(
    "column", ["startup", "begin_file", "started_by", "StartStation", "end", "t1", "min", "min_db"]
)
def test_other_columns_are_no_begin(tmp_path, column):
    rows = [f"{n}.wav,{'xy'[n % 2]},{n}" for n in range(4)]
    assert len(open_dataset(listed(tmp_path, f"path,label,{column}", *rows), folds=2).clips) == 4


def test_a_duration_alone_is_no_box(tmp_path):
    rows = [f"{n}.wav,{'xy'[n % 2]},4.0" for n in range(4)]
    assert (
        "columns that are not used: duration"
        in open_dataset(listed(tmp_path, "path,label,duration", *rows), folds=2).notes
    )


def test_labels_with_and_without_blanks_are_one_class_and_a_note_says_so(tmp_path):
    rows = ["0.wav,x", "1.wav,y", "2.wav, x", "3.wav, z", "4.wav,z", "5.wav,y"]
    found = open_dataset(listed(tmp_path, "path,label", *rows, count=6), folds=2)
    assert found.classes == ("x", "y", "z")
    assert found.notes[0] == "label 'x', 'z' stands with blanks around it and without, and is read as one class"
    everywhere = ["0.wav, x", "1.wav, y", "2.wav, x", "3.wav, y"]
    assert not any(
        "blanks" in note for note in open_dataset(listed(tmp_path, "path,label", *everywhere), folds=2).notes
    )


def test_columns_that_stand_twice(tmp_path):
    rows = [f"{n}.wav,{'xy'[n % 2]},{'yx'[n % 2]}" for n in range(4)]
    assert "column 'label' stands 2 times; keep one" in refused(listed(tmp_path, "path,label,Label", *rows))
    notes = open_dataset(listed(tmp_path, "path,label,note,note", *(row + ",z" for row in rows)), folds=2).notes
    assert notes[0] == "columns that are not used: note"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("filename,file,label", "'filename' or 'file' may be the path; name the right column 'path'"),
        ("path,class,category", "'class' or 'category' may be the label; name the right column 'label'"),
    ],
)
def test_other_names_of_columns_must_be_certain(tmp_path, header, said):
    assert said in refused(listed(tmp_path, header, "0.wav,x,y"))


@pytest.mark.parametrize("header", ["file_name,label", "filename,class", "fname,category", "file,genre", "path,labels"])
def test_other_names_of_columns(tmp_path, header):
    data = open_dataset(listed(tmp_path, header, *(f"{n}.wav,{'xy'[n % 2]}" for n in range(4))), folds=2)
    assert (data.layout, data.classes, data.clips[3].path) == ("csv", ("x", "y"), "3.wav")
    place, kind = header.split(",")
    assert data.notes[0] == f"paths are taken from column '{place}', labels from '{kind}'"


def test_paths_of_a_table_begin_at_a_root(tmp_path):
    touch(tmp_path / "sounds", *(f"{n}.flac" for n in range(4)))
    path = table(
        tmp_path / "lists" / "list.csv", "path,label\n" + "".join(f"{n}.flac,{'xy'[n % 2]}\n" for n in range(4))
    )
    assert "4 of 4 files do not exist" in refused(path)
    assert "with root" in refused(path)
    data = open_dataset(path, root=tmp_path / "sounds", folds=2)
    assert (data.root, data.clips[0].path) == (tmp_path / "sounds", "0.flac")
    bare = table(tmp_path / "lists" / "bare.csv", "fname,label\n" + "".join(f"{n},{'xy'[n % 2]}\n" for n in range(4)))
    assert open_dataset(bare, root=tmp_path / "sounds", folds=2).digest == data.digest
    above = table(tmp_path / "list.csv", path.read_text())
    assert f"they are below {tmp_path / 'sounds'}: give root {tmp_path / 'sounds'}" in refused(above)


def test_json_lines_as_a_table(tmp_path):
    touch(tmp_path, "0.wav", "1.wav", "2.wav", "3.wav")
    rows = [f'{{"path": "{n}.wav", "label": {n % 2}, "Fold": {n // 2}.0, "x": null}}' for n in range(4)]
    data = open_dataset(table(tmp_path / "list.jsonl", "\n".join(rows)))
    assert (data.classes, data.folds.tolist(), data.notes[0]) == (
        ("0", "1"),
        [0, 0, 1, 1],
        "columns that are not used: x",
    )


TEXT = "path,label\n" + "".join(f"{n}.wav,{'üy'[n % 2]}\n" for n in range(4))


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-marked"])
def test_codings_that_a_mark_tells(tmp_path, coding):
    touch(tmp_path, *(f"{n}.wav" for n in range(4)))
    content = b"\xfe\xff" + TEXT.encode("utf-16-be") if coding == "utf-16-be-marked" else TEXT.encode(coding)
    for name, text in (("list.csv", content), ("list.txt", content.replace(b",", b"\t"))):
        (tmp_path / name).write_bytes(text)
        assert open_dataset(tmp_path / name, folds=2).classes == ("y", "ü")
    # Excel's "Unicode text", and PowerShell's >, as metadata of a folder.
    head = TEXT.replace("path", "file_name")
    (tmp_path / "metadata.csv").write_bytes(
        b"\xfe\xff" + head.encode("utf-16-be") if coding == "utf-16-be-marked" else head.encode(coding)
    )
    assert open_dataset(tmp_path, folds=2).layout == "audiofolder"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            TEXT.encode("latin-1"),
            "found text in Latin-1, Windows-1252 or another coding of one byte a letter; `iconv -f",
        ),
        (TEXT.encode("utf-16-le"), "found UTF-16 without its mark"),
        (b"PK\x03\x04" + bytes(range(256)), "found a ZIP archive"),  # as .xlsx is
        (b"\xff\xfe\x00\xd8x", "expected a csv saved as UTF-8"),
    ],
)
def test_other_codings_are_named(tmp_path, content, said):
    touch(tmp_path, *(f"{n}.wav" for n in range(4)))
    (tmp_path / "list.csv").write_bytes(content)
    message = refused(tmp_path / "list.csv")
    assert "expected a csv saved as UTF-8, " in message
    assert said in message


def test_a_letter_that_is_none_is_no_text(tmp_path):
    touch(tmp_path, "0.wav", "1.wav")
    (tmp_path / "list.csv").write_bytes(b"path,label\n0.wav,x\0y\n1.wav,y\n")
    assert "UTF-16 without its mark, or no text" in refused(tmp_path / "list.csv")


def test_a_name_without_an_ending_that_two_sounds_have_is_not_there(tmp_path):
    rows = ("0,x", "1,y", "2,x", "3,y")
    listed(tmp_path, "path,label", *rows)
    assert [clip.path for clip in open_dataset(tmp_path / "list.csv", folds=2).clips] == [f"{n}.wav" for n in range(4)]
    touch(tmp_path, "1.flac")
    assert "1 of 4 files do not exist (1)" in refused(tmp_path / "list.csv", folds=2)


@pytest.mark.parametrize(
    ("paths", "home", "way"),
    [
        (["cat/0.wav", "dog/1.wav"], ".", ", or give {} with layout folder, which takes them from the folders"),
        (["train/cat/0.wav", "test/dog/1.wav"], ".", ", or give {} with label_from '{split}/{label}/{name}', which"),
        (["cat/0.wav", "dog/1.wav"], "train", ", or give {} with label_from '{split}/{label}/{name}', which takes"),
        (["0.wav", "1.wav"], ".", ""),
        (["train/0.wav", "test/1.wav"], ".", ""),
    ],
)
def test_metadata_without_a_label_says_how_folders_give_it(tmp_path, paths, home, way):
    """As audiofolder's metadata of captions: its sounds may lie in folders of their classes."""
    touch(tmp_path / home, *paths)
    rows = "".join(f"{path},some words\n" for path in paths)
    (tmp_path / home / "metadata.csv").write_text(f"file_name,transcription\n{rows}")
    message = refused(tmp_path)
    found = "no column 'label'; found file_name, transcription; expected path, label: name the column of the classes so"
    assert found + way.replace("{}", str(tmp_path)) in message
    assert message.endswith("classes so") == (not way)


def test_fsd50k_s_own_table_with_a_root(tmp_path):
    """Names without endings, several labels in quotes, and a split of train and val."""
    touch(tmp_path / "FSD50K.dev_audio", *(f"{n}.wav" for n in range(8)))
    rows = [f'{n},"{("Bark", "Meow")[n % 2]},Animal","/m/0,/m/1",{"val" if n < 2 else "train"}' for n in range(8)]
    path = table(tmp_path / "truth" / "dev.csv", "\n".join(["fname,labels,mids,split", *rows]))
    data = open_dataset(path, root=tmp_path / "FSD50K.dev_audio")
    assert (data.classes, data.several, data.split) == (("Animal", "Bark", "Meow"), True, True)
    assert [clip.fold for clip in data.clips] == [1] * 2 + [2] * 6
    assert data.file(7).is_file()
    assert "8 of 8 files do not exist" in refused(path)


def test_a_table_without_names_of_columns(tmp_path):
    message = refused(listed(tmp_path, "0.wav,x", "1.wav,y"))
    assert "no column 'path'; found 0.wav, x; expected path, label; its first line looks like a clip" in message
    assert "looks like a clip" not in refused(listed(tmp_path, "sound,kind", "1.wav,y"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"path": "0.wav", "label": "x", "label": "y"}', "line 1 is not JSON ('label' stands 2 times in one object)"),
        ('{"path": "0.wav", "label": "x", "Label ": "y"}', "line 1: 'label' stands 2 times; keep one of them"),
        ('{"path": "0.wav", "label": {"name": "x"}}', "line 1: 'label' is an object; expected its name as text"),
    ],
)
def test_json_lines_that_say_two_things_or_none(tmp_path, row, said):
    touch(tmp_path, "0.wav")
    assert said in refused(table(tmp_path / "list.jsonl", row))


def test_a_fold_below_0_is_none(tmp_path):
    rows = [f"{n}.wav,{'xy'[n % 2]},{n % 2 - 1}" for n in range(4)]
    assert "line 2: fold is '-1'; expected a whole number" in refused(listed(tmp_path, "path,label,fold", *rows))


def test_nested_objects_of_json_may_have_keys_of_either_case(tmp_path):
    rows = [f'{{"path": "{n}.wav", "label": "{"xy"[n % 2]}", "meta": {{"a": 1, "A": 2}}}}' for n in range(4)]
    touch(tmp_path, *(f"{n}.wav" for n in range(4)))
    assert open_dataset(table(tmp_path / "list.jsonl", "\n".join(rows)), folds=2).classes == ("x", "y")


def test_paths_in_folders_of_parts_are_noted(tmp_path):
    for root, folder in (("a", ""), ("b", "data/")):
        paths = [f"{folder}{part}/{n}.wav" for n in range(6) for part in ("test", "train")]
        touch(tmp_path / root, *paths)
        rows = [f"{path},{'xy'[place // 2 % 2]}" for place, path in enumerate(paths)]
        path = table(tmp_path / root / "t.csv", "\n".join(["path,label", *rows]))
        words = "paths lie in test, train: name the part in a column split, and test is held out"
        assert words in open_dataset(path, folds=2).notes
        divided = [f"{row},{row.split('/')[-2]}" for row in rows]
        assert words not in open_dataset(table(path, "\n".join(["path,label,split", *divided]))).notes


def test_addresses_of_files_are_paths(tmp_path):
    touch(tmp_path, "a b.wav", "c.wav")
    rows = [f"{(tmp_path / 'a b.wav').as_uri()},x", "c.wav,y"]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    assert list(read_csv(tmp_path / "t.csv").paths) == ["a b.wav", "c.wav"]
