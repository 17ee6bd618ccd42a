import xml.etree.ElementTree as ElementTree
from pathlib import Path

import librosa
import matplotlib.image
import numpy as np
import pytest

from earsight.errors import EarsightError
from earsight.evaluation.metrics import softmax
from earsight.reports.figures import (
    confusion_figure,
    curves_figure,
    mel_ticks,
    reliability_figure,
    spectrogram_figure,
)


def _pixels(path: Path) -> np.ndarray:
    """RGB of a PNG, 0 to 1."""
    return matplotlib.image.imread(path)[..., :3]


def _words(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("}text")]


def _history() -> list[dict[str, float | None]]:
    return [{"epoch": n, "loss": 2 / n, "accuracy": 1 - 1 / n, "learning_rate": 1e-3 / n} for n in range(1, 9)]


@pytest.mark.parametrize(("rate", "bands"), [(44100, 128), (22050, 128), (16000, 64), (8000, 40)])
def test_ticks_lie_where_librosa_puts_the_centres_of_htk_bands(rate, bands):
    positions, labels = mel_ticks(rate, bands=bands)
    edges_and_centres = librosa.mel_frequencies(n_mels=bands + 2, fmin=0, fmax=rate / 2, htk=True)
    at_ticks = np.interp([1000 * float(label) for label in labels], edges_and_centres, np.arange(-1, bands + 1))
    # Linear interpolation between two bands is off by a little; half a percent of a band does not show.
    np.testing.assert_allclose(positions, at_ticks, atol=0.02)
    assert "1" in labels
    assert len(labels) >= 4
    assert np.diff(positions).min() >= 0.065 * bands


def test_tick_of_one_kilohertz_by_hand():
    positions, labels = mel_ticks(16000, bands=128)
    # 1 kHz is 999.986 mel and 8 kHz 2840.023 mel; 129 steps, and band 0 is one step up.
    assert positions[labels.index("1")] == pytest.approx(999.9855 / 2840.0230 * 129 - 1, abs=1e-4)
    # 8 kHz is the upper edge, outside the last band's centre.
    assert labels == ["0.25", "0.5", "1", "2", "4"]


def test_a_loud_band_is_drawn_at_its_place(tmp_path):
    picture = np.full((3, 64, 100), -10.0)
    picture[:, 48, :] = 5.0
    path = tmp_path / "new folder" / "picture.png"
    spectrogram_figure(picture, path=path, seconds=5, sample_rate_hz=44100, windows_ms=(25, 50, 100), title="t")
    image = _pixels(path)
    column = image[:, int(0.35 * image.shape[1])]  # clear of the title, the label and the ticks
    inked = np.flatnonzero(column.min(axis=1) < 0.9)
    panels = np.split(inked, np.flatnonzero(np.diff(inked) > 1) + 1)
    assert len(panels) == 3
    for panel in panels:
        bright = panel[(column[panel, 0] > 0.9)]
        assert (panel[-1] - bright.mean()) / len(panel) == pytest.approx(48.5 / 64, abs=0.015)


def test_spectrogram_says_what_its_axes_are(tmp_path):
    path = tmp_path / "picture.svg"
    wave = np.sin(np.arange(44100))
    picture = np.random.default_rng(0).normal(size=(3, 128, 250))
    title = r"tick_$tock \foo$ 猫.wav"
    spectrogram_figure(
        picture, path=path, seconds=1, sample_rate_hz=44100, windows_ms=(25, 50, 100), title=title, wave=wave
    )
    words = _words(path)
    joined = " ".join(words)
    for expected in ("time in seconds", "log power", "kHz", "50 ms window", "wave", title):
        assert expected in joined
    assert words.count("16") == 3


def test_copied_channels_are_drawn_once(tmp_path):
    picture = np.zeros((3, 32, 50))
    path = tmp_path / "picture.svg"
    spectrogram_figure(picture, path=path, seconds=1, sample_rate_hz=16000, windows_ms=(25,), title="silence")
    assert sum("ms window" in word for word in _words(path)) == 1
    assert sum(word == "1" for word in _words(path)) >= 1


