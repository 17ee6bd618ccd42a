"""Boxes from csv, Raven, Audacity and BirdNET, read beside recordings of known length."""

import math
import wave

import pytest

from earsight.data.annotations import Box, read_boxes
from earsight.errors import DataError

RATE = 8000
RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"


def recording(path, seconds=10.0, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(bytes(2 * round(seconds * rate)))
    return path


@pytest.fixture
def root(tmp_path):
    for name in ("a.wav", "b.wav", "deep/c.wav"):
        recording(tmp_path / "rec" / name)
    return tmp_path / "rec"


def spans(boxes):
    return [(box.path, box.begin, box.end, box.label) for box in boxes.boxes]


def table(root, text, name="boxes.csv"):
    path = root.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_csv_with_every_column(root):
    text = (
        "path,begin,end,label,fmin,fmax,group,fold,annotator\n"
        "b.wav,1.5,2.5,wren,1000,4000,site 1,2,ann\n"
        "a.wav,0,3,owl,,,,1,\n"
        "deep/c.wav,3,4.25,owl,200,,site 1,2,bob\n"
    )
    found = read_boxes(table(root, text), root)
    assert found.root == root
    assert spans(found) == [("a.wav", 0, 3, "owl"), ("b.wav", 1.5, 2.5, "wren"), ("deep/c.wav", 3, 4.25, "owl")]
    where = str(root.parent / "boxes.csv")
    assert found.boxes[1] == Box("b.wav", 1.5, 2.5, "wren", 1000, 4000, "site 1", 2, "ann", 2, where)
    assert math.isnan(found.boxes[0].fmin)
    assert found.boxes[0].fold == 1
    assert (found.boxes[2].fmin, math.isnan(found.boxes[2].fmax)) == (200, True)
    assert found.seconds == {"a.wav": 10.0, "b.wav": 10.0, "deep/c.wav": 10.0}
    assert found.notes == ()
    assert found.labels == ["owl", "wren"]


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("path,begin_s,end_s,label,score", "a.wav,1.5,2.5,owl,0.9"),
        ("audio_file,annotation_file,annotation,start_time,end_time,low_f,high_f", "x/a.wav,y.txt,owl,1.5,2.5,1,2"),
        ("label,onset_s,offset_s,onset_sample,offset_sample,notated_path", "owl,1.5,2.5,12000,20000,a.wav"),
        ("label,onset_sample,offset_sample,notated_path", "owl,12000,20000,a.wav"),
        ("path,begin_ms,end_ms,species", "a,1500,2500,owl"),
        ("path;begin;end;label", "a.wav;1,5;2,5;owl"),
        ("path,begin,end,label", 'a.wav,"1,5","2,5",owl'),
        ("sep=;\npath;begin;duration;label", "a.wav;1.5;1;owl"),
        ("Start (s),End (s),Scientific name,Common name,Confidence,File", r"1.5,2.5,Strix,owl,0.9,D:\rec\A.WAV"),
        ("filepath,start,end,scientific_name,common_name,confidence,lat", "/x/a.wav,1.5,2.5,Strix,owl,0.9,1"),
        ("INDIR,FOLDER,IN FILE,OFFSET,DURATION,scientific_name,common_name", "/x,y,a.wav,1.5,1.0,Strix,owl"),
    ],
)
def test_other_names_and_units_of_the_columns(root, head, row):
    found = read_boxes(table(root, f"{head}\n{row}\n"), root)
    assert spans(found) == [("a.wav", 1.5, 2.5, "owl")]


def test_a_raven_table_with_two_views_a_selection(root):
    rows = [
        "1\tWaveform 1\t1\t1.5\t2.5\t0\t4000\t",
        "1\tSpectrogram 1\t1\t1.5\t2.5\t0\t4000\towl",
        '2\tWaveform 1\t1\t3\t4\t100.5\t4000\tthe "wren"',
        '2\tSpectrogram 1\t1\t3\t4\t100.5\t4000\tthe "wren"',
    ]
    path = table(root, "\r\n".join([f"{RAVEN}\tAnnotation", *rows, ""]), "a.Table.1.selections.txt")
    found = read_boxes(path, root)
    assert spans(found) == [("a.wav", 1.5, 2.5, "owl"), ("a.wav", 3, 4, 'the "wren"')]
    assert found.boxes[1].fmin == 100.5
    assert found.notes == ("further views of a selection, which counts once: 2",)
    assert found.others == ("b.wav", "deep/c.wav")


