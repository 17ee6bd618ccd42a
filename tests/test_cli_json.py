"""`--json` and `--threads` of every verb: which verbs have them, and what they do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import earsight
from earsight import parallel
from test_cli import TINY, invoke
from test_cli_help import VERBS

WITHOUT_JSON = {"serve": "it answers over HTTP"}
WITHOUT_THREADS = {
    "push": "it computes nothing",
    "download": "it computes nothing",
    "recipe list": "it computes nothing",
    "recipe show": "it computes nothing",
}


def options_of(name):
    return {option for parameter in VERBS[name].params for option in parameter.opts}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_that_computes_has_both(name):
    assert ("--json" in options_of(name)) == (name not in WITHOUT_JSON)
    assert ("--threads" in options_of(name)) == (name not in WITHOUT_THREADS)


@pytest.fixture(scope="module")
def desk(synthetic, synthetic_folder, tmp_path_factory):
    """Two runs, a model file and some sounds."""
    folder = tmp_path_factory.mktemp("desk")
    for name, seed in (("one", 0), ("two", 1)):
        words = ["--out", folder / name, "--fold", 2, "--seed", seed, *TINY, "--threads", 1]
        invoke("train", synthetic_folder, *words)
    shutil.copy(synthetic.file(0), folder / "sound.wav")
    (folder / "bad.wav").write_text("hello")
    (folder / "sounds").symlink_to(synthetic_folder)
    return folder


WORDS = {
    "check": "sounds --no-near",
    "prepare": "sounds --cache cache",
    "train": "sounds --out one --fold 2",
    "crossval": "sounds --out folds --folds 1",
    "ensemble": "one two --out both",
    "distil": "one --out student",
    "recipe list": "",
    "recipe show": "default",
    "evaluate": "one/model.safetensors sounds",
    "summary": "one",
    "compare": "one two",
    "report": "one --out page.html",
    "calibrate": "one",
    "predict": "one/model.safetensors sound.wav",
    "explain": "one/model.safetensors sound.wav --no-curves",
    "analyze boundaries": "one --clips 2 --max-steps 16",
}
ELSEWHERE = {
    "quickstart": "test_quickstart_as_json, below",
    "download": "tests/data/test_download.py",
    "tune": "tests/test_cli_cluster.py",
    "analyze similarity": "tests/test_analyze.py",
    "analyze fusion": "tests/test_analyze.py",
    "analyze freeze": "tests/test_analyze.py",
    "analyze cutoff": "tests/test_analyze.py",
    "export": "tests/onnx",
    "push": "tests/reports/test_hub.py",
    "reproduce": "tests/experiments",
}


def full(name):
    """A verb's words, on one thread where it takes that, with a tiny recipe where it takes one."""
    words = [
        *name.split(),
        *WORDS[name].split(),
        "--json",
        *(["--threads", "1"] if name not in WITHOUT_THREADS else []),
    ]
    return words + (TINY if "--set" in options_of(name) else [])


def test_every_verb_is_here_or_elsewhere():
    assert set(WORDS) | set(ELSEWHERE) | set(WITHOUT_JSON) == set(VERBS)


@pytest.mark.parametrize("name", WORDS)
def test_standard_output_is_json_alone(desk, monkeypatch, name):
    monkeypatch.chdir(desk)
    found = json.loads(invoke(*full(name)).stdout)  # of predict one line, as there is one sound
    assert found


def failure(done):
    """The JSON of an error, which is standard output's one line, and says what standard error says."""
    [line] = done.stdout.splitlines()
    found = json.loads(line)
    assert set(found) == {"error", "kind", "status"}
    assert f"earsight: {found['error']}" in done.stderr
    assert found["status"] == done.exit_code
    return found


@pytest.mark.parametrize("name", [name for name in WORDS if not name.startswith("recipe")])
def test_an_error_is_json_too(desk, tmp_path, monkeypatch, name):
    """Without what it was to work on."""
    monkeypatch.chdir(tmp_path)
    found = failure(invoke(*full(name), code=2))
    assert found["kind"] in earsight.errors.__dict__
    words = [word for word in full(name) if word != "--json"]
    assert invoke(*words, code=2).stdout == ""


