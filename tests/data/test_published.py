"""Published data sets, whole and in the parts that users have of them: named as what they are."""

import shutil

import pytest
from test_given_splits import refused, table, touch

from earsight.data import Clip, Hints, open_dataset
from earsight.data.checks import check_dataset
from earsight.data.published import GENRES
from earsight.data.splits import TEST, TRAIN, VALIDATION

# --- UrbanSound8K ---------------------------------------------------------------------------------------------------

KINDS = {0: "air_conditioner", 3: "dog_bark", 8: "siren"}


def urban(root, folds=range(1, 11)):
    """Two sources of each class in each fold, as in UrbanSound8K: audio, and its table."""
    lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for fold in folds:
        for kind, name in KINDS.items():
            for source in (1000 * fold + kind, 2000 * fold + kind):
                touch(root, f"audio/fold{fold}/{source}-{kind}-0-1.wav")
                lines.append(f"{source}-{kind}-0-1.wav,{source},0.0,4.0,1,{fold},{kind},{name}")
    table(root / "metadata" / "UrbanSound8K.csv", "\n".join(lines))
    return root


def test_urbansound8k_without_its_table_is_read_by_its_names(tmp_path):
    with_table = open_dataset(urban(tmp_path))
    rows = {(clip.path, clip.label, clip.fold, clip.group) for clip in with_table.clips}
    shutil.rmtree(tmp_path / "metadata")
    for root, prefix in ((tmp_path, ""), (tmp_path / "audio", "audio/")):
        data = open_dataset(root)
        assert (data.layout, data.hints) == ("urbansound8k", Hints(22050, 4.0, 250))
        assert {(prefix + clip.path, clip.label, clip.fold, clip.group) for clip in data.clips} == rows
        assert "class, source and fold are taken from the files' names" in data.notes[0]
    shutil.rmtree(tmp_path / "audio" / "fold7")
    touch(tmp_path, "audio/fold1/mine.wav")
    notes = open_dataset(tmp_path).notes
    assert "UrbanSound8K without fold 7: figures do not compare with those of all ten" in notes
    assert "1 sound not named as UrbanSound8K's was left out" in notes


def test_the_sounds_of_urbansound8k_beside_their_table(tmp_path):
    urban(tmp_path)
    assert f"the sounds of UrbanSound8K without their table; give {tmp_path}" in refused(tmp_path / "audio")
    assert refused(tmp_path / "audio" / "fold3").startswith(f"fold3 is a part of a data set: give {tmp_path}; ")
    assert f"UrbanSound8K.csv is a part of a data set: give {tmp_path}" in refused(
        tmp_path / "metadata" / "UrbanSound8K.csv"
    )


def test_urbansound8k_with_folds_missing(tmp_path):
    urban(tmp_path)
    for fold in (5, 10):
        shutil.rmtree(tmp_path / "audio" / f"fold{fold}")
    (tmp_path / "audio/fold1/1000-0-0-1.wav").unlink()
    message = refused(tmp_path)
    assert "13 of 60 files do not exist (audio/fold1/1000-0-0-1.wav, " in message
    assert "folders audio/fold5, audio/fold10 not there at all" in message
    assert "fetch them, or leave them out with skip_bad" in message
    data = open_dataset(tmp_path, skip_missing=True)
    assert (data.fold_numbers, len(data.clips), len(data.missing)) == ((1, 2, 3, 4, 6, 7, 8, 9), 47, 13)
    assert any("left out, so that figures do not compare with those of the whole set" in note for note in data.notes)
    finding = check_dataset(data).findings[0]
    assert (finding.kind, finding.severity, finding.clips) == ("missing", "error", data.missing)
    for fold in range(2, 11):
        shutil.rmtree(tmp_path / "audio" / f"fold{fold}", ignore_errors=True)
    message = refused(tmp_path, skip_missing=True)
    assert (
        "every clip is in fold 1; at least two folds are needed: add clips of another, or list these in a " in message
    )
    shutil.move(tmp_path / "metadata" / "UrbanSound8K.csv", tmp_path / "audio")  # as Kaggle has it
    own = refused(tmp_path / "audio" / "UrbanSound8K.csv")
    assert own.startswith(f"UrbanSound8K.csv is a part of a data set: give {tmp_path}; ")


