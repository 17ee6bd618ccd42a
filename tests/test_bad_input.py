"""Every mistake a user can make ends in exit code 2 and one or two lines that say what to do."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from safetensors import safe_open
from typer.testing import CliRunner, Result

from earsight.cli import app
from earsight.features import store
from earsight.training.device import pick_device

RATE = 8000
TINY = [
    *("--set", "backbone.name=test_resnet", "--set", "backbone.weights=none", "--set", "training.epochs=1"),
    *("--set", "features.bands=32", "--set", "features.frames=32", "--set", "augment.pitch_semitones=0"),
]
THREAD = ["--threads", "1"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
MP4 = b"\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00M4A mp42isom" + bytes(200)


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(*args: object) -> str:
    """Run a verb that must refuse, check the manner of it, and return its message."""
    result = invoke(*args)
    assert result.exit_code == 2, f"{result.exit_code}: {result.stderr} {result.exception!r}"
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    before, found, message = result.stderr.partition("earsight: ")
    assert found, result.stderr
    # What was recognised, notes and progress may come before it; nothing after.
    for line in before.splitlines():
        known = ("  note: ", "  sound: ", "  groups: ", "  held out: ", "  left out: ", "spectrograms: ")
        assert line.startswith(known) or " clips, " in line, line
    assert 1 <= len(message.strip().splitlines()) <= 2, message
    return message


def noise(seed: int, seconds: float = 0.6) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def write_sounds(root: Path, *, cats: int = 6, dogs: int = 6) -> Path:
    """A folder of two classes."""
    for label, count in (("cat", cats), ("dog", dogs)):
        (root / label).mkdir(parents=True)
        for number in range(count):
            soundfile.write(root / label / f"{number}.wav", noise(number + 100 * (label == "dog")), RATE)
    return root


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return write_sounds(tmp_path / "sounds")


@pytest.fixture(scope="module")
def model(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mine"
    result = invoke("train", synthetic_folder, "--out", out, "--fold", 1, *TINY, *THREAD)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return out / "model.safetensors"


def train(data: Path, *more: object) -> tuple[object, ...]:
    return ("train", data, "--out", data.parent / "run", *TINY, *THREAD, *more)


# Data sets


@pytest.mark.parametrize("verb", ["check", "prepare", "train", "crossval", "evaluate"])
def test_a_path_that_is_not_there(tmp_path, model, verb):
    data = tmp_path / "absent"
    more = ["--out", tmp_path / "run"] if verb in ("train", "crossval") else []
    message = refused(verb, *([model] if verb == "evaluate" else []), data, *more)
    assert f"{data}: no such folder or csv file; give the data set's path" in message
    assert not (tmp_path / "run").exists()


def test_check_calls_an_error_what_train_refuses(tmp_path):
    data = write_sounds(tmp_path / "sounds", dogs=1)
    assert "2 sources are needed" in refused(*train(data))
    done = invoke("check", data)
    assert done.exit_code == 2, done.output
    assert "1 source is too few to hold one out" in " ".join(done.output.split())


def test_an_address_is_to_be_downloaded(tmp_path, model):
    message = refused("train", "https://example.org/data", "--out", tmp_path / "run")
    assert "no such folder or csv file; download what is there, and give its path" in message
    done = invoke("predict", model, "http://example.org/x.wav")
    assert done.exit_code == 1
    assert "no such file; download what is there, and give its path" in done.stdout


def test_an_empty_folder(tmp_path):
    (tmp_path / "data").mkdir()
    assert "no clips found; expected sound files such as .wav" in refused(*train(tmp_path / "data"))
    (tmp_path / "data" / "cat").mkdir()
    assert "no clips found" in refused("check", tmp_path / "data")


def test_a_flat_folder(tmp_path):
    (tmp_path / "data").mkdir()
    soundfile.write(tmp_path / "data" / "a.wav", noise(0), RATE)
    message = refused(*train(tmp_path / "data"))
    assert "1 sound but no class folders" in message
    assert "csv with the columns path,label" in message


def test_one_class(sounds):
    shutil.rmtree(sounds / "dog")
    message = refused(*train(sounds))
    assert "only one class, 'cat'" in message
    assert "at least two" in message


def test_a_class_with_fewer_clips_than_folds(tmp_path):
    data = write_sounds(tmp_path / "data", dogs=3)
    command = ("crossval", data, "--out", tmp_path / "r", *TINY)
    for refusing in (command, train(data, "--fold", 1)):
        message = refused(*refusing)
        assert "class 'dog' has 3 clips, fewer than 5 folds; use --splits 3" in message
    # The remedy works for the very verb that names it.
    assert invoke(*command, "--splits", 3).exit_code == 0


def test_folds_that_are_not_drawn_refuse_nothing(tmp_path, model):
    data = write_sounds(tmp_path / "data", dogs=2)
    assert invoke("prepare", data, *TINY).exit_code == 0
    assert invoke(*train(data)).exit_code == 0
    checked = invoke("check", data)
    assert (checked.exit_code, "folds" in checked.stderr) == (0, False)
    assert "'dog' (2): expect wide intervals, and give crossval --splits 2" in " ".join(checked.stdout.split())
    assert invoke("evaluate", tmp_path / "run" / "model.safetensors", data).exit_code == 0
    (data / "dog" / "1.wav").unlink()
    assert "class 'dog' has 1 clip; at least 2 sources are needed" in refused(*train(data))
    assert invoke("evaluate", tmp_path / "run" / "model.safetensors", data).exit_code == 0
    assert "1 source" in " ".join(invoke("check", data).stdout.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sound,label\n", ["no column 'path'", "found sound, label", "expected path, label"]),
        ("path,kind\ncat/0.wav,cat\n", ["no column 'label'", "found path, kind"]),
        ("path,label\n", ["without rows"]),
        ("path,label\ncat/0.wav,\n", ["empty path or label", "line 2"]),
        ("path,label\nabsent.wav,cat\ncat/0.wav,dog\n", ["1 of 2 files do not exist (absent.wav)"]),
        ("path,label,fold\ncat/0.wav,cat,one\n", ["fold is 'one'", "whole number"]),
        ("path,label,fold\ncat/0.wav,cat,1\ndog/0.wav,dog,1\n", ["every clip is in fold 1", "two folds"]),
        (
            "path,label,fold\ncat/0.wav,cat,1\ncat/1.wav,cat,2\ndog/0.wav,dog,2\ndog/1.wav,dog,2\n",
            ["all clips of class 'dog' are in fold 2", "move some to another fold"],
        ),
        ("path,label\ncat/0.wav,cat\ncat/0.wav,dog\n", ["all clips have the same labels, 'cat;dog'"]),
    ],
)
def test_a_csv_that_does_not_fit(sounds, text, words):
    (sounds / "clips.csv").write_text(text)
    message = refused(*train(sounds / "clips.csv"))
    assert "clips.csv" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--folds", "9"], ["--folds 9", "'9' is no fold", "its folds are 1, 2, 3, 4, 5"]),
        (["--folds", "1,x"], ["'x' is no fold"]),
        (["--folds", ""], ["'' is no fold"]),
        (["--layout", "esc5"], ["--layout esc5", "did you mean 'esc50'"]),
        (["--subset", "esc11"], ["--subset esc11", "'esc10'"]),
        (["--splits", "1"], ["--splits 1", "at least 2"]),
        (["--seeds", "0"], ["--seeds", "crossval --help"]),
    ],
)
def test_choices_that_do_not_fit_the_data(sounds, tmp_path, options, words):
    message = refused("crossval", sounds, "--out", tmp_path / "run", *TINY, *options)
    for word in words:
        assert word in message
    assert not (tmp_path / "run").exists()


def test_a_fold_that_is_not_there(sounds, model, synthetic_folder):
    message = refused(*train(sounds, "--fold", 9))
    assert "fold 9" in message
    assert "[1, 2, 3, 4, 5]" in message
    assert "[1, 2, 3, 4, 5]" in refused("evaluate", model, synthetic_folder, "--fold", 9)


# Recipes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "defalt"], ["recipe defalt", "did you mean 'default'"]),
        (["--recipe", "absent.yaml"], ["absent.yaml: no such file", "earsight recipe list"]),
        (["--set", "training.epoch=3"], ["training.epoch", "did you mean 'epochs'"]),
        (["--set", "training.epochs"], ["--set training.epochs", "section.field=value"]),
        (["--set", "training.epochs=many"], ["training.epochs", "many"]),
        (["--set", "training.optimizer=adamm"], ["training.optimizer", "adamw"]),
        (["--set", "training.epochs.x=1"], ["no such field"]),
    ],
)
def test_recipes(sounds, options, words):
    message = refused(*train(sounds, *options))
    for word in words:
        assert word in message


def test_recipe_files(sounds, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("trainin: {epochs: 3}\n")
    assert "did you mean 'training'" in refused(*train(sounds, "--recipe", mine))
    mine.write_text("extends: mine.yaml\n")
    message = refused("recipe", "show", mine)
    assert "extends itself" in message
    assert "remove one" in message
    mine.write_text("extends: [default, paper/_base, paper/bas]\n")
    assert "mine.yaml extends paper/bas: unknown; " in refused("recipe", "show", mine)
    mine.write_text("extends: {default: 1}\n")
    assert "expected the name of a recipe, or a list of names" in refused("recipe", "show", mine)
    mine.write_text("training: [\n")
    assert "not YAML" in refused("recipe", "show", mine)


# Clips


def _truncated(path: Path) -> None:
    soundfile.write(path, noise(0), RATE)
    path.write_bytes(path.read_bytes()[:-4000])


def _not_finite(path: Path) -> None:
    wave = noise(0)
    wave[100] = np.nan
    soundfile.write(path, wave, RATE, subtype="FLOAT")


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty": ("x.wav", lambda path: path.touch(), "an empty file"),
    "text": ("x.wav", lambda path: path.write_text("hello"), "a text file, not sound"),
    "PNG": ("x.wav", lambda path: path.write_bytes(PNG), "a PNG image, not sound"),
    "MP4": ("x.mp3", lambda path: path.write_bytes(MP4), "an MP4 file"),
    "truncated": ("x.wav", _truncated, "truncated"),
    "NaN": ("x.wav", _not_finite, "NaN or infinite samples"),
    "noise": ("x.wav", lambda path: path.write_bytes(bytes(range(128, 256)) * 9), "not a sound file"),
    "directory": ("x.wav", lambda path: path.mkdir(), "a directory, not a sound file"),
    "pipe": ("x.wav", os.mkfifo, "a named pipe, not a sound file"),
    "socket": ("x.wav", _socket, "a socket, not a sound file"),
    "dead link": ("x.wav", lambda path: path.symlink_to("absent.wav"), "a link to a file that does not exist"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_clip_stops_training_and_is_listed(sounds, kind, monkeypatch):
    name, write, words = BAD[kind]
    write(sounds / "cat" / name)
    monkeypatch.setattr(store, "_computer", lambda *given, **options: pytest.fail("a spectrogram was computed"))
    message = refused(*train(sounds))
    assert "1 of 13 clips cannot be read" in message
    assert f"cat/{name}: {words}" in message
    assert "--skip-bad" in message
    assert not (sounds.parent / "run").exists()


def test_many_bad_clips_are_counted_and_left_out_by_choice(sounds, model):
    for kind, (name, write, _) in BAD.items():
        write(sounds / "cat" / f"{kind} {name}")
    message = refused(*train(sounds))
    assert f"{len(BAD)} of {12 + len(BAD)} clips cannot be read" in message  # floats are decoded first, for their NaN
    assert f"and {len(BAD) - 3} more (`earsight check` lists all)" in message

    done = invoke(*train(sounds, "--skip-bad", "--json"))
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    bad = sorted(f"cat/{kind} {name}" for kind, (name, _, _) in BAD.items())
    assert sorted(summary["dataset"]["skipped"]) == bad
    assert f"left out: {len(BAD)} of {12 + len(BAD)} clips that cannot be read; 12 are used" in done.stderr
    assert f"of {12 + 2} clips 0 are cut" in done.stderr  # the cut one and the one with NaN have a length
    assert done.stderr.index("12 are used") < done.stderr.index("held out: 2 of 12 clips, by label alone")
    with np.load(sounds.parent / "run" / "fold-1" / "seed-0" / "predictions.npz", allow_pickle=False) as file:
        assert not set(file["clip"]) & set(bad)

    checked = invoke("check", sounds, "--json")
    assert checked.exit_code == 2
    findings = json.loads(checked.stdout)["findings"]
    table = sounds.parent / "sources.csv"
    written = invoke("check", sounds, "--no-near", "--sources", table)
    assert f"without {len(BAD)} clips that cannot be read" in written.stdout
    assert not any(name in table.read_text() for name in bad)
    assert sorted(f["clips"][0] for f in findings if f["kind"] == "unreadable") == bad

    predicted = invoke("predict", model, sounds, *THREAD, "--json")
    assert predicted.exit_code == 1
    rows = [json.loads(line) for line in predicted.stdout.splitlines()]
    # A directory named like a sound is looked into, not predicted.
    files = [str(p) for p in sorted(sounds.rglob("*")) if p.suffix in (".wav", ".mp3") and not p.is_dir()]
    assert [row["path"] for row in rows] == files
    assert sum("error" in row for row in rows) == len(BAD) - 1


def test_crossval_counts_the_clips_that_it_uses(sounds):
    for kind, (name, write, _) in BAD.items():
        write(sounds / "cat" / f"{kind} {name}")
    words = train(sounds, "--skip-bad", "--json", "--splits", 2)
    done = invoke("crossval", *words[1:])
    assert done.exit_code == 0, done.stderr
    assert len(json.loads(done.stdout)["dataset"]["skipped"]) == len(BAD)
    said = " ".join(done.stderr.split())
    assert f"left out: {len(BAD)} of {12 + len(BAD)} clips that cannot be read; 12 are used" in said
    # What is held out is said of the clips that are used, and after they are known.
    assert said.index("12 are used") < said.index("groups: no sources are known")


def test_a_class_of_which_nothing_is_left(sounds):
    for path in (sounds / "dog").iterdir():
        path.write_text("hello")
    message = refused(*train(sounds, "--skip-bad"))
    assert "class dog: not one of its clips can be read" in message
    assert "earsight check" in message


def test_an_extension_that_lies_is_no_fault(sounds, model):
    soundfile.write(sounds / "cat" / "flac.wav", noise(50), RATE, format="FLAC")
    soundfile.write(sounds / "dog" / "wav.mp3", noise(51), RATE, format="WAV")
    soundfile.write(sounds / "dog" / "ogg.aiff", noise(52), RATE, format="OGG")
    assert invoke("check", sounds).exit_code == 0
    assert invoke(*train(sounds)).exit_code == 0
    done = invoke("predict", model, sounds / "cat" / "flac.wav", sounds / "dog" / "wav.mp3", *THREAD)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 2


def test_odd_but_readable_clips_are_reported_and_trained_on(sounds):
    waves = {
        **{"silent": np.zeros(RATE // 2), "constant": np.full(RATE // 2, 0.25)},
        **{"clipped": np.sign(noise(9)), "short": noise(8, 0.05), "copy": noise(0)},
    }
    for name, wave in waves.items():
        soundfile.write(sounds / "cat" / f"{name}.wav", wave, RATE, subtype="FLOAT" if name != "copy" else "PCM_16")
    done = invoke("check", sounds, "--json")
    assert done.exit_code == 0
    found = {finding["kind"]: finding["clips"] for finding in json.loads(done.stdout)["findings"]}
    for kind in ("silent", "constant", "clipped", "short"):
        assert f"cat/{kind}.wav" in found[kind]
    assert found["duplicate"] == ["cat/0.wav", "cat/copy.wav"]
    text = invoke("check", sounds)
    assert text.exit_code == 0
    assert "warning: silent: 1 clip silent" in text.stdout
    assert "17 clips checked: 0 errors" in text.stdout
    trained = invoke(*train(sounds, "--json"))
    assert trained.exit_code == 0, trained.stderr
    assert json.loads(trained.stdout)["dataset"]["skipped"] == []


def test_one_bad_file_among_many_is_a_row(model, synthetic, tmp_path):
    (tmp_path / "bad.wav").write_text("hello")
    good = [synthetic.file(row) for row in range(0, 100, 5)]
    files = [*good[:9], tmp_path / "bad.wav", *good[9:], tmp_path / "absent.wav"]
    done = invoke("predict", model, *files, *THREAD, "--csv")
    assert done.exit_code == 1
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert [row["error"] != "" for row in rows] == [file.parent == tmp_path for file in files]
    assert all(row["label"] for row in rows if not row["error"])
    assert "a text file" in rows[9]["error"]
    assert "no such file" in rows[-1]["error"]
    assert "2 of the files could not be read" in done.stderr


def test_a_folder_named_like_a_sound_spoils_no_other_argument(model, synthetic, tmp_path):
    (tmp_path / "x.wav").mkdir()
    files = [synthetic.file(0), tmp_path / "x.wav", synthetic.file(1)]
    done = invoke("predict", model, *files, *THREAD, "--json")
    assert done.exit_code == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert ["a directory" in row.get("error", "") for row in rows] == [False, True, False]


def test_damaged_files_are_used_where_the_user_says_so(model, synthetic, tmp_path):
    wave, rate = soundfile.read(synthetic.file(0))
    for name, seconds in (("short.flac", 2), ("long.flac", 9)):
        path = tmp_path / name
        soundfile.write(path, np.resize(wave, seconds * rate) + 1e-3, rate)
        content = bytearray(path.read_bytes())
        content[int(0.7 * len(content))] ^= 0x55
        path.write_bytes(content)
    short = (tmp_path / "short.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(short[: len(short) // 3])
    (tmp_path / "none.wav").write_bytes(b"RIFF")
    files = [tmp_path / "short.flac", synthetic.file(1), tmp_path / "long.flac", tmp_path / "cut.flac"]
    refused = invoke("predict", model, *files, *THREAD, "--json")
    assert refused.exit_code == 1
    assert ["damage" in row.get("error", "") or "truncated" in row.get("error", "") for row in _rows(refused)] == [
        *(True, False, True, True)
    ]
    done = invoke("predict", model, *files, *THREAD, "--json", "--allow-damaged")
    assert done.exit_code == 0
    short, whole, long, cut = _rows(done)
    assert 1.2 < short["read_seconds"] < 1.6
    assert 5.8 < long["read_seconds"] < 6.8
    assert "damaged at 1." in short["damage"]
    assert "truncated" in cut["damage"]
    assert cut["read_seconds"] < 0.7
    assert "read_seconds" not in whole
    assert all(row["classes"] for row in (short, whole, long, cut))
    assert "3 files damaged or cut" in done.stderr
    table = invoke("predict", model, *files, *THREAD, "--csv", "--allow-damaged")
    rows = list(csv.DictReader(io.StringIO(table.stdout)))
    assert [row["read_seconds"] != "" for row in rows] == [True, False, True, True]
    assert "s that are whole: damaged at" in invoke("predict", model, files[0], *THREAD, "--allow-damaged").stdout
    nothing = invoke("predict", model, tmp_path / "none.wav", *THREAD, "--json", "--allow-damaged")
    assert nothing.exit_code == 1
    assert _rows(nothing)[0]["error"]
    assert "--hop uses what is whole" in invoke("predict", model, files[0], "--hop", 1, "--allow-damaged").stderr


def test_evaluate_and_explain_take_what_is_whole_where_the_user_says_so(model, synthetic, tmp_path):
    (tmp_path / "a").mkdir()
    label, wave_of = synthetic.clips[0].label, soundfile.read(synthetic.file(0))
    (tmp_path / "a" / label).mkdir()
    soundfile.write(tmp_path / "a" / label / "whole.flac", *wave_of)
    content = bytearray((tmp_path / "a" / label / "whole.flac").read_bytes())
    content[int(0.7 * len(content))] ^= 0x55
    damaged = tmp_path / "a" / label / "damaged.flac"
    damaged.write_bytes(content)
    assert "1 of 2 clips cannot be read" in invoke("evaluate", model, tmp_path / "a", *THREAD).stderr
    skipped = json.loads(invoke("evaluate", model, tmp_path / "a", *THREAD, "--skip-bad", "--json").stdout)
    assert (skipped["clips"], len(skipped["skipped"]), "damaged" in skipped) == (1, 1, False)
    done = invoke("evaluate", model, tmp_path / "a", *THREAD, "--allow-damaged", "--json")
    used = json.loads(done.stdout)
    assert (used["clips"], used["skipped"]) == (2, [])
    assert "damaged.flac: damaged at " in used["damaged"][0]
    assert "1 damaged clip." in invoke("evaluate", model, tmp_path / "a", *THREAD, "--allow-damaged").stdout
    how = ("--out", tmp_path / "out", "--no-curves", "--threads", 1)
    assert invoke("explain", model, damaged, *how).exit_code == 1  # a file without an explanation, as the help says
    explained = json.loads(invoke("explain", model, damaged, *how, "--allow-damaged", "--json").stdout)
    (found,) = explained["explanations"]
    assert "damaged at" in found["damage"]
    assert 0 < found["read_seconds"] < len(wave_of[0]) / wave_of[1]
    assert "s that are whole: damaged at" in invoke("explain", model, damaged, *how, "--allow-damaged").stdout


def _rows(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


# Model files, weights, backbones, devices


def _other_version(path: Path, good: Path) -> None:
    with safe_open(good, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    content = json.loads(metadata["earsight"])
    content["format_version"] = 99
    safetensors.torch.save_file(tensors, path, metadata={"earsight": json.dumps(content)})


MODELS: dict[str, tuple[Callable[[Path, Path], object], list[str]]] = {
    "missing": (lambda path, good: None, ["no such file"]),
    "directory": (lambda path, good: path.mkdir(), ["is a directory"]),
    "pipe": (lambda path, good: os.mkfifo(path), ["is a pipe"]),
    "empty": (lambda path, good: path.touch(), ["is empty"]),
    "text": (lambda path, good: path.write_text("hello there"), ["not a safetensors file"]),
    "truncated": (lambda path, good: path.write_bytes(good.read_bytes()[:-1000]), ["truncated or damaged", "again"]),
    "head alone": (lambda path, good: path.write_bytes(good.read_bytes()[:100]), ["truncated or damaged"]),
    "pickle": (lambda path, good: path.write_bytes(pickle.dumps({"a": 1})), ["is a pickle", "can run code"]),
    "torch": (lambda path, good: torch.save({"a": torch.zeros(1)}, path), ["is a pickle", "can run code"]),
    "weights alone": (
        lambda path, good: safetensors.torch.save_file({"a": torch.zeros(1)}, path),
        ["holds weights only", "--set backbone.weights="],
    ),
    "other version": (_other_version, ["format version 99", "reads 1", "upgrade earsight"]),
}


@pytest.mark.parametrize("kind", MODELS)
def test_model_files(model, synthetic_folder, tmp_path, kind):
    write, words = MODELS[kind]
    path = tmp_path / "m.safetensors"
    write(path, model)
    for verb in ("predict", "evaluate"):
        message = refused(verb, path, synthetic_folder)
        assert str(path) in message
        for word in words:
            assert word in message


def test_backbones_and_weights(sounds, tmp_path):
    def message(*settings: str) -> str:
        return refused(*train(sounds, *(part for setting in settings for part in ("--set", setting))))

    assert "did you mean 'resnet18'" in message("backbone.name=resnet_18")
    found = message(f"backbone.weights={tmp_path / 'absent.pth'}")
    assert f"{tmp_path / 'absent.pth'}: no such file" in found
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(print))
    assert "could run code" in message(f"backbone.weights={tmp_path / 'bad.pth'}")
    # Nothing was trained, so that the same run folder is still free for the recipe as it was meant.
    assert invoke(*train(sounds)).exit_code == 0


def test_weights_without_a_network(sounds, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("reached for the network"))
    message = refused(*train(sounds, "--set", "backbone.name=resnet18", "--set", "backbone.weights=imagenet"))
    assert len(message.strip().splitlines()) == 1
    for words in ("resnet18: its ImageNet weights", "backbone.weights=FILE", "backbone.weights=none"):
        assert words in message


@pytest.mark.parametrize("name", ["cuda", "cuda:99", "gpu"])
def test_a_device_that_is_not_there(sounds, model, synthetic, name):
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    for command in (train(sounds, "--device", name), ("predict", model, synthetic.file(0), "--device", name)):
        message = refused(*command)
        assert f"device {name}: not available here" in message
        assert "use auto or cpu" in message
    assert pick_device("cpu").type == "cpu"


# The command itself


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["predict", "m", "x.wav", "--top", 0], ["--top", "predict --help"]),
        (["predict", "m"], ["Missing argument", "predict --help"]),
        (["train", "data"], ["--out", "train --help"]),
        (["train", "data", "--out", "x", "--seed", -1], ["--seed"]),
        (["train", "data", "--out", "x", "--fold", "one"], ["--fold", "integer"]),
        (["train", "data", "--out", "x", "--threads", 0], ["--threads"]),
        (["crosval", "data"], ["No such command 'crosval'", "--help"]),
        (["predict", "m", "x", "--topp", 3], ["--topp"]),
        (["--bogus"], ["--bogus"]),
        (["recipe", "shw"], ["shw", "recipe --help"]),
        (["download", "esc51", "x"], ["esc51", "known: esc50, weights"]),
    ],
)
def test_the_command_itself(args, words):
    message = refused(*args)
    for word in words:
        assert word in message


def test_no_arguments_show_the_help():
    for args, verb in (([], "crossval"), (["recipe"], "show")):
        result = invoke(*args)
        assert "Usage:" in result.stdout + result.stderr
        assert f"\n  {verb} " in result.stdout + result.stderr
        assert "earsight: " not in result.stderr


# Run folders


@pytest.mark.parametrize("place", ["taken", "taken/below"])
def test_an_output_that_cannot_be_written(sounds, tmp_path, place):
    (tmp_path / "taken").write_text("mine")
    for verb in ("train", "crossval"):
        message = refused(verb, sounds, "--out", tmp_path / place, *TINY, *THREAD)
        assert f"{tmp_path / place}: cannot be written" in message
        assert "--out" in message
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_cache_that_cannot_be_written(sounds, tmp_path):
    (tmp_path / "taken").write_text("mine")
    message = refused("prepare", sounds, *TINY, "--cache", tmp_path / "taken")
    assert "--cache" in message


def test_summary_of_what_is_no_run(tmp_path):
    message = refused("summary", tmp_path / "absent")
    assert "no such run folder" in message
    assert "earsight crossval" in message
    assert "no finished trial" in refused("summary", tmp_path)


def test_a_folder_without_sounds_to_predict(model, tmp_path):
    (tmp_path / "notes.txt").touch()
    message = refused("predict", model, tmp_path)
    assert "no audio file below this folder" in message


@pytest.mark.parametrize(
    ("option", "field"),
    [("--epochs", "training.epochs"), ("--lr", "training.learning_rate"), ("--batch-size", "training.batch_size")],
)
def test_options_that_are_fields_of_the_recipe_are_named_so(option, field):
    for verb in ("train", "crossval"):
        assert f"No such option: {option}; it is a field of the recipe: --set {field}=...;" in refused(
            verb, "x", option, 5
        )
    assert "field" not in refused("predict", "x", "y", option, 5)  # which takes no recipe
