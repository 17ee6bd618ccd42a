"""A model on the hub: pushed with its page, loaded again, and refused in words; against a hub on the loopback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_hub import COMMIT, TOKEN, small_hub

import earsight
from earsight.errors import EarsightError, ModelError, RunError
from earsight.evaluation.summary import read_run, summarize
from earsight.reports.hub import fetch, model_page, push
from test_cli import TINY, invoke


@pytest.fixture(scope="module")
def run(synthetic_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    invoke("train", synthetic_folder, "--out", folder, "--fold", 2, *TINY, "--threads", 1)
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub that huggingface_hub then asks, without a token, xet, or what is in the user's cache."""
    from huggingface_hub import constants

    with small_hub() as there:
        monkeypatch.setattr(constants, "ENDPOINT", there.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", there.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield there


@pytest.fixture
def logged_in(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def test_pushed_and_loaded_it_is_the_same_model(hub, logged_in, run, synthetic):
    words = ["push", run, "me/barks", "--license", "cc-by-4.0", "--data-license", "made by earsight"]
    result = json.loads(invoke(*words, "--json").stdout)
    assert result["files"] == ["model.safetensors", "README.md", "recipe.yaml"]
    assert result["commit"] == COMMIT
    there = hub.files["me/barks"]
    assert there["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert yaml.safe_load(there["recipe.yaml"])["backbone"]["name"] == "test_resnet"
    assert not hub.settings["me/barks"].get("private")
    classifier = earsight.load("hf://me/barks")
    file = synthetic.file(0)
    wanted = earsight.load(run).predict(file)
    assert classifier.predict(file) == wanted
    assert earsight.load(f"hf://me/barks@{COMMIT}").predict(file) == wanted
    done = invoke("predict", "hf://me/barks", file, "--json", "--threads", 1)
    assert json.loads(done.stdout)["classes"] == pytest.approx({wanted.label: wanted.probabilities[0]})
    # The second push goes into the same repository.
    assert "written to" in invoke(*words).stdout
    assert not [name for name in there if name.endswith((".pkl", ".bin", ".pt"))]


def test_a_private_repository(hub, logged_in, run):
    done = invoke("push", run, "me/secret", "--private")
    assert hub.settings["me/secret"].get("private") or hub.settings["me/secret"].get("visibility") == "private"
    assert "without --license" in done.stderr


def test_the_page_says_what_the_run_knows(run):
    page = model_page(run / "model.safetensors", "me/barks", licence="mit", data_licence="CC <b>0</b>")
    _, head, text = page.split("---\n", 2)
    found = yaml.safe_load(head)
    assert (found["license"], found["library_name"], found["pipeline_tag"]) == (
        "mit",
        "earsight",
        "audio-classification",
    )
    summary = summarize(read_run(run), machine={})
    [result] = found["model-index"][0]["results"]
    low, high = (100 * limit for limit in summary["accuracy"]["ci95"])
    assert result["metrics"] == [
        {
            "type": "accuracy",
            "value": pytest.approx(100 * summary["accuracy"]["mean"], abs=0.005),
            "name": f"accuracy % (95 %: {low:.1f} to {high:.1f})",
        }
    ]
    assert f"95 % interval {low:.1f} to {high:.1f} %" in text
    for words in (
        'earsight.load("hf://me/barks")',
        "Trained on 80 clips of `synthetic`",
        "Licence of the data: CC b 0 /b .",
        "`chirp_down`",
        "name: test_resnet",
        "Of this model: mit.",
        "are answered unknown; 5 % of known ones are too",
        "Protocol last",
    ):
        assert " ".join(words.split()) in " ".join(text.split()), words


def test_a_model_file_without_its_run_has_no_interval(run, tmp_path):
    alone = shutil.copy(run / "model.safetensors", tmp_path)
    page = model_page(tmp_path / "model.safetensors", "me/alone")
    assert "model-index" not in page
    assert "license: unknown" in page
    assert "without its run, so without an interval" in page
    assert "nobody else may use it" in page
    assert invoke("push", alone, "me/alone", "--page").stdout == page


def test_a_fold_of_a_run_has_its_own_figure(run):
    page = model_page(run / "fold-2" / "seed-0" / "model.safetensors", "me/fold")
    assert (
        page.partition("# fold")[2].partition("## Recipe")[0]
        == (model_page(run / "model.safetensors", "me/fold").partition("# fold")[2].partition("## Recipe")[0])
    )


def test_names_of_strangers_stay_within_their_place(run, tmp_path):
    from dataclasses import replace

    from earsight.models.modelfile import load, save

    card, module = load(run / "model.safetensors")
    classes = ("`x` <script>", "a\nb\x1b[2J", *card.classes[2:])
    save(tmp_path / "m.safetensors", state=module.state_dict(), card=replace(card, classes=classes))
    page = model_page(tmp_path / "m.safetensors", "me/odd")
    assert "`'x' <script>`, `a b\\x1b[2J`, " in page
    assert "\x1b" not in page


def test_the_models_of_another_run_are_refused(run, synthetic_folder, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    other = ["--out", tmp_path / "other", "--fold", 2, *TINY, "--set", "training.epochs=2", "--threads", 1]
    invoke("train", synthetic_folder, *other)
    shutil.copy(tmp_path / "other" / "model.safetensors", copy / "model.safetensors")
    with pytest.raises(RunError, match="is of recipe"):
        model_page(copy / "model.safetensors", "me/x")
    (copy / "model.safetensors").unlink()
    with pytest.raises(RunError, match="has a model a fold"):
        push(copy, "me/x")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf://me/absent", "no such model on the hub, or it is private"),
        ("hf://me/empty", "has no model.safetensors, so it is no model of earsight"),
        ("hf://me/empty@old", "has no such branch, tag or commit"),
        ("hf://me", "expected hf://owner/name"),
        ("hf://me/x/y", "expected hf://owner/name"),
    ],
)
def test_what_the_hub_lacks_is_said(hub, name, words):
    hub.files["me/empty"] = {"README.md": b"hello"}
    with pytest.raises(ModelError) as refused:
        earsight.load(name)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_model_file_is_refused_as_any_other(hub):
    hub.files["me/bad"] = {"model.safetensors": b"\x80\x04 a pickle"}
    with pytest.raises(ModelError, match="is a pickle"):
        earsight.load("hf://me/bad")


def test_without_a_token_nothing_is_sent(hub, run):
    done = invoke("push", run, "me/barks", code=2)
    assert "log in with `hf auth login`" in done.stderr
    assert done.stdout == ""
    assert hub.files == {}


@pytest.mark.parametrize("name", ["hf://me/barks", f"hf://me/barks@{COMMIT}"])
def test_an_exported_model_of_the_hub_lies_where_one_looks(hub, logged_in, run, monkeypatch, tmp_path, name):
    """Beside the model file would be in the hub's cache."""
    asked = []
    monkeypatch.setattr("earsight.onnx.export.export_onnx", lambda path, **how: asked.append((path, how["out"])))
    monkeypatch.chdir(tmp_path)
    push(run, "me/barks")
    invoke("export", name, code=1)  # for the double has no result to print
    assert asked == [(fetch(name), Path("barks.onnx"))]


def test_without_a_network_the_cache_serves_or_words_do(hub, logged_in, run, monkeypatch):
    from huggingface_hub import constants

    push(run, "me/barks")
    before = fetch("hf://me/barks").read_bytes()
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch("hf://me/barks").read_bytes() == before
    with pytest.raises(ModelError, match="cannot be reached, and its cache here does not have the model"):
        fetch("hf://me/other")
    with pytest.raises(ModelError, match="cannot be reached; nothing was sent"):
        push(run, "me/barks")
    assert len(hub.asked) == asked


def test_the_arrays_of_a_model_from_the_hub_are_the_files(hub, logged_in, run):
    push(run, "me/barks")
    from safetensors.numpy import load_file

    here, there = load_file(run / "model.safetensors"), load_file(fetch("hf://me/barks"))
    assert here.keys() == there.keys()
    assert all(np.array_equal(here[name], there[name]) for name in here)


def test_an_error_of_the_hub_is_the_users(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(EarsightError, match="does not let you in"):
        push(run, "me/barks")