@pytest.mark.parametrize(("layout", "source", "folds"), [("urbansound8k", 106905, (4, 7)), ("esc50", 131943, (2, 3))])
def test_sources_in_two_official_folds_are_named_and_stay(tmp_path, layout, source, folds):
    if layout == "urbansound8k":
        place = urban(tmp_path, folds) / "metadata" / "UrbanSound8K.csv"
        names = [f"{source}-{kind}-0-{kind}.wav" for kind in (0, 3)]
        more = [f"{name},{source},0,4,1,{fold},3,dog_bark" for name, fold in zip(names, folds, strict=True)]
        paths = [f"audio/fold{fold}/{name}" for name, fold in zip(names, folds, strict=True)]
        lines = place.read_text().splitlines()
    else:
        place = tmp_path / "meta" / "esc50.csv"
        lines = ["filename,fold,target,category,esc10,src_file,take"]
        lines += [f"{n}.wav,{1 + n % 5},{n // 10},{'ab'[n // 10]},TRUE,{n},A" for n in range(20)]
        touch(tmp_path, *(f"audio/{n}.wav" for n in range(20)))
        paths = [f"audio/{fold}-{source}-A.wav" for fold in folds]
        more = [f"{fold}-{source}-A.wav,{fold},0,a,TRUE,{source},A" for fold in folds]
    touch(tmp_path, *paths)
    table(place, "\n".join([*lines, *more]))
    data = open_dataset(tmp_path)
    assert data.layout == layout
    assert f"LEAK: 1 sources have clips in several folds ({source}): held-out accuracy will flatter" in data.notes
    assert [clip.fold for clip in data.clips if clip.path in paths] == list(folds)
    (found,) = (one for one in check_dataset(data).findings if one.kind == "group_straddles")
    assert sorted(found.clips) == sorted(paths)
    assert f"({source} in {folds[0]} and {folds[1]})" in found.text


def test_folders_called_fold_of_other_sounds_are_classes(tmp_path):
    touch(tmp_path, *(f"fold{fold}/door {n}.wav" for fold in (1, 2) for n in range(5)))
    assert open_dataset(tmp_path).layout == "folder"


# --- GTZAN ----------------------------------------------------------------------------------------------------------


def gtzan(root, genres):
    return touch(root, *(f"{genre}/{genre}.{n:05d}.wav" for genre in genres for n in range(5)))


def test_gtzan_with_fewer_genres(tmp_path):
    whole = open_dataset(gtzan(tmp_path / "whole", GENRES))
    assert not [note for note in whole.notes if "GTZAN" in note]
    data = open_dataset(gtzan(tmp_path / "three", ("blues", "jazz", "rock")))
    assert data.layout == "gtzan"
    absent = "classical, country, disco, hiphop, metal, pop, reggae"
    assert f"GTZAN without {absent}: figures do not compare with those of its ten genres" in data.notes
    message = refused(gtzan(tmp_path / "one", ("blues",)))
    assert "GTZAN with the genre 'blues' alone" in message
    assert f"blues is a part of a data set: give {tmp_path / 'three'}" in refused(tmp_path / "three" / "blues")


def test_kaggles_gtzan(tmp_path):
    gtzan(tmp_path / "genres_original", ("blues", "jazz"))
    touch(tmp_path, "images_original/blues/blues00000.png")
    rows = [f"{genre}.{n:05d}.wav,661794,0.35,{genre}" for genre in ("blues", "jazz") for n in range(5)]
    features = table(tmp_path / "features_30_sec.csv", "\n".join(["filename,length,chroma_stft_mean,label", *rows]))
    assert open_dataset(tmp_path).layout == "gtzan"
    gtzan(tmp_path / "zip" / "Data" / "genres_original", ("blues", "jazz"))
    unpacked = open_dataset(tmp_path / "zip")
    assert (unpacked.layout, unpacked.clips[0].path) == ("gtzan", "Data/genres_original/blues/blues.00000.wav")
    message = refused(features)
    assert "10 of 10 files do not exist" in message
    assert "name the folder that they are in with root" in message  # the first is in blues, the last is not
    assert f"features_30_sec.csv is a part of a data set: give {tmp_path}" in message


# --- Speech Commands ------------------------------------------------------------------------------------------------


def speech(root):
    names = [
        f"{word}/{who}_nohash_{n}.wav"
        for word in ("yes", "no")
        for who in ("0a7c2a8d", "bb05582b", "c1")
        for n in (0, 1)
    ]
    touch(root, *names, "_background_noise_/pink_noise.wav", "_background_noise_/README.md", "LICENSE")
    table(root / "testing_list.txt", "\n".join(name for name in names if "bb05582b" in name) + "\n")
    table(root / "validation_list.txt", "\n".join(name for name in names if "/c1" in name) + "\ngone/x_nohash_0.wav\n")
    return root


def test_speech_commands(tmp_path):
    data = open_dataset(speech(tmp_path / "sc"))
    assert (data.layout, data.classes, data.hints) == ("speechcommands", ("no", "yes"), Hints(16000, 1.0, 50))
    assert data.describe() == "Speech Commands layout (sc): 12 clips, 2 classes, 4 train, 4 validation, 4 test"
    assert data.clips[0] == Clip("no/0a7c2a8d_nohash_0.wav", "no", TRAIN, "0a7c2a8d")
    assert {clip.group: clip.fold for clip in data.clips} == {"0a7c2a8d": TRAIN, "bb05582b": TEST, "c1": VALIDATION}
    assert "sounds in '_background_noise_' are no class and were left out: 1" in data.notes
    assert "1 file was left out: its ending is not a sound's (none 1)" in " ".join(data.notes)
    assert "validation_list.txt: 1 of 5 files are not there (gone/x_nohash_0.wav)" in data.notes


