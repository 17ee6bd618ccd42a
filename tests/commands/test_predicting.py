"""What predict and evaluate say of the sound that does not reach the network."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from earsight.cli import app
from earsight.commands import predicting
from earsight.errors import DataError, SoundWarning
from earsight.inference import journal
from earsight.inference.classifier import load_classifier
from earsight.models.backbones import build
from earsight.models.card import ModelCard
from earsight.models.modelfile import save
from earsight.recipe import load_recipe
from test_cli import invoke

RATE = 8000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learnt nothing, of two classes, for one second at 8000 Hz."""
    recipe = load_recipe(
        overrides=["backbone.name=test_resnet", "backbone.weights=none", "features.bands=32", "features.frames=32"]
    )
    card = ModelCard(
        classes=("high", "low"),
        recipe=recipe.resolve(sample_rate_hz=RATE, clip_seconds=1.0, frames=32),
        mean=(-6.0, -6.0, -6.0),
        std=(3.0, 3.0, 3.0),
        trained_on={"dataset": "nothing"},
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save(
        path,
        state=build("test_resnet", classes=2, weights="none", seed=1).state_dict(),
        card=card,
    )
    return path


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes of one file each, in stereo: of 30 s, whose channels cancel at first partly and then wholly; and at 48
    kHz, of which the model gets half."""
    folder = tmp_path_factory.mktemp("sounds")
    for label in ("high", "low"):
        (folder / label).mkdir()
    generator = np.random.default_rng(0)
    y = generator.normal(0, 0.1, 30 * RATE)
    other = np.where(np.arange(len(y)) < len(y) / 2, -0.5, -1) * y
    soundfile.write(folder / "low" / "long.wav", np.stack([y, other], axis=1), RATE, subtype="FLOAT")
    seconds = np.arange(48000) / 48000
    call = 0.1 * np.sin(2 * np.pi * 10000 * seconds) + 0.1 * np.sin(2 * np.pi * 1500 * seconds)
    soundfile.write(folder / "high" / "call.wav", np.stack([call, call], axis=1), 48000, subtype="FLOAT")
    return folder


@pytest.mark.parametrize("ask", [("predict",), ("predict", "--hop", 1), ("evaluate",)])
def test_what_is_left_out_is_said_once_and_of_the_whole_file(model, sounds, ask):
    verb, *more = ask
    where = [sounds] if verb == "evaluate" else sorted(sounds.rglob("*.wav"))
    told = invoke(verb, model, *where, *more).stderr.replace("\n", " ")
    call = (
        "note: 1 sound with up to 50 % of a moment's energy above 4000 Hz (around 10000 Hz), which a rate of 8000 Hz "
        "leaves out: the network gets nothing of it; features.sample_rate_hz and features.fmax_hz choose "
        f"({sounds / 'high' / 'call.wav'})"
    )
    cancelled = (
        "note: 1 sound whose channels cancel each other: averaging them loses up to 100 % of their energy in a "
        "window; "
        f"features.channel chooses: left, right, a number or loudest ({sounds / 'low' / 'long.wav'})"
    )
    told = re.sub(" +", " ", told)
    assert (told.count(call), told.count(cancelled), told.count("note: ")) == (1, 1, 2), told


def test_rows_say_what_is_left_out(model, sounds, tmp_path):
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    soundfile.write(tmp_path / "whole.wav", np.stack([tone, tone], axis=1), RATE)
    paths = [sounds / "high" / "call.wav", sounds / "low" / "long.wav", tmp_path / "whole.wav"]
    call, cancelled, whole = (
        json.loads(line) for line in invoke("predict", model, *paths, "--json").stdout.split("\n")[:3]
    )
    assert call["left_out"] == {"above": pytest.approx(0.5, abs=0.01), "above_hz": pytest.approx(10000, abs=50)}
    assert cancelled["left_out"] == {"cancelled": 1.0}
    assert "left_out" not in whole
    rows = [line.split("\t")[2:] for line in invoke("predict", model, *paths).stdout.splitlines()]
    assert (rows[0], rows[1][1:], rows[2]) == (
        ["50 % of a moment too high for the model"],
        ["100 % cancelled by averaging channels"],
        [],
    )
    first = json.loads(invoke("predict", model, paths[1], "--json", "--first").stdout)
    # Of y² and the like: (1 - 0.5)² of 1 + 0.25 is left by averaging.
    assert first["left_out"] == {"cancelled": 0.8}
    # Python says the same, at the caller's line, once a kind.
    classifier = load_classifier(model)
    with pytest.warns(SoundWarning, match=r"above 4000 Hz \(around 10000 Hz\).*call.wav\)") as said:
        found = [classifier.predict(paths[0]), classifier.predict(paths[0]), *classifier.predict_files(paths[:1])]
    assert len(said) == 1
    assert said[0].filename == __file__
    assert all(one.left_out == call["left_out"] for one in found)
    wave = soundfile.read(paths[1])[0]
    with pytest.warns(SoundWarning, match=r"channels cancel each other.*\(an array\)"):
        found = classifier.predict(wave.T, rate=RATE)
    assert found.left_out == cancelled["left_out"]
    assert classifier.predict(wave[:, 0], rate=RATE).left_out == {}
    assert [name for name, _ in classifier.left_out] == [str(paths[0])]


@pytest.mark.parametrize("nothing", [0.0, 0.25, -0.25])
def test_silent_windows_say_so_and_are_no_event(model, tmp_path, nothing):
    """Of 15 s of noise, five of nothing in one channel (0.25), in both, or that cancel each other (-0.25)."""
    wave = np.random.default_rng(0).normal(0, 0.1, (15 * RATE, 1))
    wave[5 * RATE : 10 * RATE] = nothing
    other = np.where(nothing < 0, -wave, wave)
    other = np.where((np.arange(len(wave)) // RATE // 5 == 1)[:, None], other, wave)
    soundfile.write(tmp_path / "gap.wav", np.hstack([wave, other]), RATE)
    ask = ("predict", model, tmp_path / "gap.wav", "--hop", 1, "--threshold", 0.01)
    windows = [json.loads(line) for line in invoke(*ask, "--rows", "windows", "--json").stdout.splitlines()]
    assert [row.get("left_out") for row in windows] == 5 * [None] + 5 * [{"silent": 1.0}] + 5 * [None]
    rows = invoke(*ask, "--rows", "windows").stdout.splitlines()
    assert [row.split("\t")[4:] for row in rows[4:6]] == [[], [SILENT]]
    header, *rows = csv.reader(invoke(*ask, "--rows", "windows", "--csv").stdout.splitlines())
    assert header[-1] == "left_out"
    assert [row[-1] for row in rows] == 5 * [""] + 5 * ["silent"] + 5 * [""]
    events = [json.loads(line) for line in invoke(*ask, "--gap", 0, "--json").stdout.splitlines()]
    assert [(row["begin_s"], row["end_s"]) for row in events] == [(0.0, 5.0), (10.0, 15.0)]
    soundfile.write(tmp_path / "gap.wav", wave[5 * RATE : 10 * RATE], RATE)
    assert json.loads(invoke(*ask, "--json").stdout)["highest"] is None


SILENT = "silent, or nearly: all samples are the same to -120 dB of full scale"


@pytest.mark.parametrize("constant", [0.0, 0.25])
def test_every_form_says_that_a_sound_is_silent(model, tmp_path, constant):
    nearly = constant + 5e-7 * np.sin(np.arange(3 * RATE))  # as noise of the last bit of 24
    soundfile.write(tmp_path / "flat.wav", nearly, RATE, subtype="PCM_24")
    for form in ((), ("--json",), ("--csv",), ("--csv", "--first"), ("--hop", 1)):
        done = invoke("predict", model, tmp_path / "flat.wav", *form)
        assert f"note: 1 sound {SILENT}, so that an answer says nothing of it" in " ".join(done.stderr.split())
        if not form:
            assert done.stdout.endswith(f"\t{SILENT}\n")
        if form == ("--json",):
            assert json.loads(done.stdout)["left_out"] == {"silent": 1.0}
        if "--csv" in form:
            header, row = done.stdout.splitlines()
            assert dict(zip(header.split(","), row.split(","), strict=True))["left_out"] == "silent"
    classifier = load_classifier(model)
    with pytest.warns(SoundWarning, match=SILENT):
        found = classifier.predict(np.full(3 * RATE, constant), rate=RATE)
    assert found.left_out == {"silent": 1.0}
    assert SILENT in repr(found)
    assert SILENT in found._repr_html_()


def test_an_output_of_csv_goes_on_with_the_columns_that_it_was_begun_with(model, sounds, tmp_path, monkeypatch):
    """Earlier versions had no column of what is left out."""
    ask = ("predict", model, sounds, "--csv", "--out", tmp_path / "rows.csv")
    with monkeypatch.context() as patch:
        patch.setattr(predicting, "Wanted", partial(predicting.Wanted, lost=False))
        invoke(*ask)
    header = (tmp_path / "rows.csv").read_text().splitlines()[0]
    assert header.endswith("agreement")
    assert "is whole; nothing to do" in invoke(*ask, "--resume").stderr
    assert invoke(*ask[:-2]).stdout.splitlines()[0] == f"{header},left_out"


@pytest.mark.parametrize("rate", [8, 16, 44.1, 192])
def test_a_rate_in_khz_is_refused_with_that_in_hz(model, rate):
    wave = np.random.default_rng(0).normal(0, 0.1, RATE)
    with pytest.raises(DataError, match=f"rates are in Hz: did you mean {1000 * rate:g}\\?"):
        load_classifier(model).predict(wave, rate=rate)
    with pytest.warns(SoundWarning, match="of samples at 250 kHz it is 250000"):
        load_classifier(model).predict(wave, rate=250)


def test_what_is_mistaken_for_a_sound_is_refused_or_said(model, tmp_path):
    classifier = load_classifier(model)
    wave = np.random.default_rng(0).normal(0, 0.1, RATE)
    soundfile.write(tmp_path / "x.wav", wave, RATE)
    with soundfile.SoundFile(tmp_path / "x.wav") as sound:
        for ask in (sound, sound.buffer_read(100, dtype="float32") and sound):
            with pytest.raises(DataError, match=r"whose read\(\) gives no bytes; predict takes a path"):
                classifier.predict(ask)
    expected = classifier.predict(wave, rate=RATE)
    assert classifier.predict(memoryview(wave), rate=RATE) == expected
    assert classifier.predict(memoryview((tmp_path / "x.wav").read_bytes())).label == expected.label
    samples = np.round(32767 * np.clip(wave, -1, 1)).astype(np.int32)
    with pytest.warns(SoundWarning, match="int32 within 16 bits.*give 16-bit samples as int16"):
        classifier.predict(samples, rate=RATE)
    for rate in (10**9, 1e12):
        with pytest.raises(DataError, match="expected the array's sampling rate"):
            classifier.predict(wave, rate=rate)


def test_integers_of_unknown_scale_are_refused_with_what_scales_them(model):
    classifier = load_classifier(model)
    wave = np.round(1000 * np.sin(np.arange(RATE))).astype(np.int64)
    with pytest.raises(DataError, match=r"give wave.astype\(np.float32\) / scale, with scale = 32768 for 16 bits"):
        classifier.predict(wave, rate=RATE)
    with pytest.raises(DataError, match=r"give \(wave.astype\(np.float32\) - scale\) / scale"):
        classifier.predict((wave + 32768).astype(np.uint16), rate=RATE)
    with pytest.raises(DataError, match=r"found an array bool .* expected floats with full scale at 1, or int16"):
        classifier.predict(wave > 0, rate=RATE)


def test_explain_says_what_is_left_out(model, sounds, tmp_path):
    told = invoke("explain", model, sounds / "high" / "call.wav", "--out", tmp_path, "--no-curves").stderr
    assert "note: 1 sound with up to 50 % of a moment's energy above 4000 Hz" in told
    ask = ("explain", model, sounds / "high" / "call.wav", "--out", tmp_path, "--no-curves", "--json")
    (row,) = json.loads(invoke(*ask).stdout)["explanations"]
    assert row["left_out"] == {"above": pytest.approx(0.5, abs=0.01), "above_hz": pytest.approx(10000, abs=50)}
    with pytest.warns(SoundWarning, match="above 4000 Hz"):
        load_classifier(model).explain(sounds / "high" / "call.wav", curves=False)


def test_nothing_is_said_of_what_is_heard_whole(model, tmp_path):
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, tone], axis=1), RATE)
    assert "note:" not in invoke("predict", model, tmp_path / "a.wav").stderr


@pytest.mark.parametrize(
    ("name", "form"), [("a.csv", "csv"), ("a.JSONL", "jsonl"), ("a.json", "jsonl"), ("a.txt", "text")]
)
def test_rows_have_the_format_that_the_files_ending_names(model, sounds, tmp_path, name, form):
    ask = ("predict", model, sounds, "--out")
    invoke(*ask, tmp_path / name)
    invoke(*ask, tmp_path / "wanted.out", "--format", form)
    assert (tmp_path / name).read_text() == (tmp_path / "wanted.out").read_text()
    invoke(*ask, tmp_path / f"b{name}", "--format", "text")
    assert (tmp_path / f"b{name}").read_text().count("\t") >= 3


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """A folder of five sounds whose files have one size."""
    generator = np.random.default_rng(0)
    (tmp_path / "five").mkdir()
    for name in "abcde":
        soundfile.write(tmp_path / "five" / f"{name}.wav", generator.normal(0, 0.1, 2 * RATE), RATE)
    return tmp_path / "five"


class _KilledError(Exception):
    pass


@pytest.fixture(params=["clips", "recordings"])
def begun(request, model, five, tmp_path, monkeypatch):
    """A command whose rows of three sounds are written; and one that finished. All rows are those of the five."""
    hop = ("--hop", 0.5, "--rows", "windows") if request.param == "recordings" else ()
    finished = ("predict", model, five, "--csv", *hop, "--out", tmp_path / "finished.csv")
    killed = (*finished[:-1], tmp_path / "killed.csv")
    commit = journal.FileOutput.commit

    def stop(self, place, *, now=False):
        commit(self, place, now=True)
        if place["done"] == 3:
            raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(predicting, "CLIPS", 1)
        patch.setattr(journal.FileOutput, "commit", stop)
        assert isinstance(CliRunner().invoke(app, list(map(str, killed))).exception, _KilledError)
    invoke(*finished)
    return killed, finished


def test_a_resumed_output_has_the_rows_of_one_left_alone(begun, caplog):
    killed, finished = begun
    invoke(*killed, "--resume")
    assert Path(killed[-1]).read_bytes() == Path(finished[-1]).read_bytes()
    assert "is whole; nothing to do" in invoke(*finished, "--resume").stderr
    assert not caplog.text


@pytest.mark.parametrize("change", ["exchanged", "in place", "removed", "renamed", "added before", "added behind"])
def test_a_resumed_output_is_not_gone_on_with_over_other_sounds(begun, five, change, caplog):
    """Names that are done are compared; files of another size or time are reported, for the rows may not be theirs."""
    if change == "exchanged":
        os.utime(five / "a.wav", ns=(0, 0))
    elif change == "in place":
        status = (five / "a.wav").stat()
        (five / "a.wav").write_bytes((five / "b.wav").read_bytes())
        os.utime(five / "a.wav", ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "removed":
        (five / "b.wav").unlink()
    elif change == "renamed":
        (five / "a.wav").rename(five / "aa.wav")
    else:
        shutil.copy(five / "a.wav", five / ("0.wav" if change == "added before" else "f.wav"))
    killed, finished = begun
    for ask, rows in (killed, 3), (finished, 5):
        what = "recordings" if "--hop" in ask else "sounds"
        if change in ("exchanged", "in place"):
            invoke(*ask, "--resume")
            assert f"of the {rows} {what} whose rows it holds, files have another size, time or place" in caplog.text
        elif change == "added behind" and rows == 3:
            invoke(*ask, "--resume")
            assert len({line.split(",")[0] for line in Path(ask[-1]).read_text().splitlines()[1:]}) == 6
        else:
            shown = " ".join(invoke(*ask, "--resume", code=2).stderr.split())
            assert ("and 1 more are given now" if change == "added behind" else "not the first of those") in shown