def test_a_raven_table_of_several_sounds_counts_from_each_ones_begin(root):
    """Begin Time counts through all sounds of the window, File Offset within the one that it begins in."""
    head = RAVEN + "\tBegin Path\tFile Offset (s)\tSpecies"
    rows = [
        "1\tSpectrogram 1\t1\t1.5\t2.5\t0\t4000\tD:\\x\\a.wav\t1.5\towl",
        "2\tSpectrogram 1\t1\t12.0\t14.5\t0\t4000\tD:\\x\\b.wav\t2.0\twren",
        "3\tSpectrogram 1\t1\t29.0\t29.5\t0\t4000\tD:\\deep\\c.wav\t9.0\twren",
    ]
    found = read_boxes(table(root, "\n".join([head, *rows]), "all.txt"), root)
    assert spans(found) == [("a.wav", 1.5, 2.5, "owl"), ("b.wav", 2, 4.5, "wren"), ("deep/c.wav", 9, 9.5, "wren")]


def test_a_raven_table_whose_one_column_of_its_own_holds_the_labels(root):
    text = f"{RAVEN}\tDelta Time (s)\tAvg Power Density (dB FS/Hz)\tMy Birds\n1\tS\t1\t1\t2\t0\t1\t1\t-50\towl\n"
    assert spans(read_boxes(table(root, text, "a.txt"), root)) == [("a.wav", 1, 2, "owl")]
    text = text.replace("My Birds", "My Birds\tWeather").replace("owl", "owl\train")
    with pytest.raises(DataError, match=r"no column 'label'.*my birds, weather; say which .* label_column"):
        read_boxes(table(root, text, "a.txt"), root)
    assert spans(read_boxes(table(root, text, "a.txt"), root, label_column="Weather")) == [("a.wav", 1, 2, "rain")]
    with pytest.raises(DataError, match="no column 'Wether', which label_column names"):
        read_boxes(table(root, text, "a.txt"), root, label_column="Wether")


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_an_audacity_track_with_bands(root, coding):
    text = "1.500000\t2.500000\tKäuzchen\n\\\t-1.0\t4000.5\n3,0\t4,0\twren\ttrailing\n"
    found = read_boxes(table(root, text.encode(coding), "a.txt"), root)
    assert spans(found) == [("a.wav", 1.5, 2.5, "Käuzchen"), ("a.wav", 3, 4, "wren")]
    assert math.isnan(found.boxes[0].fmin)
    assert found.boxes[0].fmax == 4000.5
    assert [box.line for box in found.boxes] == [1, 3]
    assert len(found.notes) == (coding == "cp1252")


def test_a_label_track_of_earsights_own_has_scores_behind_its_labels(root):
    path = table(root, "1.5\t2.5\towl 0.93\n3\t4\tgrey owl 1.00\n", "a.txt")
    found = read_boxes(path, root)
    assert [box.label for box in found.boxes] == ["owl", "grey owl"]
    assert found.notes == ("labels without the score behind them, as earsight's own label tracks have it: 2",)
    path.write_text("1.5\t2.5\towl 0.93\n3\t4\tgrey owl\n")
    assert [box.label for box in read_boxes(path, root).boxes] == ["owl 0.93", "grey owl"]


def test_a_folder_of_tables_beside_the_sounds(root):
    """Raven's, Audacity's and BirdNET's names; a table without a row says that nothing is in its recording."""
    table(root, "1\t2\towl\n", "rec/a.txt")
    table(root, f"{RAVEN}\tAnnotation\n", "rec/b.Table.1.selections.txt")
    text = "Start (s),End (s),Scientific name,Common name,Confidence\n3.0,6.0,Strix,owl,0.9\n"
    table(root, text, "rec/deep/c.BirdNET.results.csv")
    table(root, "Remember the milk\n", "rec/README.txt")
    recording(root / "d.wav")
    found = read_boxes(root, root)
    assert spans(found) == [("a.wav", 1, 2, "owl"), ("deep/c.wav", 3, 6, "owl")]
    assert list(found.seconds) == ["a.wav", "b.wav", "deep/c.wav"]
    assert found.others == ("d.wav",)
    assert found.notes == ("files that are no tables of boxes: 1 (README.txt)",)


def test_two_recordings_of_one_name_are_told_apart_by_their_folders(root):
    recording(root / "site1" / "x.wav")
    recording(root / "site2" / "x.wav")
    text = "path,begin,end,label\n/old/site2/x.wav,1,2,owl\n"
    assert spans(read_boxes(table(root, text), root)) == [("site2/x.wav", 1, 2, "owl")]
    with pytest.raises(DataError, match=r"'x.wav' may be site1/x.wav or site2/x.wav; give its path below"):
        read_boxes(table(root, text.replace("/old/site2/", "")), root)
    table(root, "1\t2\towl\n", "rec/site1/x.txt")
    assert spans(read_boxes(root / "site1", root)) == [("site1/x.wav", 1, 2, "owl")]