def test_speech_commands_without_lists(tmp_path):
    speech(tmp_path)
    for name in ("testing_list.txt", "validation_list.txt"):
        (tmp_path / name).unlink()
    data = open_dataset(tmp_path, folds=3)
    assert (data.layout, data.split, data.fold_numbers, data.classes) == (
        "speechcommands",
        False,
        (1, 2, 3),
        ("no", "yes"),
    )
    for group in set(data.groups):
        assert len(set(data.folds[data.groups == group])) == 1
    assert "Speech Commands without its testing_list.txt: no test part, speakers are kept whole" in data.notes


def test_noise_beside_other_words_is_no_class(tmp_path):
    touch(tmp_path, "_background_noise_/x.wav", *(f"{word}/{n}.wav" for word in ("yes", "no") for n in range(5)))
    data = open_dataset(tmp_path)
    assert (data.layout, data.classes) == ("folder", ("no", "yes"))


# --- Free Spoken Digit Dataset --------------------------------------------------------------------------------------


def fsdd(root, takes=range(3, 8), digits=range(10)):
    names = [f"{digit}_{who}_{take}.wav" for digit in digits for who in ("jackson", "theo") for take in takes]
    return touch(root, *(f"recordings/{name}" for name in names), "metadata.py", "recordings/.DS_Store")


def test_fsdd_has_its_official_test_takes(tmp_path):
    root = touch(fsdd(tmp_path / "free-spoken-digit-dataset"), "recordings/noise.wav")
    data = open_dataset(root)
    said = "Free Spoken Digit Dataset layout (free-spoken-digit-dataset): 100 clips, 10 classes, 60 train, 40 test"
    assert data.describe() == said
    assert data.clips[0] == Clip("recordings/0_jackson_3.wav", "0", TEST, "jackson")
    assert {int(clip.path[:-4].rsplit("_", 1)[1]) for clip in data.clips if clip.fold == TEST} == {3, 4}
    assert "1 sound not named DIGIT_SPEAKER_TAKE was left out" in data.notes
    assert any("label_from '{label}_{group}_{n}' tests on speakers that were not trained on" in n for n in data.notes)
    assert any(note.startswith("LEAK: 2 sources have clips in several folds (jackson, theo)") for note in data.notes)
    assert len(open_dataset(root / "recordings").clips) == 100
    (root / "recordings" / "noise.wav").unlink()
    groups = open_dataset(root, label_from="{label}_{group}_{n}", folds=2)
    assert (groups.split, {clip.group for clip in groups.clips}) == (False, {"jackson", "theo"})


def test_fsdd_in_parts(tmp_path):
    data = open_dataset(fsdd(tmp_path / "late", takes=range(5, 9)), folds=2)
    assert (data.layout, data.split) == ("fsdd", False)
    assert any("no test part, speakers are kept whole" in note for note in data.notes)
    assert "only one class, 'recordings'" in refused(fsdd(tmp_path / "few", digits=range(3)))


# --- FSD50K and DCASE -----------------------------------------------------------------------------------------------


def fsd50k(root):
    dev = ["1,Bark,/m/05tny_,train", '2,"Bark,Dog","/m/05tny_,/m/0bt9lr",train', "3,Rain,/m/06mb1,train"]
    dev += ["4,Rain,/m/06mb1,val", "5,Bark,/m/05tny_,val", "6,Owl,/m/09d5_,val"]
    test = ['7,"Rain,Water","/m/06mb1,/m/0838f"', "8,Bark,/m/05tny_", "9,Rain,/m/06mb1"]
    table(root / "FSD50K.ground_truth/dev.csv", "\n".join(["fname,labels,mids,split", *dev]))
    table(root / "FSD50K.ground_truth/eval.csv", "\n".join(["fname,labels,mids", *test]))
    touch(root, *(f"FSD50K.dev_audio/{n}.wav" for n in range(1, 7)), *(f"FSD50K.eval_audio/{n}.wav" for n in (7, 8, 9)))
    return root


