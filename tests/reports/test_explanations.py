"""The files of an explanation say what they are, are whole, and are not made a second time."""

from __future__ import annotations

import dataclasses
import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile

from earsight.analysis.attribution import Attribution
from earsight.analysis.faithfulness import Curves
from earsight.errors import EarsightError
from earsight.files import read_state, write_state
from earsight.inference.explanation import ATTRIBUTION, GRAD_CAM, LOUDEST, POSITIVE, Explanation
from earsight.reports import explanations
from earsight.reports.drawings import write_figure
from earsight.reports.explanations import (
    explanation_drawing,
    explanation_lines,
    faithfulness_drawing,
    file_names,
    made_from,
    read_explained,
    write_explained,
)

TITLE = r"tick_$tock \foo$ 猫.wav"


def _words(path: Path) -> str:
    root = ElementTree.parse(path).getroot()
    return " ".join("".join(node.itertext()) for node in root.iter() if node.tag.endswith("}text"))


@pytest.fixture
def explanation(tmp_path) -> Explanation:
    """Two seconds at 8 kHz, the sound ending at 1.5 s, one bright cell in each spectrogram."""
    random = np.random.default_rng(0)
    wave = random.uniform(-1.5, 1.5, 12000).astype(np.float32)
    used = (0.7 * wave).astype(np.float32)
    soundfile.write(tmp_path / TITLE, wave, 8000, subtype="FLOAT")
    values = np.zeros((3, 32, 50), dtype=np.float32)
    values[:, 20:24, 30:34] = 0.05
    shares = np.linspace(0, 1, 5)
    falling, rising = 1 - shares**0.3, shares**0.3
    orders = {ATTRIBUTION: falling, POSITIVE: falling, GRAD_CAM: falling, LOUDEST: 1 - shares}
    return Explanation(
        path=str(tmp_path / TITLE),
        label="rain & 雨",
        top_label="rain & 雨",
        probability=0.731,
        sample_rate_hz=8000,
        wave=wave,
        clip_seconds=2.0,
        windows_ms=(25.0, 50.0, 100.0),
        edges=np.stack([np.linspace(-hop, 2 + hop, 51) for hop in (0.005, 0.0125, 0.025)]),
        band_hz=np.geomspace(50, 3900, 32),
        spectrogram=random.normal(size=(3, 32, 50)).astype(np.float32),
        attribution=Attribution(values, 3.5, 1.1, 64),
        merged=values.sum(axis=0).astype(np.float64),
        grad_cam=random.random((32, 50)).astype(np.float32),
        mask=random.random((32, 50)),
        used=used,
        unused=wave - used,
        used_probability=0.6,
        unused_probability=0.1,
        curves=Curves(
            shares,
            orders,
            {**orders, ATTRIBUTION: rising},
            1 - shares + np.array([[0.01], [-0.01]]),
            shares + np.array([[0.01], [-0.01]]),
        ),
    )


def test_every_spectrogram_of_the_figure_is_in_kilohertz(explanation, tmp_path):
    write_figure(explanation_drawing(explanation), tmp_path / "x.svg")
    root = ElementTree.parse(tmp_path / "x.svg").getroot()
    said = ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("}text")]
    assert said.count("0.5") >= 8, "three windows and all together, twice"


def test_the_figure_says_what_everything_is(explanation, tmp_path):
    write_figure(explanation_drawing(explanation), tmp_path / "new folder" / "x.svg")
    said = _words(tmp_path / "new folder" / "x.svg")
    for expected in (
        *("time in seconds", "dashed: the sound ends", "frequency in kHz", "log power", "25 ms window", "all windows"),
        *("for the class (dark) or against it (light)", "Grad-CAM", "Integrated Gradients", "per cell"),
        *(TITLE, "rain & 雨, probability 73.1 %", "add up to 2.4", "score 3.5 less that of silence 1.1", "64 steps"),
        explanation.verdict.split(",")[0],
    ):
        assert expected in said, expected


def test_another_class_than_the_one_the_model_names_is_told(explanation, tmp_path):
    other = dataclasses.replace(explanation, top_label="sea", curves=None)
    write_figure(explanation_drawing(other), tmp_path / "x.svg")
    assert "(the model predicts sea)" in _words(tmp_path / "x.svg")
    assert "(the model predicts sea)" in next(explanation_lines(_content(other)))