@pytest.mark.parametrize("number", [2, 10, 50, 120])
def test_confusion_names_each_class_and_counts(tmp_path, number):
    counts = np.diag(np.full(number, 7))
    counts[0, 1] = 3
    classes = [f"dog_{index} $" for index in range(number)]
    path = tmp_path / "confusion.svg"
    confusion_figure(counts, classes, path=path)
    words = _words(path)
    if number <= 60:
        assert sum(word == "7" for word in words) == number
        assert sum(word == "3" for word in words) == 1
        assert all(words.count(name) == 2 for name in classes)
    assert any(f"{7 * number} of {7 * number + 3} clips right" in word for word in words)


def test_confusion_is_dark_where_the_clips_are_and_survives_empty_rows_and_long_names(tmp_path):
    path = tmp_path / "confusion.PNG"
    counts = np.zeros((12, 12), dtype=int)
    confusion_figure(counts, ["x" * 300] * 12, path=path)
    empty = (_pixels(path).mean(axis=2) < 0.2).mean()
    counts[:, 0] = 9
    confusion_figure(counts, ["x" * 300] * 12, path=path)
    assert (_pixels(path).mean(axis=2) < 0.2).mean() > empty + 0.02


def test_curves_have_the_accuracy_where_there_is_one(tmp_path):
    path = tmp_path / "curves.svg"
    curves_figure(_history(), path=path)
    words = _words(path)
    assert {"training loss", "held-out accuracy in %", "learning rate", "epoch"} <= set(words)
    curves_figure([*_history(), {"epoch": 9, "loss": 0.1, "learning_rate": 0.0}], path=path, scored="inner")
    assert "inner accuracy in %" in _words(path)
    without = [{key: value for key, value in row.items() if key != "accuracy"} for row in _history()]
    curves_figure(without, path=path)
    assert not any("accuracy" in word for word in _words(path))


def test_curves_without_rows_or_keys_are_refused(tmp_path):
    with pytest.raises(EarsightError, match="0 epochs"):
        curves_figure([], path=tmp_path / "curves.png")
    with pytest.raises(EarsightError, match="lacks loss, learning_rate"):
        curves_figure([{"epoch": 1}], path=tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def test_reliability_gives_its_error(tmp_path):
    generator = np.random.default_rng(0)
    probabilities = softmax(generator.normal(size=(300, 4)))
    path = tmp_path / "reliability.svg"
    reliability_figure(probabilities, generator.integers(0, 4, size=300), path=path)
    assert any(word.startswith("expected calibration error") for word in _words(path))
    reliability_figure(np.eye(4), np.arange(4), path=path)
    assert "expected calibration error 0.0 %" in _words(path)


@pytest.mark.parametrize("name", ["curves.png", "curves.svg"])
def test_same_data_same_bytes_and_nothing_is_left_beside_the_file(tmp_path, name):
    curves_figure(_history(), path=tmp_path / name)
    first = (tmp_path / name).read_bytes()
    curves_figure(_history(), path=tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_suffix_or_a_shape_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(EarsightError, match=r"suffix '\.pdf', expected \.png or \.svg"):
        curves_figure(_history(), path=tmp_path / "curves.pdf")
    with pytest.raises(EarsightError, match="one row per class"):
        confusion_figure(np.zeros((3, 3)), ["a", "b"], path=tmp_path / "confusion.png")
    for shape, windows in (((64, 100), (25,)), ((3, 64, 100), (25, 50))):
        with pytest.raises(EarsightError, match="one window per channel"):
            spectrogram_figure(
                np.zeros(shape),
                path=tmp_path / "p.png",
                seconds=1,
                sample_rate_hz=8000,
                windows_ms=windows,
                title="",
            )
    assert not list(tmp_path.iterdir())
