import xml.etree.ElementTree as ElementTree
from pathlib import Path

import librosa
import matplotlib.image
import numpy as np
import pytest

from earsight.errors import EarsightError
from earsight.reports.figures import hz_ticks, mel_ticks, spectrogram_figure


def _pixels(path: Path) -> np.ndarray:
    """RGB of a PNG, 0 to 1."""
    return matplotlib.image.imread(path)[..., :3]


def _words(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("}text")]


def _draw(path: Path) -> None:
    spectrogram = np.random.default_rng(0).normal(size=(3, 16, 20))
    spectrogram_figure(spectrogram, path=path, seconds=1, band_hz=(0, 8000), windows_ms=(25, 50, 100), title="t")


@pytest.mark.parametrize(("rate", "bands"), [(44100, 128), (22050, 128), (16000, 64), (8000, 40)])
@pytest.mark.parametrize("low", [0, 100])
def test_ticks_lie_where_librosa_puts_the_centres_of_htk_bands(rate, bands, low):
    positions, labels = mel_ticks((low, rate / 2), bands=bands)
    edges_and_centres = librosa.mel_frequencies(n_mels=bands + 2, fmin=low, fmax=rate / 2, htk=True)
    at_ticks = np.interp([1000 * float(label) for label in labels], edges_and_centres, np.arange(-1, bands + 1))
    # Linear interpolation between two bands is off by a little; half a percent of a band does not show.
    np.testing.assert_allclose(positions, at_ticks, atol=0.02)
    assert "1" in labels
    assert len(labels) >= 4
    assert np.diff(positions).min() >= 0.065 * bands


def test_tick_of_one_kilohertz_by_hand():
    positions, labels = mel_ticks((0, 8000), bands=128)
    # 1 kHz is 999.986 mel and 8 kHz 2840.023 mel; 129 steps, and band 0 is one step up.
    assert positions[labels.index("1")] == pytest.approx(999.9855 / 2840.0230 * 129 - 1, abs=1e-4)
    # 8 kHz is the upper edge, outside the last band's centre.
    assert labels == ["0.25", "0.5", "1", "2", "4"]


def test_a_loud_band_is_drawn_at_its_place(tmp_path):
    spectrogram = np.full((3, 64, 100), -10.0)
    spectrogram[:, 48, :] = 5.0
    path = tmp_path / "new folder" / "spectrogram.png"
    spectrogram_figure(spectrogram, path=path, seconds=5, band_hz=(0, 22050), windows_ms=(25, 50, 100), title="t")
    image = _pixels(path)
    column = image[:, int(0.35 * image.shape[1])]  # clear of the title, the label and the ticks
    inked = np.flatnonzero(column.min(axis=1) < 0.9)
    panels = np.split(inked, np.flatnonzero(np.diff(inked) > 1) + 1)
    assert len(panels) == 3
    for panel in panels:
        bright = panel[(column[panel, 0] > 0.9)]
        assert (panel[-1] - bright.mean()) / len(panel) == pytest.approx(48.5 / 64, abs=0.015)


def test_spectrogram_says_what_its_axes_are(tmp_path):
    path = tmp_path / "spectrogram.svg"
    wave = np.sin(np.arange(44100))
    spectrogram = np.random.default_rng(0).normal(size=(3, 128, 250))
    title = r"tick_$tock \foo$ 猫.wav"
    spectrogram_figure(
        spectrogram, path=path, seconds=1, band_hz=(0, 22050), windows_ms=(25, 50, 100), title=title, wave=wave
    )
    words = _words(path)
    joined = " ".join(words)
    for expected in ("time in seconds", "log power", "kHz", "50 ms window", "wave", title):
        assert expected in joined
    assert words.count("16") == 3


def test_copied_channels_are_drawn_once(tmp_path):
    spectrogram = np.zeros((3, 32, 50))
    path = tmp_path / "spectrogram.svg"
    spectrogram_figure(spectrogram, path=path, seconds=1, band_hz=(0, 8000), windows_ms=(25,), title="silence")
    assert sum("ms window" in word for word in _words(path)) == 1
    assert sum(word == "1" for word in _words(path)) >= 1


def test_ticks_of_bands_lie_where_their_middles_are():
    positions, labels = hz_ticks(np.linspace(0, 8000, 81), room=0.12)
    assert dict(zip(labels, positions, strict=True)) == pytest.approx({"1": 10, "2": 20, "4": 40, "8": 80}, abs=1e-9)


@pytest.mark.parametrize("name", ["spectrogram.png", "spectrogram.svg"])
def test_same_data_same_bytes_and_nothing_is_left_beside_the_file(tmp_path, name):
    _draw(tmp_path / name)
    first = (tmp_path / name).read_bytes()
    _draw(tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_suffix_or_a_shape_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(EarsightError, match=r"suffix '\.pdf', expected \.png or \.svg"):
        _draw(tmp_path / "spectrogram.pdf")
    for shape, windows in (((64, 100), (25,)), ((3, 64, 100), (25, 50))):
        with pytest.raises(EarsightError, match="one window per channel"):
            spectrogram_figure(
                np.zeros(shape),
                path=tmp_path / "p.png",
                seconds=1,
                band_hz=(0, 4000),
                windows_ms=windows,
                title="",
            )
    assert not list(tmp_path.iterdir())
