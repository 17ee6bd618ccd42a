"""The report: its figures are those that others compute from the same arrays, and it stands whatever is missing."""

from __future__ import annotations

import base64
import html.parser
import io
import itertools
import json
import re
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from report_runs import MACHINE, make_run, small_recipe
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from earsight.calibration.temperature import expected_calibration_error
from earsight.data.layouts import open_dataset
from earsight.errors import RunError
from earsight.evaluation.classes import mistakes
from earsight.evaluation.metrics import softmax
from earsight.evaluation.summary import read_run, summarize, write_summary
from earsight.reports.html import shown
from earsight.reports.report import make_report
from earsight.reports.runs import read_for_report
from earsight.reports.sections import comparison_section, holm
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial

HOSTILE = (
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "\u202egpj.exe",
    "שלום",
    "🐸 $x^2$",
    "x" * 300,
    "line\nbreak",
)


class Page(html.parser.HTMLParser):
    """A page's tables by caption, elements, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.elements, self.attributes, self.text = {}, [], [], ""
        self._rows = self._caption = self._cell = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("caption", "th", "td"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag == "caption":
            self._caption, self._cell = self._cell, None
        elif tag in ("th", "td"):
            self._rows[-1].append(self._cell.strip())
            self._cell = None
        elif tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data):
        self.text += data
        if self._cell is not None:
            self._cell += data

    def values(self, tag, name):
        return [value for found, key, value in self.attributes if (found, key) == (tag, name)]


def page_of(*runs, **more):
    made = make_report(runs, **more)
    made.text.encode("utf-8")
    return Page(made.text), made


def numbers(trials):
    labels = np.concatenate([one.labels for one in trials])
    logits = np.concatenate([one.logits for one in trials])
    return labels, logits, logits.argmax(axis=1)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_figures_are_those_computed_anew(tmp_path, seeds):
    run = make_run(tmp_path / "run", seeds=seeds, folds=(1, 2, 3))
    page, _ = page_of(run)
    trials = read_run(run)
    labels, logits, said = numbers(trials)
    matrix = confusion_matrix(labels, said)
    precision, recall, f1, answers = precision_recall_fscore_support(labels, said, zero_division=0)
    table = page.tables["Scores of each class, with 95 % intervals"]
    columns = {name: [row[place] for row in table[1:]] for place, name in enumerate(table[0])}
    assert [cell.split()[0] for cell in columns["recall % (95 %)"]] == [f"{100 * one:.1f}" for one in recall]
    assert [cell.split()[0] for cell in columns["precision % (95 %)"]] == [f"{100 * one:.1f}" for one in precision]
    assert [cell.split()[0] for cell in columns["F1 % (95 %)"]] == [f"{100 * one:.1f}" for one in f1]
    assert columns["right"] == [str(one) for one in np.diagonal(matrix)]
    assert columns["predicted"] == [str(one) for one in matrix.sum(axis=0)]
    assert columns["clips"] == [str(one // len(seeds)) for one in answers]
    confused = page.tables["What is taken for what, most often first"][1:]
    wrong = {(a, b): matrix[a, b] for a in range(3) for b in range(3) if a != b and matrix[a, b]}
    names = ["cat", "dog", "owl"]
    assert {(names.index(row[0]), names.index(row[1])): int(row[2]) for row in confused} == wrong
    summary = summarize(trials, machine={})
    low, high = summary["accuracy"]["ci95"]
    assert f"{100 * summary['accuracy']['mean']:.1f} %" in page.text
    assert f"95 % interval {100 * low:.1f} to {100 * high:.1f} %" in page.text
    folds = page.tables["Accuracy on the clips that each fold held out"]
    assert [row[3] for row in folds[1:-1]] == [f"{100 * one.correct.mean():.1f}" for one in trials]
    error = expected_calibration_error(softmax(logits), labels)
    assert f"as trained: {100 * error:.1f} %" in " ".join(page.text.split())
    cells = re.findall(r">(\d+)</text>", make_report([run]).text)
    for count in matrix[matrix > 0]:
        assert str(count) in cells


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = make_run(tmp_path / "run", root=tmp_path / "data")
    first = make_report([run], mistakes=2).text
    assert make_report([run], mistakes=2).text == first
    day = datetime.fromtimestamp(max(path.stat().st_mtime for path in run.rglob("DONE")), UTC)
    assert set(re.findall(r"20\d\d-\d\d-\d\d", first)) == {f"{day:%Y-%m-%d}"}
    assert len(set(re.findall(r'\bid="([^"]+)"', first))) == len(re.findall(r'\bid="([^"]+)"', first))


def test_it_stands_alone_and_is_laid_out_for_all(tmp_path):
    page, _ = page_of(make_run(tmp_path / "run", root=tmp_path / "data"), mistakes=2)
    assert not set(page.elements) & {"script", "link", "iframe", "object"}
    assert all(value.startswith("data:") for tag in ("img", "audio") for value in page.values(tag, "src"))
    assert all(value.startswith("#") for value in page.values("a", "href"))
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert {value[1:] for value in page.values("a", "href")} <= ids
    assert len(page.values("img", "alt")) == page.elements.count("img") > 0
    assert len(page.values("svg", "aria-label")) == page.elements.count("svg") == 4
    levels = [int(tag[1]) for tag in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_mistakes_have_the_sound_and_the_spectrogram_of_their_clip(tmp_path):
    run = make_run(tmp_path / "run", root=tmp_path / "data", skill=-3.0)
    page, made = page_of(run, mistakes=5)
    assert made.notes == []
    sounds, spectrograms = page.values("audio", "src"), page.values("img", "src")
    assert len(sounds) == len(spectrograms) == 5
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[0].partition(",")[2])))
    assert len(wave) / rate == pytest.approx(0.5, abs=0.06)
    trials = read_run(run)
    labels, logits, said = numbers(trials)
    clips = np.concatenate([one.clips for one in trials])
    worst = np.argsort(softmax(logits)[np.arange(len(labels)), labels] + (said == labels))[:5]
    at = [page.text.index(str(clip)) for clip in clips[worst]]
    assert at == sorted(at)
    number = int(clips[worst[0]].split("/")[1][:3])
    tone = np.abs(np.fft.rfft(wave)).argmax() * rate / len(wave)
    assert tone == pytest.approx(0.05 * (1 + number % 5) * 8000 / (2 * np.pi), rel=0.1)
    spectrogram = np.asarray(Image.open(io.BytesIO(base64.b64decode(spectrograms[0].partition(",")[2]))).convert("L"))
    assert spectrogram.std() > 20


def test_the_page_says_which_part_of_a_long_clip_it_shows(tmp_path):
    run = make_run(tmp_path / "run", root=tmp_path / "data", skill=-3.0)
    for file in (tmp_path / "data").rglob("*.wav"):
        wave, rate = soundfile.read(file)
        soundfile.write(file, np.tile(wave, 4), rate)
    page, _ = page_of(run, mistakes=5)
    assert page.text.count("Of its 2.0 s the first 0.5 s are shown.") == 5
    assert (
        "are shown."
        not in page_of(make_run(tmp_path / "run2", root=tmp_path / "data2", skill=-3.0), mistakes=5)[0].text
    )


def test_players_are_left_out_to_keep_the_page_small(tmp_path):
    runs = [
        make_run(tmp_path / name, root=tmp_path / "data", skill=-3.0, folds=(1, 2), draw=draw)
        for draw, name in enumerate("ab")
    ]
    whole = make_report(runs, mistakes=2)
    assert whole.notes == []
    bare = len(make_report(runs, mistakes=0).text)
    room = bare + (len(whole.text) - bare) // 2
    page, made = page_of(*runs, mistakes=2, most_bytes=room)
    assert len(made.text.encode()) <= room
    assert 0 < len(page.values("audio", "src")) < 4
    assert re.search(r"\d+ players? .*left out to keep the page below", made.notes[0])
    assert made.notes[0] in " ".join(page.text.split())
    page, made = page_of(*runs, mistakes=2, most_bytes=1000)
    assert not page.values("audio", "src")
    assert "without any player" in made.notes[-1]


@pytest.mark.parametrize("what", ["moved", "no root", "one clip", "no recipe"])
def test_without_sounds_the_page_says_so(tmp_path, what):
    run = make_run(tmp_path / "run", root=None if what == "no root" else tmp_path / "data", skill=-3.0)
    expected = {
        "moved": "are not there|is not there",
        "no root": "does not say where its sounds are",
        "one clip": "Its sound cannot be read",
        "no recipe": "no recipe.yaml and no model file",
    }[what]
    if what == "moved":
        shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    if what == "one clip":
        (tmp_path / "data" / mistakes(read_run(run))[2].clip).write_bytes(b"no sound")
    if what == "no recipe":
        (run / "recipe.yaml").unlink()
    page, _ = page_of(run, mistakes=8)
    assert re.search(expected, page.text)
    assert len(page.values("audio", "src")) == (7 if what == "one clip" else 0)
    if what == "moved":
        page, _ = page_of(run, mistakes=2, data=tmp_path / "elsewhere")
        assert len(page.values("audio", "src")) == 2


def test_hostile_names_are_shown_and_do_nothing(tmp_path):
    run = make_run(
        tmp_path / "<b>run</b>", classes=HOSTILE, clips=21, skill=0, dataset={"name": "<i>", "skipped": ["<u>.wav"]}
    )
    page, made = page_of(run, mistakes=50)
    assert not set(page.elements) & {"script", "b", "i", "u"}
    assert not [found for found in page.attributes if found[1].startswith("on")]
    for name in HOSTILE:
        assert shown(name) in page.text
    assert "\u202e" not in made.text
    for name in ("<b>run</b>", "<i>", "<u>.wav"):
        assert name in page.text


def test_a_class_that_is_never_said_and_one_without_clips(tmp_path):
    def never_dog(labels, generator):
        scores = generator.normal(size=(len(labels), 4))
        scores[:, 1] = -50
        return scores

    run = make_run(tmp_path / "run", classes=("cat", "dog", "owl", "elk"), clips=3, folds=(7,), logits=never_dog)
    page, _ = page_of(run)
    text = " ".join(page.text.split())
    assert re.search(r"Never predicted: .*\bdog\b.*Without a clip", text)
    assert "Without a clip among those tested: elk." in text
    rows = {row[0]: row for row in page.tables["Scores of each class, with 95 % intervals"][1:]}
    assert rows["dog"][5] == "never predicted"
    assert rows["elk"][4] == "no clip"
    assert "There is one fold only" in text


def test_fifty_classes(tmp_path):
    names = tuple(f"class {number}" for number in range(50))
    page, _ = page_of(make_run(tmp_path / "run", classes=names, clips=100, skill=6, history=False))
    assert len(page.tables["Scores of each class, with 95 % intervals"]) == 51
    assert "columns are numbered as the rows are" in page.text


def test_optimistic_figures_are_called_so(tmp_path):
    make_run(tmp_path / "honest")
    make_run(tmp_path / "chosen", recipe=small_recipe("training.protocol=test"))
    page, _ = page_of(tmp_path / "honest", tmp_path / "chosen", mistakes=0)
    assert page.text.count("Optimistic.") == 1
    assert page.text.index("Optimistic.") > page.text.index(
        "of the clips were classified correctly", page.text.index("honest")
    )
    assert [row[4] for row in page.tables["The runs"][1:]] == ["last", "test (optimistic)"]


def comparison_of(*folders):
    return comparison_section([read_for_report(folder) for folder in folders], [folder.name for folder in folders])


def test_no_winner_inside_the_noise(tmp_path):
    alike = comparison_of(*(make_run(tmp_path / name, draw=draw) for draw, name in enumerate(("a", "b", "c"))))
    assert alike["verdicts"] == ["No difference between these runs is beyond the noise."]
    good = make_run(tmp_path / "good", skill=20, clips=40, draw=1)
    bad = make_run(tmp_path / "bad", skill=-3, clips=40, draw=2)
    found = comparison_of(bad, good)
    assert len(found["verdicts"]) == len(found["pairs"]) == 1
    assert found["verdicts"][0].startswith("good is better than bad beyond the noise, by ")


def test_a_winner_of_worse_balanced_accuracy_is_called_so(tmp_path):
    """Labels are drawn with two thirds of class 0, which one run always says."""

    def skewed(name, guess):
        folder = make_run(tmp_path / name, folds=(1,), clips=60)
        for file in folder.rglob("predictions.npz"):
            kept = dict(np.load(file))
            kept["label"] = np.repeat([0, 1, 2], [50, 5, 5])
            kept["logits"] = 9.0 * np.eye(3, dtype=np.float32)[guess(kept["label"])]
            np.savez(file, **kept)
        return folder

    always = skewed("always", np.zeros_like)
    fair = skewed("fair", lambda labels: np.where(np.arange(60) % 2, labels, (labels + 1) % 3))
    verdicts = comparison_of(always, fair)["verdicts"]
    assert verdicts[0].startswith("always is better than fair beyond the noise")
    assert verdicts[1].startswith(
        "Each class weighing the same it is the other way round: balanced accuracy 33.3 % of al"
    )
    assert len(verdicts) == 2


def test_many_runs_ask_more_of_each_difference(tmp_path):
    """One pair of 15 at p = 0.03 is what chance brings; side by side alone it would count."""

    def answers(right):
        return lambda labels, _: 9.0 * np.eye(3)[np.where(np.arange(len(labels)) < right, labels, (labels + 1) % 3)]

    runs = [make_run(tmp_path / f"r{n}", folds=(1,), clips=20, logits=answers(10)) for n in range(5)]
    runs.append(make_run(tmp_path / "lucky", folds=(1,), clips=20, logits=answers(16)))
    assert comparison_of(runs[0], runs[-1])["verdicts"] == ["lucky is better than r0 beyond the noise, by 30.0 points."]
    many = comparison_of(*runs)
    assert many["verdicts"] == ["No difference between these runs is beyond the noise."]
    assert len(many["pairs"]) == 15
    seven = comparison_of(*runs, make_run(tmp_path / "r6", folds=(1,), clips=20, logits=answers(9)))
    assert [pair[0] for pair in seven["pairs"]] == ["r0"] * 6


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_runs_of_different_data_stand_side_by_side(tmp_path):
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", classes=("one", "two"), dataset={"name": "other"})
    page, _ = page_of(first, second)
    assert "so that they cannot be compared" in page.text
    assert "Pairs of runs, clip by clip" not in page.tables
    assert "better" not in page.text
    assert [row[1] for row in page.tables["The runs"]] == ["data set", "mine", "other"]


def test_a_run_half_done_says_what_is_missing(tmp_path):
    run = make_run(tmp_path / "run", folds=(1, 2, 3))
    (run / "fold-2" / "seed-0" / "DONE").unlink()
    (run / "fold-3" / "seed-0" / "history.jsonl").write_text('{"epoch": 1}\n{"epo')
    (run / "summary.json").unlink()
    (run / "recipe.yaml").write_text("traning: 3")
    page, _ = page_of(run)
    for expected in (
        "Fold 2, seed 0 was begun and has not ended",
        "fold-3/seed-0/history.jsonl cannot be read",
        "summary.json is not there",
        "recipe.yaml cannot be read (recipe: traning: no such field; did you mean 'training'?)",
        "There is no model file",
    ):
        assert expected in page.text
    assert len(page.tables["Accuracy on the clips that each fold held out"]) == 4
    whole, _ = page_of(make_run(tmp_path / "whole"))
    assert "has not ended" not in whole.text
    assert MACHINE["device"] in whole.text


def test_what_differs_from_the_default_recipe_is_told_and_the_rest_shown(tmp_path):
    page, _ = page_of(make_run(tmp_path / "run", recipe=small_recipe("training.epochs=7")))
    changed = {row[0]: row[1:] for row in page.tables["Choices that differ from the default recipe"][1:]}
    assert changed["training.epochs"] == ["30", "7"]
    assert set(changed) == {"training.epochs", "features.bands", "backbone.name"}
    assert "earsight crossval DATA --recipe recipe.yaml --folds 1,2 --seeds 1 --out again" in page.text
    assert small_recipe("training.epochs=7").to_yaml() in page.text


def test_the_recipe_of_another_run_is_not_shown(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "recipe.yaml").write_text(small_recipe("training.epochs=9").to_yaml())
    page, _ = page_of(run)
    assert "it is not shown" in page.text
    assert "epochs: 9" not in page.text


def test_what_is_no_run_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    empty = tmp_path / "empty"
    empty.mkdir()
    for folders, expected in (
        ([tmp_path / "none"], "no such run folder"),
        ([empty], "no finished trial"),
        ([run, run], "given twice"),
        ([run, tmp_path / "empty" / ".." / "run"], "given twice"),
    ):
        with pytest.raises(RunError, match=expected):
            make_report(folders)
    (run / "fold-1" / "seed-0" / "predictions.npz").write_bytes(b"PK no zip")
    with pytest.raises(RunError, match=r"predictions\.npz: not a predictions file"):
        make_report([run])


def test_an_ensemble_shows_its_parts(tmp_path):
    run = make_run(tmp_path / "run", root=tmp_path / "data", seeds=(0, 1), skill=-1)
    ensemble = make_run(tmp_path / "run" / "ensemble", history=False, skill=-1)
    row = {"networks": 1, "accuracy": {"mean": 0.5, "ci95": [0.4, 0.6]}, "milliseconds_per_clip": 3.0}
    gain = {"difference": 0.1, "ci95": [-0.1, 0.3], "beyond_noise": False}
    report = {
        "dataset": json.loads(str(np.load(ensemble / "fold-1" / "seed-0" / "predictions.npz")["about"]))["dataset"],
        "members": [{"run": str(run), "seed": seed} for seed in (0, 1)],
        "runs": [str(run)],
        "folds": [1, 2],
        "protocol": "last",
        "notes": [],
        "rows": [row | {"method": "single"}, row | {"method": "average", "networks": 2, "gain": gain}],
        "model": {"path": "m", "method": "average", "networks": 2, "milliseconds_per_clip": 6.0, "seen": "every clip"},
    }
    (ensemble / "ensemble.json").write_text(json.dumps(report))
    page, _ = page_of(ensemble, mistakes=1)
    assert len(page.values("audio", "src")) == 1
    assert [row[:3] for row in page.tables["The members alone and together"][1:]] == [
        ["single", "1", "50.0"],
        ["average", "2", "50.0"],
    ]
    assert "No difference from the single network is beyond the noise." in page.text
    (ensemble / "ensemble.json").write_text('{"rows": []}')
    page, _ = page_of(ensemble)
    assert "its parts are left out" in page.text


def test_clips_exchanged_since_the_run_are_said_and_not_played(synthetic_folder, tiny_recipe, tmp_path):
    """With sizes and times kept, as by `mv`; who copied the data set finds all its sounds."""
    sounds = shutil.copytree(synthetic_folder, tmp_path / "sounds")
    ready = prepare(open_dataset(sounds), tiny_recipe, cache=tmp_path, workers=1)
    run_trial(ready, Trial(1, 0), run=tmp_path / "run", device=torch.device("cpu"))
    write_summary(tmp_path / "run", machine={})
    page, _ = page_of(tmp_path / "run", mistakes=3, data=shutil.copytree(sounds, tmp_path / "copy"))
    assert (len(page.values("audio", "src")), "is not the sound that was tested" in page.text) == (3, False)
    first, second = (sounds / one.clip for one in mistakes(read_run(tmp_path / "run"))[:2])
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    page, _ = page_of(tmp_path / "run", mistakes=3)
    assert (len(page.values("audio", "src")), page.text.count("is not the sound that was tested")) == (1, 2)
