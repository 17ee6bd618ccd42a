"""Running trials one after the other: folds by name, resuming, and the model at the top."""

import os

import pytest

from earsight.errors import DataError, RunError
from earsight.execution import schedule
from earsight.execution.schedule import chosen_folds, publish_model, run_trials
from earsight.recipe import load_recipe
from earsight.training.trial import Trial, is_done


def test_folds_are_chosen_by_number():
    assert chosen_folds(None, (1, 2, 3)) == [1, 2, 3]
    assert chosen_folds("3, 1,3", (1, 2, 3)) == [3, 1]
    assert chosen_folds("10", (1, 10)) == [10]


@pytest.mark.parametrize("text", ["4", "1,,2", "", "one", "-1", "1.5", "1,9", "²"])
def test_what_is_no_fold_is_named(text):
    with pytest.raises(DataError, match=r"is no fold of this data set; its folds are 1, 2, 3$") as caught:
        chosen_folds(text, (1, 2, 3))
    assert str(caught.value).startswith(f"folds {text}: ")


def test_trials_run_in_order_and_only_once(prepare_as, cpu, tmp_path, monkeypatch):
    prepared = prepare_as("training.epochs=1")
    trials = [Trial(1, 0), Trial(2, 0)]
    told, said = [], []

    def go(chosen):
        told.clear()
        said.clear()
        run_trials(
            prepared,
            chosen,
            run=tmp_path / "deep" / "run",
            device=cpu,
            progress=lambda done, total, note: told.append((done, total, note)),
            say=said.append,
        )

    go(trials[:1])
    go(trials)
    run = tmp_path / "deep" / "run"
    assert all(is_done(trial.folder(run)) for trial in trials)
    assert load_recipe(run / "recipe.yaml") == prepared.recipe
    assert [(done, total) for done, total, _ in told] == [(3, 4), (4, 4)]
    assert all(note.startswith("fold 2 seed 0, loss ") for _, _, note in told)
    assert said[0].startswith("fold 1 seed 0: ")
    assert said[0].endswith(" % of 20 held-out clips (done before)")
    assert said[1].startswith("fold 2 seed 0: ")
    assert "done before" not in said[1]
    monkeypatch.setattr(schedule, "is_done", lambda _: True)
    with pytest.raises(RunError, match="another recipe"):
        run_trials(
            prepare_as("training.epochs=2"), trials, run=run, device=cpu, progress=lambda *_: None, say=said.append
        )


def test_a_run_folder_that_cannot_be_written(prepared, cpu, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        RunError, match=r"file/run: cannot be written, because .* is not a folder; name another folder with out"
    ):
        run_trials(
            prepared, [], run=tmp_path / "file" / "run", device=cpu, progress=lambda *_: None, say=lambda _: None
        )


@pytest.mark.parametrize("links", [True, False])
def test_a_model_is_published_at_the_top(tmp_path, monkeypatch, links):
    trial = Trial(2, 7)
    trial.folder(tmp_path).mkdir(parents=True)
    source = trial.folder(tmp_path) / "model.safetensors"
    source.write_bytes(b"new")
    (tmp_path / "model.safetensors").write_bytes(b"an older one")
    (tmp_path / ".model.safetensors.part").write_bytes(b"left by a kill")

    def refuse(*_):
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):  # a second time does no harm
        published = publish_model(tmp_path, trial)
    assert published == tmp_path / "model.safetensors"
    assert published.read_bytes() == b"new"
    assert published.samefile(source) is links
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold-2", "model.safetensors"]