@pytest.mark.parametrize("table_too", [True, False])
@pytest.mark.parametrize("subset", [None, "single"])
def test_fsd50k_without_its_evaluation_part_holds_validation_out(tmp_path, table_too, subset):
    shutil.rmtree(fsd50k(tmp_path) / "FSD50K.eval_audio")
    if not table_too:
        (tmp_path / "FSD50K.ground_truth" / "eval.csv").unlink()
    data = open_dataset(tmp_path, subset=subset, skip_missing=table_too)
    assert "there is no test part: validation is held out in its place" in data.notes
    val = {clip.path for clip in data.clips if clip.fold == TEST}
    assert "FSD50K.dev_audio/4.wav" in val
    assert val <= {f"FSD50K.dev_audio/{n}.wav" for n in (4, 5, 6)}
    assert set(data.folds) == {TRAIN, TEST}


def test_fsd50k(tmp_path):
    message = refused(fsd50k(tmp_path), labels="single")
    assert "2 of 9 clips have several labels ('Bark,Dog'); 7 have one" in message
    assert "subset single" in message
    data = open_dataset(tmp_path, subset="single")
    assert [(clip.path, clip.label, clip.fold) for clip in data.clips] == [
        ("FSD50K.dev_audio/1.wav", "Bark", TRAIN),
        ("FSD50K.dev_audio/3.wav", "Rain", TRAIN),
        ("FSD50K.dev_audio/4.wav", "Rain", VALIDATION),
        ("FSD50K.dev_audio/5.wav", "Bark", VALIDATION),
        ("FSD50K.eval_audio/8.wav", "Bark", TEST),
        ("FSD50K.eval_audio/9.wav", "Rain", TEST),
    ]
    assert "2 of 9 clips have several labels and were left out" in data.notes
    assert "1 clip of classes without a training clip was left out" in data.notes
    # Its table alone.
    table_alone = tmp_path / "FSD50K.ground_truth" / "dev.csv"
    sounds = tmp_path / "FSD50K.dev_audio"
    assert "1 of 6 clips have several labels" in refused(table_alone, root=sounds, labels="single")
    assert open_dataset(table_alone, root=sounds).several


def dcase(root, folds=(1,), clips=8):
    names = [
        f"audio/{scene}-{city}-{n}-a.wav"
        for scene in ("park", "bus")
        for city in ("oslo", "rome")
        for n in range(clips // 4)
    ]
    touch(root, *names)
    scene = {name: name.split("/")[1].split("-")[0] for name in names}
    rows = [f"{name}\t{scene[name]}\t{name.split('-')[1]}-{scene[name]}" for name in names]
    table(root / "meta.csv", "\n".join(["filename\tscene_label\tidentifier", *rows]))
    for fold in folds:
        held = [name for name in names if ("oslo" in name) == (fold == 1)]
        for kind, chosen in (("train", [n for n in names if n not in held]), ("evaluate", held)):
            listed = [f"{name}\t{scene[name]}" for name in chosen]
            table(root / f"evaluation_setup/fold{fold}_{kind}.csv", "\n".join(["filename\tscene_label", *listed]))
        table(root / f"evaluation_setup/fold{fold}_test.csv", "\n".join(["filename", *held]))
    return root


def test_dcase_scenes(tmp_path):
    data = open_dataset(dcase(tmp_path / "TAU"))
    assert (data.layout, data.split, data.classes) == ("dcase", True, ("bus", "park"))
    assert data.describe() == "DCASE layout (TAU): 8 clips, 2 classes, 4 train, 4 test"
    assert {(clip.group, clip.fold) for clip in data.clips} == {
        ("oslo-park", TEST),
        ("oslo-bus", TEST),
        ("rome-park", TRAIN),
        ("rome-bus", TRAIN),
    }
    several = open_dataset(dcase(tmp_path / "TUT", folds=(1, 2)))
    assert (several.split, several.fold_numbers, len(several.clips)) == (False, (1, 2), 8)
    assert "2 official folds" in several.describe()
    held = tmp_path / "TUT/evaluation_setup/fold2_evaluate.csv"
    lines = held.read_text().splitlines()
    for changed in (lines[:-1], [*lines, *dict.fromkeys(line.replace("rome", "oslo") for line in lines[1:])]):
        table(held, "\n".join(changed))
        assert "its 2 folds do not test each clip once; list the clips in a csv" in refused(tmp_path / "TUT")
    (tmp_path / "TAU/evaluation_setup/fold1_evaluate.csv").unlink()
    assert "no foldN_train.csv with foldN_evaluate.csv" in refused(tmp_path / "TAU")
    meta = open_dataset(tmp_path / "TAU" / "meta.csv", folds=2)
    assert any(
        "column 'identifier' is not used; it has 4 values for 8 clips: did you mean group?" in note
        for note in meta.notes
    )


@pytest.mark.parametrize(
    ("subset", "said"), [("single", "'single' of layout 'fsd50k'"), ("esc10", "'esc10' of layout")]
)
def test_subsets_of_other_sets(tmp_path, subset, said):
    assert said in refused(gtzan(tmp_path, GENRES), subset=subset)