@pytest.mark.parametrize("draw", [explanation_drawing, faithfulness_drawing])
def test_long_names_stay_in_one_line_beside_the_legend(explanation, draw):
    names = {"path": "made near the lake, " * 9 + ".wav", "label": "Parus " * 20, "top_label": "Turdus " * 20}
    figure = draw(dataclasses.replace(explanation, **names))
    figure.draw_without_rendering()
    title = figure.get_suptitle()
    assert title.startswith("made near")
    assert ".wav: Parus" in title
    assert "\n" not in title
    box = figure._suptitle.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    for legend in figure.legends:
        frame = legend.get_window_extent()
        assert not box.overlaps(frame)
        assert not any(axis.get_window_extent().overlaps(frame) for axis in figure.axes)


def _content(explanation: Explanation) -> dict:
    return explanation.to_dict() | {"files": {"figure": "x.png"}}


def test_what_speaks_for_the_class_is_dark_and_at_its_place(explanation, tmp_path):
    write_figure(explanation_drawing(explanation), tmp_path / "x.png")
    grey = matplotlib.image.imread(tmp_path / "x.png")[..., :3].mean(axis=2)
    half = grey[:, grey.shape[1] // 2 :]
    # The panels of attributions are of middle lightness but where the bright block is.
    dark = np.argwhere(half < 0.2)
    width = half.shape[1]
    blocks = dark[(dark[:, 1] > 0.2 * width) & (dark[:, 1] < 0.76 * width)]
    columns = np.bincount(blocks[:, 1], minlength=width)
    assert 0.5 * width < columns.argmax() < 0.75 * width  # columns 30 to 34 of 50
    assert len(blocks) > 500


@pytest.mark.parametrize("windows", [1, 3])
def test_one_window_or_three_and_a_sound_as_long_as_the_clip(explanation, tmp_path, windows):
    whole = dataclasses.replace(
        explanation,
        wave=np.ones(16000, dtype=np.float32),
        windows_ms=explanation.windows_ms[:windows],
        edges=explanation.edges[:windows],
        spectrogram=explanation.spectrogram[:windows],
        attribution=dataclasses.replace(explanation.attribution, values=explanation.attribution.values[:windows]),
    )
    write_figure(explanation_drawing(whole), tmp_path / "x.svg")
    said = _words(tmp_path / "x.svg")
    assert "the sound ends" not in said
    assert said.count("ms window") == windows


def test_the_curves_say_which_is_which_and_what_is_good(explanation, tmp_path):
    write_figure(faithfulness_drawing(explanation), tmp_path / "x.svg")
    said = _words(tmp_path / "x.svg")
    low, areas = (explanation.curves.areas(kind) for kind in ("deletion", "insertion"))
    for expected in (
        *("deletion: low is good", "insertion: high is good", "probability of rain & 雨", "in %"),
        *(f"attribution {low.ranked[ATTRIBUTION]:.2f} / {areas.ranked[ATTRIBUTION]:.2f}", "Grad-CAM", "loudest"),
        "random orders 0.50 / 0.50",
    ):
        assert expected in said, expected
    with pytest.raises(EarsightError, match="without curves"):
        write_figure(faithfulness_drawing(dataclasses.replace(explanation, curves=None)), tmp_path / "y.svg")
    with pytest.raises(EarsightError, match=r"expected \.png or \.svg"):
        write_figure(explanation_drawing(explanation), tmp_path / "y.jpg")


def test_the_files_of_an_explanation(explanation, tmp_path):
    content = write_explained(explanation, tmp_path / "out", "name", origin="abc")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("name.faithfulness.png", "name.json", "name.npz", "name.png", "name.unused.wav", "name.used.wav")
    ]
    assert read_state(tmp_path / "out" / "name.json", {}, remedy="") == json.loads(json.dumps(content))
    with np.load(content["files"]["arrays"], allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["attribution"], explanation.attribution.values)
        np.testing.assert_array_equal(arrays["column_edges_seconds"], explanation.edges)
    waves = {}
    for key in ("used", "unused"):
        waves[key], rate = soundfile.read(content["files"][key], dtype="float32")
        assert rate == 8000
        assert soundfile.info(content["files"][key]).subtype == "FLOAT"
    np.testing.assert_array_equal(waves["used"], explanation.used)  # beyond full scale too: nothing is clipped
    assert np.abs(waves["used"]).max() > 1
    np.testing.assert_allclose(waves["used"] + waves["unused"], explanation.wave, atol=1e-6)
    lines = list(explanation_lines(content))
    assert "rain & 雨, probability 73.1 %" in lines[0]
    assert "add up to 2.4" in lines[1]
    assert "with only what was used 60.0 %, without it 10.0 %; it is 49.0 % of the sound's energy" in lines[2]
    assert explanation.verdict in lines[5]