def test_a_recording_at_the_top_and_one_of_its_name_below(root):
    """As predict writes tables into a folder for each recording, and as other machines' paths are."""
    recording(root / "deep" / "a.wav")
    tables = root.parent / "found"
    (tables / "deep").mkdir(parents=True)
    for place, label in (("a.txt", "owl"), ("deep/a.txt", "wren")):
        (tables / place).write_text(f"1\t2\t{label}\n")
    wanted = [("a.wav", "owl"), ("deep/a.wav", "wren")]
    assert [(box.path, box.label) for box in read_boxes(tables, root).boxes] == wanted
    rows = "path,begin,end,label\n/mnt/x/a.wav,1,2,owl\n/mnt/x/deep/a.wav,1,2,wren\n"
    assert [(box.path, box.label) for box in read_boxes(table(root, rows), root).boxes] == wanted
    recording(root / "deep" / "down" / "b2.wav")
    recording(root / "deep" / "b2.wav")
    with pytest.raises(DataError, match=r"'b2\.wav' may be"):
        read_boxes(table(root, "path,begin,end,label\nb2.wav,1,2,owl\n"), root)


def test_one_recording_and_its_table_of_any_name(root):
    found = read_boxes(table(root, "1\t2\towl;wren\n", "labels.txt"), root / "b.wav")
    assert spans(found) == [("b.wav", 1, 2, "owl"), ("b.wav", 1, 2, "wren")]


def test_a_unit_is_guessed_where_it_fits_all_boxes_and_seconds_fit_few(root):
    far = "path,begin,end,label\na.wav,1000,2000,owl\n"
    with pytest.raises(DataError, match=r"2 boxes past the end.*look like ms"):
        read_boxes(table(root, far + "a.wav,3000,4000,owl\na.wav,3,4,owl\n"), root)
    for more in ("a.wav,1,2,owl\na.wav,3,4,owl\n", "a.wav,1.5,2,owl\n"):
        with pytest.raises(DataError, match=r"1 box past the end.*times count from the begin"):
            read_boxes(table(root, far + more), root)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.wav,5,3,owl", r"whose end is before its begin \(.*line 3 \(5 to 3 s\)\): exchange the two"),
        ("a.wav,3,3,owl", r"without length \(.*line 3 \(3 s\)\): a point has no length"),
        ("a.wav,-1,3,owl", "begin before the recording .*line 3.*count from the begin of the file"),
        ("a.wav,9,10.2,owl", r"past the end .*line 3 \(10.2 of 10.00 s\)\): times count from the begin"),
        ("a.wav,11,12,owl", "past the end .*line 3"),
        ("a.wav,8000,16000,owl", "line 3 .*look like samples: name the columns so, as in begin_samples"),
        ("a.wav,1000,2000,owl", "line 3 .*look like ms: name the columns so, as in begin_ms"),
        ("a.wav,2,12,owl", r"past the end .*line 3 \(12 of 10.00 s\)\): times count from the begin"),
        ("a.wav,1000.5,2000,owl", "past the end .*line 3.*: times count from the begin"),
        ("a.wav,1000,90000,owl", "past the end .*line 3.*: times count from the begin"),
        ("a.wav,one,2,owl", "without begin and end as numbers .*line 3.*write seconds"),
        ("a.wav,,2,owl", "without begin and end as numbers .*line 3"),
        ("a.wav,1,2,", "without a label .*line 3.*label_column"),
        ("aa.wav,1,2,owl", r"of no known recording \(.*line 3 \('aa.wav'; did you mean 'a.wav'\?\)\): correct"),
        (",1,2,owl", r"of no known recording \(.*line 3 \(the cell is empty\)"),
    ],
)
def test_a_box_that_cannot_be_is_named_with_its_line_or_left_out_and_counted(root, row, message):
    path = table(root, f"path,begin,end,label\nb.wav,1,2,owl\n{row}\n")
    with pytest.raises(DataError, match=f"1 box .*{message}") as error:
        read_boxes(path, root)
    assert str(error.value).endswith("Mend them, or leave these boxes out with skip_bad.")
    found = read_boxes(path, root, skip_bad=True)
    assert spans(found) == [("b.wav", 1, 2, "owl")]
    assert len(found.notes) == 1
    assert found.notes[0].startswith("left out, boxes ")
    assert found.notes[0].endswith(": 1")


