"""The verbs, as a user runs them: what they write, what they print, and how they go on."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors import safe_open
from typer.testing import CliRunner, Result

from earsight.cli import app
from earsight.commands import predicting
from earsight.evaluation.summary import read_predictions
from earsight.inference.model import Model
from earsight.recipe import list_recipes, load_recipe, parse_recipe

TINY = [
    *("--set", "backbone.name=test_resnet", "--set", "backbone.weights=none", "--set", "training.epochs=1"),
    *("--set", "features.bands=32", "--set", "features.frames=32", "--set", "augment.pitch_semitones=0"),
]
THREAD = ["--threads", "1"]


def invoke(*args: object, code: int = 0, **kwargs: str) -> Result:
    """Run a verb in this process and check its exit code."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], **kwargs)
    assert result.exit_code == code, f"{result.exit_code}: {result.stderr} {result.exception!r}"
    return result


def process(*args: object, **kwargs: object) -> subprocess.Popen[bytes]:
    """Run a verb in a process of its own."""
    command = [sys.executable, "-m", "earsight", *map(os.fsencode, map(str, args))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **{**pipes, **kwargs})


@pytest.fixture(scope="module")
def run(synthetic_folder, tmp_path_factory) -> Path:
    """Run folder of `train` with fold 2 held out."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    invoke("train", synthetic_folder, "--out", folder, "--fold", 2, *TINY, *THREAD)
    return folder


@pytest.fixture(scope="module")
def model(run) -> Path:
    return run / "model.safetensors"


def test_version_and_help():
    assert invoke("--version").stdout.strip() == "0.1.0"
    text = invoke("--help").stdout
    for name in ("quickstart", "check", "prepare", "train", "crossval", "predict", "evaluate", "summary", "recipe"):
        assert f"  {name}" in text
        assert "Usage" in invoke(name, "--help").stdout


def _paths(command, *names):
    yield names
    for name, child in getattr(command, "commands", {}).items():
        yield from _paths(child, *names, name)


@pytest.mark.parametrize("names", list(_paths(typer.main.get_command(app))), ids=" ".join)
def test_short_help_is_the_help(names):
    short, long = (CliRunner().invoke(app, [*names, option]) for option in ("-h", "--help"))
    assert short.exit_code == long.exit_code == 0
    assert short.output == long.output
    assert "-h, --help" in long.output


def test_one_epoch_is_no_plural():
    assert "1 epoch;" in repr(load_recipe(overrides=["training.epochs=1"]))
    assert "2 epochs;" in repr(load_recipe(overrides=["training.epochs=2"]))


def test_the_help_of_a_verb_loads_nothing_heavy():
    code = (
        "import sys\nfrom earsight.cli import main\nsys.argv = ['earsight', 'train', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'timm', 'matplotlib', 'sklearn', 'scipy', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# prepare


def test_prepare_twice_decodes_once(synthetic_folder, tmp_path, monkeypatch):
    from earsight.data import audio

    first = json.loads(invoke("prepare", synthetic_folder, *TINY, "--cache", tmp_path, "--json").stdout)
    assert first["shape"] == [100, 1, 3, 32, 32]
    assert first["bytes"] == 2 * np.prod(first["shape"])
    assert first["skipped"] == []
    before = {path: path.stat().st_mtime_ns for path in Path(first["folder"]).iterdir()}

    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("decoded a second time")

    monkeypatch.setattr(audio, "read", refuse)
    again = invoke("prepare", synthetic_folder, *TINY, "--cache", tmp_path, "--json")
    assert json.loads(again.stdout) == first
    assert "spectrograms:" not in again.stderr
    assert {path: path.stat().st_mtime_ns for path in Path(first["folder"]).iterdir()} == before
    assert "100 clips" in invoke("prepare", synthetic_folder, *TINY, "--cache", tmp_path).stdout


# train


def test_train_leaves_what_the_contract_says(run, synthetic):
    trial = run / "fold-2" / "seed-0"
    assert sorted(path.name for path in run.iterdir()) == [
        *("calibration.json", "epochs.csv", "fold-2", "model.safetensors", "recipe.yaml", "summary.json")
    ]
    assert sorted(path.name for path in trial.iterdir()) == [
        *("DONE", "history.jsonl", "model.safetensors", "predictions.npz", "trial.json")
    ]
    assert (run / "model.safetensors").read_bytes() == (trial / "model.safetensors").read_bytes()
    recipe = parse_recipe((run / "recipe.yaml").read_text())
    summary = json.loads((run / "summary.json").read_text())
    assert recipe.training.epochs == 1
    assert recipe.features.rate == 22050, "the recipe kept is the resolved one"
    assert recipe.digest == summary["recipe_digest"]
    assert set(summary) == {
        *("accuracy", "macro_f1", "folds", "protocol", "recipe_digest", "dataset", "machine", "digest"),
        *("balanced_accuracy", "majority", "never_predicted", "groups"),
    }
    assert summary["dataset"] == {
        **{"name": "synthetic", "clips": 100, "classes": 10, "digest": synthetic.digest, "skipped": []},
        **{"options": [], "held_out": None},
    }
    assert set(summary["machine"]) == {"device", "cores", "threads", "python", "torch", "system"}
    [row] = summary["folds"]
    assert (row["fold"], row["seed"], row["clips"], row["epoch"]) == (2, 0, 20, 1)
    assert summary["accuracy"]["mean"] == row["accuracy"]
    with safe_open(run / "model.safetensors", framework="np") as file:
        assert "earsight" in file.metadata()
    with np.load(trial / "predictions.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    held_out = [clip for clip in synthetic.clips if clip.fold == 2]
    assert arrays["clip"].tolist() == [clip.path for clip in held_out]
    assert [arrays["classes"][label] for label in arrays["label"]] == [clip.label for clip in held_out]
    assert arrays["logits"].shape == (20, 10)
    assert arrays["logits"].dtype == np.float32
    assert row["accuracy"] == pytest.approx((arrays["logits"].argmax(1) == arrays["label"]).mean())
    history = [json.loads(line) for line in (trial / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [1]


def test_train_without_a_fold_holds_out_a_fifth_and_evaluate_finds_it_again(synthetic_folder, tmp_path):
    out = tmp_path / "run (1)"
    done = invoke("train", synthetic_folder, "--out", out, "--seed", 3, *TINY, *THREAD, "--json")
    summary = json.loads(done.stdout)
    written = json.loads((out / "summary.json").read_text())
    assert summary == {name: value for name, value in written.items() if name != "digest"}
    assert summary["dataset"]["held_out"] == {"kind": "drawn", "seed": 3}
    assert summary["folds"][0]["clips"] == 20
    assert "held out: 20 of 100 clips" in done.stderr
    assert f"predict '{out / 'model.safetensors'}'" in done.stderr, "a line to copy: the odd name is quoted"
    found = json.loads(invoke("evaluate", out / "model.safetensors", synthetic_folder, *THREAD, "--json").stdout)
    assert (found["clips"], found["held_out"], found["seen_in_training"]) == (20, True, False)
    assert found["accuracy"]["mean"] == pytest.approx(summary["accuracy"]["mean"])
    # Another seed holds other clips out: the two figures do not belong into one summary.
    failed = invoke("train", synthetic_folder, "--out", out, "--seed", 4, *TINY, *THREAD, code=2)
    assert "another data set or split of it" in failed.stderr
    assert json.loads((out / "summary.json").read_text()) == written


def test_a_run_folder_is_not_mixed_with_another_recipe(run, synthetic_folder):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    changed = [*TINY, "--set", "training.epochs=3"]
    for verb in (["train", "--fold", 2], ["crossval", "--folds", "1"]):
        failed = invoke(verb[0], synthetic_folder, "--out", run, *verb[1:], *changed, *THREAD, code=2)
        assert "another recipe" in failed.stderr
        assert "--out" in failed.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# crossval


def test_crossval_resumes_and_aggregates(synthetic_folder, tmp_path, monkeypatch):
    from earsight.training import trial as trials

    common = ["crossval", synthetic_folder, "--out", tmp_path / "cv", *TINY, *THREAD]
    first = json.loads(invoke(*common, "--folds", "1,3", "--seeds", 2, "--json").stdout)
    assert [(row["fold"], row["seed"]) for row in first["folds"]] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    means = [np.mean([row["accuracy"] for row in first["folds"] if row["fold"] == fold]) for fold in (1, 3)]
    assert first["accuracy"]["mean"] == pytest.approx(np.mean(means))
    assert first["accuracy"]["std"] == pytest.approx(np.std(means, ddof=1))
    assert first["ensemble"]["members"] == 2

    fitted = []
    plain = trials.fit
    monkeypatch.setattr(trials, "fit", lambda *args, **kwargs: fitted.append(kwargs["seed"]) or plain(*args, **kwargs))
    again = invoke(*common, "--folds", "1,3", "--seeds", 2, "--json")
    assert fitted == []
    assert json.loads(again.stdout) == first
    assert again.stderr.count("done before") == 4
    shutil.rmtree(tmp_path / "cv" / "fold-3" / "seed-1")
    assert json.loads(invoke(*common, "--folds", "1,3", "--seeds", 2, "--json").stdout)["accuracy"] == first["accuracy"]
    assert fitted == [1]

    every = invoke(*common)
    assert fitted == [1, 0, 0, 0]
    for words in ("mean", "95 % interval", "Protocol last", "chance is 10.0 %"):
        assert words in every.stdout


# summary


def test_summary_made_anew_has_the_same_bytes(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    before = (copy / "summary.json").read_bytes()
    (copy / "summary.json").unlink()
    printed = json.loads(invoke("summary", copy, "--json").stdout)
    after = (copy / "summary.json").read_bytes()
    written = json.loads(after)
    assert len(written.pop("digest")) == 16  # of the file
    assert written == printed
    assert after == before
    assert "accuracy" in invoke("summary", copy).stdout


# evaluate


def test_evaluate_says_what_it_measured(model, run, synthetic_folder):
    found = json.loads(invoke("evaluate", model, synthetic_folder, *THREAD, "--json").stdout)
    stored = read_predictions(run / "fold-2" / "seed-0" / "predictions.npz")
    assert (found["fold"], found["clips"], found["seen_in_training"]) == (2, 20, False)
    assert found["accuracy"]["mean"] == pytest.approx(stored.correct.mean())
    text = invoke("evaluate", model, synthetic_folder, *THREAD).stdout
    assert "of fold 2, held out in training" in text
    assert "trained on some of these clips" not in text
    text = invoke("evaluate", model, synthetic_folder, "--fold", 1, *THREAD).stdout
    assert "trained on some of these clips" in text


# recipe


def test_recipes_are_listed_and_shown():
    lines = [line.rstrip() for line in invoke("recipe", "list").stdout.splitlines()[2:] if line.strip()]
    names = [line.split()[0] for line in lines]
    assert names == list_recipes()
    for name in names:
        assert parse_recipe(invoke("recipe", "show", name).stdout) == load_recipe(name)
    listed = json.loads(invoke("recipe", "list", "--json").stdout)
    assert [entry["name"] for entry in listed] == names
    assert all(line.endswith(f"   {entry['about']}") for line, entry in zip(lines, listed, strict=True))
    changed = invoke("recipe", "show", "--set", "training.epochs=3", "--set", "augment.mixup=0").stdout
    assert parse_recipe(changed) == load_recipe(overrides=["training.epochs=3", "augment.mixup=0"])


def test_a_recipe_is_shown_under_its_notes_and_those_of_what_it_extends():
    shown = invoke("recipe", "show", "paper/urbansound8k-resnet50-random").stdout.splitlines()
    notes = [line for line in shown if line.startswith("#")]
    assert shown[: len(notes)] == notes
    assert notes[0].startswith("# earsight crossval path/to/UrbanSound8K --recipe paper/urbansound8k-resnet50-random")
    assert [line for line in notes if line.startswith("# -- ")] == [
        f"# -- paper/_{part}" for part in ("random", "resnet50", "urbansound8k", "base")
    ]


def test_a_recipe_shown_is_a_recipe_to_use(tmp_path):
    shown = invoke("recipe", "show", "--set", "training.epochs=3").stdout
    (tmp_path / "mine.yaml").write_text(shown)
    (tmp_path / "longer.yaml").write_text("extends: mine.yaml\ntraining: {epochs: 5}\n")
    recipe = parse_recipe(invoke("recipe", "show", tmp_path / "longer.yaml").stdout)
    assert (recipe.name, recipe.training.epochs) == ("longer", 5)


# check


def test_check(synthetic_folder):
    done = invoke("check", synthetic_folder)
    assert "100 clips checked: 0 errors" in done.stdout
    report = json.loads(invoke("check", synthetic_folder, "--json").stdout)
    assert (report["clips"], report["errors"]) == (100, 0)


# predict


@pytest.fixture(scope="module")
def sounds(synthetic, tmp_path_factory) -> Path:
    """Sounds with odd names, two of them bad."""
    folder = tmp_path_factory.mktemp("new sounds")
    names = ["a b (1).wav", "-dash.wav", "größe \N{SNOWMAN}.WAV", "semi;colon,'q'.wav", "sub dir/x.y.wav"]
    (folder / "sub dir").mkdir()
    for row, name in enumerate(names):
        shutil.copy(synthetic.file(10 * row), folder / name)
    (folder / "bad, text.wav").write_text("hello")
    (folder / "empty.wav").touch()
    return folder


def _names(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file()]


def test_predict_in_three_forms(model, sounds):
    files = _names(sounds)
    bad = {str(sounds / "bad, text.wav"), str(sounds / "empty.wav")}
    lines = invoke("predict", model, sounds, *THREAD, "--json", "--top", 3, code=1).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["path"] for row in rows] == files
    assert {row["path"] for row in rows if "error" in row} == bad
    for row in rows:
        assert len(row["classes"]) == (0 if row["path"] in bad else 3)
    table = list(csv.DictReader(io.StringIO(invoke("predict", model, sounds, *THREAD, "--csv", code=1).stdout)))
    assert [row["path"] for row in table] == files
    assert {row["path"] for row in table if row["error"]} == bad
    text = invoke("predict", model, sounds, *THREAD, code=1)
    assert [line.split("\t")[0] for line in text.stdout.splitlines()] == files
    assert {line.split("\t")[0] for line in text.stdout.splitlines() if "\terror: " in line} == bad
    assert "2 of the files could not be read" in text.stderr
    for row, entry in zip(rows, table, strict=True):
        assert entry["label"] == next(iter(row["classes"]), "")


@pytest.mark.parametrize(("files", "asked"), [(3, 0), (4, 1)])
def test_predict_asks_for_kernels_where_there_are_many_files(model, synthetic, monkeypatch, files, asked):
    calls = []
    real = Model.use_kernels
    monkeypatch.setattr(Model, "use_kernels", lambda self: calls.append(real(self)))
    monkeypatch.setattr(predicting, "MANY_CLIPS", 4)
    names = [synthetic.file(row) for row in range(files)]
    rows = [json.loads(line) for line in invoke("predict", model, *names, *THREAD, "--json").stdout.splitlines()]
    invoke("predict", model, *names, *THREAD, "--hop", 0.5)
    assert len(calls) == asked
    assert [row["path"] for row in rows] == [str(name) for name in names]


@pytest.mark.parametrize(("bytes_of_much", "asked"), [(1, 1), (10**9, 0)])
def test_predict_asks_for_kernels_where_recordings_are_long(model, synthetic, monkeypatch, bytes_of_much, asked):
    calls = []
    real = Model.use_kernels
    monkeypatch.setattr(Model, "use_kernels", lambda self: calls.append(real(self)))
    monkeypatch.setattr(predicting, "MANY_BYTES", bytes_of_much)
    names, hop = [synthetic.file(row) for row in range(2)], ("--hop", 0.5, "--json", "--rows", "windows")
    rows = [json.loads(line) for line in invoke("predict", model, *names, *THREAD, *hop).stdout.splitlines()]
    assert len(calls) == asked
    shares = [list(row["classes"].values()) for row in rows]
    monkeypatch.setattr(predicting, "MANY_BYTES", 10**9)
    plain = [json.loads(line) for line in invoke("predict", model, *names, *THREAD, *hop).stdout.splitlines()]
    np.testing.assert_allclose(shares, [list(row["classes"].values()) for row in plain], atol=1e-4)


def test_precision_is_a_choice_where_the_processor_has_it(model, synthetic, tmp_path, monkeypatch):
    name, out = synthetic.file(0), tmp_path / "labels.csv"
    monkeypatch.setattr("earsight.inference.model.why_not_reduced", lambda: None)
    taken = []
    monkeypatch.setattr(
        "earsight.inference.model.with_compiled",
        lambda network, *, spectrogram, reduced: taken.append(reduced) or network,
    )
    invoke("predict", model, name, *THREAD, "--csv", "--out", out, "--precision", "bfloat16")
    assert taken == [True]
    done = invoke("predict", model, name, *THREAD, "--csv", "--out", out, "--resume", code=2)
    assert "precision" in done.stderr, "rows of another precision would follow"
    monkeypatch.setattr("earsight.inference.model.why_not_reduced", lambda: "this processor is too old")
    done = invoke("predict", model, name, *THREAD, "--precision", "bfloat16", code=2)
    assert "bfloat16 cannot be had: this processor is too old; leave the precision at float32" in done.stderr
    done = invoke("predict", model, name, *THREAD, "--precision", "bfloat16", "--on", "ray", code=2)
    assert "leave --on out" in done.stderr


def test_predict_takes_files_folders_and_names_on_standard_input(model, sounds):
    first, second = sounds / "a b (1).wav", sounds / "größe \N{SNOWMAN}.WAV"
    done = invoke("predict", model, second, "-", sounds / "sub dir", *THREAD, "--json", input=f"{first}\n\n{second}\n")
    paths = [json.loads(line)["path"] for line in done.stdout.splitlines()]
    assert paths == [str(second), str(first), str(second), str(sounds / "sub dir" / "x.y.wav")]


def test_predict_a_name_with_a_leading_dash(model, sounds, monkeypatch):
    monkeypatch.chdir(sounds)
    done = invoke("predict", *THREAD, "--json", model, "--", "-dash.wav")
    assert json.loads(done.stdout)["path"] == "-dash.wav"


def test_predict_more_classes_than_there_are(model, synthetic):
    done = invoke("predict", model, synthetic.file(0), "--top", 99, *THREAD, "--json")
    assert len(json.loads(done.stdout)["classes"]) == 10


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_names_that_are_not_utf8_survive(model, synthetic, tmp_path, form):
    name = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    shutil.copy(synthetic.file(0), name)
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = process("predict", model, "-", os.fsdecode(name), *THREAD, form, env=strict)
    out, err = done.communicate(name + b"\n", timeout=120)
    assert done.returncode == 0, err.decode(errors="replace")
    if form == "--json":
        rows = [json.loads(line) for line in out.decode("utf-8").splitlines()]
        assert [os.fsencode(row["path"]) for row in rows] == [name, name]
    else:
        assert out.count(name) == 2


def test_a_reader_that_leaves_early_is_no_error(model, synthetic_folder):
    reader = process("predict", model, *[synthetic_folder] * 30, *THREAD, stdin=subprocess.DEVNULL)
    assert reader.stdout is not None
    assert reader.stderr is not None
    assert b"1-1000-A-0.wav" in reader.stdout.readline()
    reader.stdout.close()
    said = reader.stderr.read().decode()
    reader.wait(timeout=120)
    assert reader.returncode in (1, -signal.SIGPIPE)
    assert said == ""


# Ctrl-C


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(synthetic_folder, tmp_path):
    epochs = 150
    settings = [*TINY, "--set", f"training.epochs={epochs}", "--set", "training.batch_size=80"]
    common = ["--folds", "1", *settings, *THREAD]
    # As the command line, with a checkpoint at every epoch rather than every five seconds.
    code = (
        "import signal\nimport earsight.training.loop as loop\nfrom earsight.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored\n"
        "loop.CHECKPOINT_SECONDS = 0\nmain()"
    )
    command = [sys.executable, "-c", code, "crossval", synthetic_folder, "--out", tmp_path / "cv", *common]
    stopped = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    trial = tmp_path / "cv" / "fold-1" / "seed-0"
    deadline = time.monotonic() + 120
    history = trial / "history.jsonl"
    while not (history.is_file() and history.read_text().count("\n") > 5) and time.monotonic() < deadline:
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.01)
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, err.decode()
    assert out == b""
    said = [line for line in err.decode().splitlines() if line.startswith("earsight: ")]
    assert len(said) == 1
    assert "The same command goes on" in said[0]
    assert "Traceback" not in err.decode()
    assert not (trial / "DONE").exists()
    begun = history.read_text().splitlines()
    assert 5 < len(begun) < epochs

    invoke("crossval", synthetic_folder, "--out", tmp_path / "cv", *common)
    done = invoke("crossval", synthetic_folder, "--out", tmp_path / "whole", *common)
    assert f"next:  earsight report {tmp_path / 'whole'}" in done.stderr
    # The epochs before the stop, with the seconds they took, are still there: they were not run again.
    assert history.read_text().splitlines()[: len(begun) - 1] == begun[:-1]
    resumed, whole = (
        read_predictions(tmp_path / name / "fold-1" / "seed-0" / "predictions.npz").logits for name in ("cv", "whole")
    )
    assert resumed.tobytes() == whole.tobytes()
    assert not (trial / "checkpoint.safetensors").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(("status", "said"), [(0, b"the output cannot be written (No space left on device)"), (2, b"")])
def test_output_that_is_lost_at_the_end_leaves_with_a_status(status, said):
    code = f"""
import sys
from earsight import cli
def app():
    sys.stdout.write("rows that nobody has flushed")
    sys.exit({status})
cli.app = app
cli.main()
"""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=buffered, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == (b"earsight: " + said if said else b"")