def test_what_is_there_is_found_again_only_if_nothing_changed(explanation, tmp_path):
    folder = tmp_path / "out"
    content = write_explained(explanation, folder, "name", origin="abc")
    sound = explanation.path

    def again(**changes):
        return read_explained(folder, **{"name": "name", "sound": sound, "origin": "abc"} | changes)

    assert again() == json.loads(json.dumps(content))
    assert content["made_from"]["content"].keys() == {"sound", *content["files"]}
    assert again(origin="abd") is None
    assert again(name="other") is None
    assert again(sound=str(folder / "name.used.wav")) is None
    os.utime(sound, ns=(1, 1))
    assert again() is None
    content = write_explained(explanation, folder, "name", origin="abc")
    Path(content["files"]["used"]).unlink()
    assert again() is None
    (folder / "name.json").write_text("[1")
    assert again() is None


def test_what_changed_with_size_and_time_kept_is_explained_anew(explanation, tmp_path, caplog):
    """A sound written anew in place, and each file of the explanation: one bit, or two files exchanged."""
    folder = tmp_path / "out"
    content = write_explained(explanation, folder, "name", origin="abc")
    places = [Path(explanation.path), *(Path(file) for file in content["files"].values())]
    assert len(places) == 6

    def again():
        return read_explained(folder, "name", sound=explanation.path, origin="abc")

    def rewrite(path, data):
        status = path.stat()
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    for path in places:
        data = path.read_bytes()
        rewrite(path, data[:-1] + bytes([data[-1] ^ 1]))
        assert again() is None, path
        rewrite(path, data)
        assert again() == json.loads(json.dumps(content))
    used, unused = (Path(content["files"][key]).read_bytes() for key in ("used", "unused"))
    rewrite(Path(content["files"]["used"]), unused)
    rewrite(Path(content["files"]["unused"]), used)
    assert again() is None
    # Earlier versions kept no digests: theirs are taken as they are, and that is said.
    del content["made_from"]["content"]
    write_state(folder / "name.json", content)
    assert again() == json.loads(json.dumps(content))
    assert "cannot be checked" in caplog.text


def test_a_part_of_a_sound_is_explained_and_found_again(explanation, tmp_path):
    part = f"{explanation.path}@0.000-1.000"
    other = dataclasses.replace(explanation, path=part)
    content = write_explained(other, tmp_path / "out", "name", origin="abc")
    assert content["made_from"]["sound"][0] == part
    assert read_explained(tmp_path / "out", "name", sound=part, origin="abc") is not None
    assert read_explained(tmp_path / "out", "name", sound=explanation.path, origin="abc") is None
    assert read_explained(tmp_path / "out", "name", sound=f"{explanation.path}@0.500-1.000", origin="abc") is None


def test_a_kill_leaves_no_half_file(explanation, tmp_path, monkeypatch):
    def stop(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(explanations.soundfile, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        write_explained(explanation, tmp_path / "out", "name", origin="abc")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("name.faithfulness.png", "name.npz", "name.png")
    ]
    assert read_explained(tmp_path / "out", "name", sound=explanation.path, origin="abc") is None


def test_names_of_files_are_never_the_same():
    paths = ["a/x.wav", "b/x.wav", "x-2.wav", "x.flac", ".wav"]
    names = dict(file_names(paths))
    assert names == {"a/x.wav": "x", "b/x.wav": "x-2", "x-2.wav": "x-2-2", "x.flac": "x-3", ".wav": ".wav"}
    assert len(set(names.values())) == len(paths)
    # The second to which a part reaches is no ending: another command's explanation of the next part is not replaced.
    parts = ["r/x.wav@14.000-19.000", "r/x.wav@14.000-19.500"]
    assert [dict(file_names([part]))[part] for part in parts] == ["x.wav@14.000-19.000", "x.wav@14.000-19.500"]


def test_the_origin_names_the_model_and_the_settings(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    (tmp_path / "b").write_bytes(b"weights")
    (tmp_path / "c").write_bytes(b"others")
    first = made_from(tmp_path / "a", label=None, seed=0)
    assert made_from(tmp_path / "b", seed=0, label=None) == first
    assert (
        len({first, made_from(tmp_path / "c", label=None, seed=0), made_from(tmp_path / "a", label="x", seed=0)}) == 3
    )