@pytest.mark.parametrize("name", [name for name in VERBS if name not in WITHOUT_JSON])
def test_so_is_that_of_words_that_no_verb_takes(name):
    found = failure(invoke(*name.split(), "--json", "--nonsense", code=2))
    assert found == {"error": found["error"], "kind": "UsageError", "status": 2}
    assert "no such option: --nonsense" in found["error"].lower()
    assert f"see `earsight {name} --help`" in found["error"].replace("root", "earsight")
    assert invoke(*name.split(), "--nonsense", "--", "--json", code=2).stdout == ""


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [(OSError(28, "No space left on device"), 2, "OSError"), (KeyboardInterrupt(143), 143, "Stopped")],
)
@pytest.mark.parametrize("name", ["summary", "predict"])
def test_full_disks_and_stops_are(desk, monkeypatch, name, error, status, kind):
    def fail(*_, **__):
        raise error

    monkeypatch.chdir(desk)
    monkeypatch.setattr("earsight.evaluation.summary.read_run", fail)
    monkeypatch.setattr("earsight.commands.predicting.run", fail)
    assert failure(invoke(*full(name), code=status))["kind"] == kind


def test_a_result_that_stands_there_stays_the_one_document(desk, monkeypatch):
    monkeypatch.chdir(desk)
    done = invoke(*full("check"), "--sources", "no/such/folder.csv", code=2)
    assert "error" not in json.loads(done.stdout)
    assert "earsight: --sources" in done.stderr


@pytest.mark.parametrize("name", ["predict", "explain"])
def test_sounds_that_fail_are_in_the_json(desk, monkeypatch, name):
    monkeypatch.chdir(desk)
    words = [word.replace("sound.wav", "bad.wav") for word in full(name)]
    assert "bad.wav" in words
    found = json.loads(invoke(*words, code=1).stdout)
    assert "a text file" in json.dumps(found)


def test_quickstart_as_json(tmp_path, monkeypatch):
    from earsight import quickstart

    monkeypatch.setattr(
        quickstart, "_RECIPE", (*quickstart._RECIPE, "backbone.name=test_resnet", "backbone.weights=none")
    )
    words = ["quickstart", "--out", tmp_path / "first", "--epochs", 1, "--threads", 1]
    found = json.loads(invoke(*words, "--json").stdout)
    assert set(found) == {"accuracy", "clips", "chance", "predicted", "spectrogram", "model", "seconds"}
    assert found["model"] in invoke(*words).stdout


@pytest.fixture
def pools(monkeypatch):
    """Sizes of the pools of threads that are made."""
    sizes = []
    plain = ThreadPoolExecutor.__init__

    def made(self, max_workers=None, *args, **kwargs):
        sizes.append(max_workers)
        plain(self, max_workers, *args, **kwargs)

    monkeypatch.setattr(ThreadPoolExecutor, "__init__", made)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    return sizes


@pytest.mark.parametrize(
    "words", ["check sounds", "prepare sounds --cache {}", "predict one/model.safetensors sounds --json"], ids=str.split
)
def test_threads_bound_the_pools(desk, monkeypatch, tmp_path, pools, words):
    monkeypatch.chdir(desk)
    words = [*words.format(tmp_path).split(), *(TINY if "prepare" in words else [])]
    invoke(*words, "--threads", 1)
    assert set(pools) <= {1, None}, "headers are read by pools without a number, for that is no work for a processor"
    assert 1 in pools
    pools.clear()
    shutil.rmtree(tmp_path)
    invoke(*words)
    assert 3 in pools, "and only in the verb that was asked"


def test_the_bound_is_one_of_the_process():
    parallel.bound_threads(2)
    try:
        assert (parallel.pool_size(), parallel.pool_size(5)) == (2, 5)
    finally:
        parallel.bound_threads(None)
    assert parallel.pool_size() == (os.cpu_count() or 1)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one thread in any case")
@pytest.mark.parametrize("bound", [["--threads", "1"], []], ids=["bound", "free"])
def test_threads_bound_what_numpy_computes_with(desk, bound):
    code = (
        "import sys\nfrom earsight.cli import main\n"
        f"sys.argv = ['earsight', 'compare', 'one', 'two', '--json', *{bound}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "from threadpoolctl import threadpool_info\n"
        "print(sorted({pool['num_threads'] for pool in threadpool_info()}), file=sys.stderr)"
    )
    free = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True, cwd=desk, env=free)
    assert (done.stderr.splitlines()[-1] == "[1]") == bool(bound)
