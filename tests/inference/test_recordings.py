"""Recordings in windows: each is what predict says of that excerpt, wherever one begins and however the file ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from earsight.errors import AudioError, EarsightError
from earsight.inference import recordings
from earsight.inference.classifier import Classifier, load_classifier
from earsight.inference.events import EventRules
from earsight.inference.recordings import Recording, classify


@pytest.fixture(scope="module")
def classifier(trained):
    """The tiny model, made sure of itself, so that each sound makes a difference."""
    plain = load_classifier(trained / "model.safetensors")
    return Classifier(replace(plain.card, temperature=0.05), plain.model)


@pytest.fixture(scope="module")
def sounds(synthetic):
    """Some twelve seconds of several classes at the model's rate."""
    waves = [soundfile.read(synthetic.file(row), dtype="float32")[0] for row in range(0, 96, 8)]
    return np.concatenate(waves)


def _write(path, wave, rate, **kwargs):
    soundfile.write(path, wave, rate, **kwargs)
    return path


def _gather(items, found):
    """What came before the error stays."""
    for item in items:
        found.append(item)


def _shares(found):
    return [share for _, share in sorted(zip(found.classes, found.probabilities, strict=True))]


def _long(sounds, rate, model_rate, channels):
    import soxr

    wave = soxr.resample(sounds, model_rate, rate) if rate != model_rate else sounds
    return np.stack([wave, 0.3 * wave[::-1]], axis=1) if channels == 2 else wave


@pytest.mark.parametrize(("rate", "channels"), [(22050, 1), (48000, 2), (8000, 1)])
@pytest.mark.parametrize("hop", [0.37, 1.0, 2.5])
def test_a_window_is_what_predict_says_of_the_excerpt(classifier, sounds, tmp_path, rate, channels, hop):
    wave = _long(sounds, rate, classifier.sample_rate_hz, channels)
    path = _write(tmp_path / "long.wav", wave, rate, subtype="FLOAT")
    found = list(classifier.recording(path, hop_seconds=hop))
    worst = 0.0
    for window in found[::3] + found[-2:]:
        first, last = round(window.begin_seconds * rate), round(window.end_seconds * rate)
        excerpt = _write(tmp_path / "cut.wav", wave[first:last], rate, subtype="FLOAT")
        worst = max(worst, *np.abs(np.subtract(_shares(classifier.predict(excerpt)), _shares(window.found))))
    assert worst < 1e-3
    spread = np.array([_shares(window.found) for window in found]).std(axis=0).max()
    assert spread > 0.02, "a model that says the same of every sound proves nothing"
    assert {window.found.path for window in found} == {str(path)}


@pytest.mark.parametrize(
    ("seconds", "hop", "begins"),
    [
        (0.4, 1.0, [0.0]),
        (1.0, 1.0, [0.0]),
        (1.05, 1.0, [0.0]),
        (1.2, 1.0, [0.0, 1.0]),
        (1.05, 0.5, [0.0, 0.5]),
        (2.0, 0.5, [0.0, 0.5, 1.0]),
        (2.0, 0.75, [0.0, 0.75, 1.5]),
        (7.0, 3.0, [0.0, 3.0, 6.0]),
        (6.05, 3.0, [0.0, 3.0]),
        (9.5, 3.0, [0.0, 3.0, 6.0, 9.0]),
    ],
)
def test_where_windows_begin_and_end(classifier, sounds, tmp_path, seconds, hop, begins):
    rate = classifier.sample_rate_hz
    path = _write(tmp_path / "x.wav", sounds[: round(seconds * rate)], rate)
    found = list(classifier.recording(path, hop_seconds=hop))
    assert [window.begin_seconds for window in found] == pytest.approx(begins, abs=1 / rate)
    ends = [min(begin + 1.0, seconds) for begin in begins]
    assert [window.end_seconds for window in found] == pytest.approx(ends, abs=1 / rate)


def test_a_sound_shorter_than_a_window_is_padded_as_predict_does(classifier, sounds, tmp_path):
    path = _write(tmp_path / "x.wav", sounds[:3000], classifier.sample_rate_hz)
    (window,) = classifier.recording(path, hop_seconds=0.1)
    np.testing.assert_allclose(_shares(window.found), _shares(classifier.predict(path)), atol=1e-6)
    (tiny,) = classifier.recording(_write(tmp_path / "y.wav", sounds[:1], 96000), hop_seconds=0.1)
    assert tiny.end_seconds == pytest.approx(1 / 96000)


@pytest.mark.parametrize("kind", ["wav", "mp3"])
@pytest.mark.parametrize("hop", [0.29, 1.5])
def test_who_begins_at_a_later_batch_gets_the_same_bits(classifier, sounds, tmp_path, monkeypatch, kind, hop):
    monkeypatch.setattr(recordings, "BATCH", 3)
    path = _write(tmp_path / f"x.{kind}", _long(sounds, 44100, classifier.sample_rate_hz, 2), 44100)
    whole = list(Recording(classifier, path, hop_seconds=hop).batches())
    for first in range(1, len(whole) + 2):
        recording = Recording(classifier, path, hop_seconds=hop)
        later = list(recording.batches(first=first))
        assert recording.failure is None
        assert [batch.spans for batch in later] == [batch.spans for batch in whole[first:]]
        for ours, theirs in zip(later, whole[first:], strict=True):
            assert [wave.tobytes() for wave in ours.waves] == [wave.tobytes() for wave in theirs.waves]
    again = [classify(classifier, batch) for batch in whole[1:]]
    assert [window for batch in again for window in batch] == list(Recording(classifier, path, hop_seconds=hop))[3:]


def test_a_cut_file_is_classified_as_far_as_it_goes(classifier, sounds, tmp_path):
    rate = classifier.sample_rate_hz
    path = _write(tmp_path / "x.wav", sounds, rate, subtype="FLOAT")
    whole = list(classifier.recording(path, hop_seconds=0.5))
    (tmp_path / "cut.wav").write_bytes(path.read_bytes()[: rate * 4 * 6])
    found = []
    with pytest.raises(AudioError, match="truncated"):
        _gather(classifier.recording(tmp_path / "cut.wav", hop_seconds=0.5), found)
    assert 5.5 < found[-1].end_seconds <= 6.0
    assert [_shares(w.found) for w in found[:8]] == [_shares(w.found) for w in whole[:8]]
    events = []
    with pytest.raises(AudioError, match="truncated"):
        _gather(classifier.events(tmp_path / "cut.wav", hop_seconds=0.5, rules=EventRules(0.3)), events)
    assert events
    assert max(event.end_seconds for event in events) <= found[-1].end_seconds


def test_memory_does_not_grow_with_the_length(classifier, tmp_path):
    """Little more is decoded than is taken."""
    with soundfile.SoundFile(tmp_path / "x.wav", "w", 8000, 1, subtype="PCM_16") as file:
        for _ in range(300):
            file.write(np.zeros(80000))
    recording = classifier.recording(tmp_path / "x.wav", hop_seconds=1.0)
    windows = iter(recording)
    for _ in range(10):
        next(windows)
    assert recording.seconds < 300
    assert recording.promised_seconds == 3000
    windows.close()


@pytest.mark.parametrize("hop", [0.0, -1.0, float("nan"), float("inf"), 1e-9])
def test_a_hop_that_is_no_length(classifier, hop):
    with pytest.raises(EarsightError, match="hop is"):
        classifier.recording("x.wav", hop_seconds=hop)


def test_no_file(classifier):
    with pytest.raises(AudioError, match="no such file"):
        list(classifier.recording("absent.wav"))