def test_where_no_box_is_left_it_is_said_why(root):
    """As check does, which counts what is bad."""
    path = table(root, "path,begin,end,label\na.wav,8000,16000,owl\nb.wav,24000,32000,owl\n")
    with pytest.raises(DataError, match=r"(?s)2 boxes past the end .*these look like samples.*\nNo box is left"):
        read_boxes(path, root, skip_bad=True)


def test_all_that_is_wrong_is_said_at_once(root):
    rows = ["a.wav,3,2,owl"] * 5 + ["a.wav,1,2,"]
    with pytest.raises(DataError, match=r"(?s)5 boxes whose end .*line 2.*line 3.*line 4.*, \.\.\..*\n1 box without a"):
        read_boxes(table(root, "\n".join(["path,begin,end,label", *rows])), root)


def test_an_end_that_was_rounded_ends_with_the_recording(root):
    found = read_boxes(table(root, "path,begin,end,label\na.wav,9,10.05,owl\n"), root)
    assert spans(found) == [("a.wav", 9, 10, "owl")]
    assert found.notes == ("boxes that end up to 0.1 s past their recording, and end with it: 1",)


def test_a_recording_that_cannot_be_read(root):
    (root / "b.wav").write_bytes(b"RIFF nothing of the kind")
    path = table(root, "path,begin,end,label\nb.wav,1,2,owl\na.wav,1,2,owl\n")
    with pytest.raises(DataError, match=r"1 box of a recording that cannot be read .*line 2, .*b.wav: "):
        read_boxes(path, root)
    found = read_boxes(path, root, skip_bad=True)
    assert list(found.seconds) == ["a.wav"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,begin,end,label\n", "no box in 1 table"),
        ("", "no box in 1 table|no column"),
        ("path,label\na.wav,owl\n", "no column 'begin'; found path, label; expected path, begin, end, label"),
        ("path,begin,label\na.wav,1,owl\n", "no column 'end'"),
        ("path,begin,end\na.wav,1,2\n", "no column 'label' or 'annotation'.*label_column"),
        ("path,begin,end,label\na.wav,1,5,2,5,owl\n", "line 2: 6 values for 4 columns; put values that hold a ','"),
        ("path,begin,end,label,fold\na.wav,1,2,owl,x\n", "line 2: fold is 'x'; expected an integer"),
    ],
)
def test_a_table_that_says_too_little(root, text, message):
    with pytest.raises(DataError, match=message):
        read_boxes(table(root, text), root)


def test_duplicates_and_boxes_over_themselves_are_counted(root):
    rows = ["a.wav,1,3,owl", "a.wav,1,3,owl", "a.wav,2,4,owl", "a.wav,2,4,wren", "b.wav,2,4,owl"]
    found = read_boxes(table(root, "\n".join(["path,begin,end,label", *rows])), root)
    assert len(found.boxes) == 4
    assert found.notes == (
        "boxes that stand twice, and count once: 1",
        "boxes that overlap another of their own label, together one stretch of it: 1",
    )


def test_annotators_who_disagree_and_those_who_hear_two_sounds(root):
    rows = [
        ("a.wav,1,3,owl,ann", "a.wav,1.1,3,wren,bob"),  # of one sound two labels
        ("a.wav,5,7,owl,ann", "a.wav,5,7,wren,ann", "a.wav,5,7,owl,bob", "a.wav,5,7,wren,bob"),  # two sounds, agreed
        ("b.wav,1,3,owl,ann", "b.wav,2.9,5,wren,bob"),  # neighbours
        ("b.wav,6,8,owl,ann", "b.wav,6,8,wren,ann"),  # two sounds by one
    ]
    path = table(root, "\n".join(["path,begin,end,label,annotator", *sum(rows, ())]))
    found = read_boxes(path, root)
    assert [(box.begin, box.label) for box in found.boxes if box.disputed] == [(1, "owl"), (1.1, "wren")]
    assert found.notes[0] == "boxes that two annotators drew alike: 4"
    assert found.notes[1].startswith("boxes to which two annotators gave different labels: 2 (")
    assert "line 2, owl" in found.notes[1]
    assert len(read_boxes(path, root, annotator="bob").boxes) == 4
    with pytest.raises(DataError, match="no box by annotator eve; boxes are by ann, bob"):
        read_boxes(path, root, annotator="eve")


def test_a_hundred_thousand_boxes(root):
    rows = [f"{'ab'[i % 2]}.wav,{i % 9000 / 1000},{i % 9000 / 1000 + 0.5},c{i % 7}" for i in range(100_000)]
    found = read_boxes(table(root, "\n".join(["path,begin,end,label", *rows])), root)
    assert len(found.boxes) + int(found.notes[0].rpartition(" ")[2]) == 100_000
