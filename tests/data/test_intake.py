"""Which channel and which band of a sound reach the network, and what is said of the rest."""

import tracemalloc

import numpy as np
import pytest
import soundfile

from earsight.data import audio, open_dataset
from earsight.data.checks import check_dataset, left_out
from earsight.data.intake import Loss, Meter, loss_texts, picked, rate_for, shares_above
from earsight.errors import AudioError
from earsight.recipe import Features, Recipe

RATE = 8000
FEATURES = Features(sample_rate_hz=RATE, clip_seconds=1.0, frames=50)


def tone(hz, *, rate=RATE, seconds=1.0, level=0.1):
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def chirps(hz, *, rate=256000, seconds=0.5, level=0.01, rumble=0.0, seed=0):
    """Calls of 5 ms that fall by a tenth, among wind below 300 Hz."""
    random, out = np.random.default_rng(seed), np.zeros(round(seconds * rate))
    size = round(0.005 * rate)
    sweep = np.cumsum(np.linspace(1.05, 0.95, size) * hz * random.uniform(0.98, 1.02)) / rate
    for begin in np.arange(0.03, seconds - 0.02, 0.1):
        at = round((begin + random.uniform(0, 0.01)) * rate)
        out[at : at + size] += level * np.hanning(size) * np.sin(2 * np.pi * sweep)
    wind = tone(100, rate=rate, seconds=seconds, level=rumble) + tone(270, rate=rate, seconds=seconds, level=rumble / 3)
    return out + wind + 1e-5 * random.standard_normal(len(out))


def measured(wave, *, rate=RATE, features=FEATURES):
    meter = Meter(features)
    meter.add(np.asarray(wave, dtype=np.float32).reshape(len(wave), -1), rate)
    return meter.loss


SIDES = np.stack([tone(440), tone(1000, level=0.3), tone(2000, level=0.05)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("channel", "expected"),
    [("mix", SIDES.mean(axis=1)), ("left", SIDES[:, 0]), ("right", SIDES[:, 1]), ("loudest", SIDES[:, 1])]
    + [(number + 1, SIDES[:, number]) for number in range(3)],
)
def test_a_channel_is_read_whole_and_in_pieces(tmp_path, monkeypatch, channel, expected):
    soundfile.write(tmp_path / "x.wav", SIDES, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(tmp_path / "x.wav", sample_rate_hz=RATE, channel=channel), expected)
    monkeypatch.setattr(audio, "_VALUES", 1000)
    for begin in (0.0, 0.3):
        found = [piece.wave for piece in audio.pieces(tmp_path / "x.wav", begin_seconds=begin, channel=channel)]
        assert len(found) > 10
        np.testing.assert_allclose(np.concatenate(found), expected[round(begin * RATE) :], atol=1e-8)


def test_one_channel_is_both_sides_and_has_no_second_number(tmp_path):
    soundfile.write(tmp_path / "x.wav", SIDES[:, 0], RATE, subtype="FLOAT")
    for channel in ("mix", "left", "right", "loudest", 1):
        wave = audio.read(tmp_path / "x.wav", sample_rate_hz=RATE, channel=channel)
        np.testing.assert_array_equal(wave, SIDES[:, 0])
    with pytest.raises(AudioError, match=r"has 1 channel, and features.channel is 2"):
        audio.read(tmp_path / "x.wav", sample_rate_hz=RATE, channel=2)


def test_the_loudest_of_a_file_is_that_of_all_its_seconds(tmp_path):
    wave = np.stack([np.repeat([0.1, 0.0], RATE), np.repeat([0.05, 0.3], RATE)], axis=1) * tone(300, seconds=2)[:, None]
    soundfile.write(tmp_path / "x.wav", wave, RATE, subtype="FLOAT")
    begin = audio.read(tmp_path / "x.wav", sample_rate_hz=RATE, seconds=0.5, channel="loudest")
    np.testing.assert_allclose(begin, wave[: RATE // 2, 1], atol=1e-7)


def test_the_loudest_of_a_cut_file_is_read_to_the_cut(tmp_path):
    soundfile.write(tmp_path / "x.wav", SIDES, RATE, subtype="FLOAT")
    content = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "x.wav").write_bytes(content[: len(content) // 2])
    found = []
    with pytest.raises(AudioError, match="truncated"):
        found.extend(piece.wave for piece in audio.pieces(tmp_path / "x.wav", channel="loudest"))
    with pytest.raises(AudioError, match="truncated"):
        audio.read(tmp_path / "x.wav", sample_rate_hz=RATE, channel="loudest")


def test_averages_that_cancel_are_measured():
    y = tone(440)
    assert measured(np.stack([y, -y], axis=1)).cancelled == pytest.approx(1, abs=1e-6)
    assert measured(np.stack([y, -0.5 * y], axis=1)).cancelled == pytest.approx(0.8, abs=1e-6)
    for fine in ([y, y], [y, 0 * y], [y, tone(1000)]):
        assert not measured(np.stack(fine, axis=1))
    right = measured(np.stack([y, -y], axis=1), features=FEATURES.model_copy(update={"channel": "right"}))
    assert not right
    silent = measured(np.stack([0.01 * y, y], axis=1), features=FEATURES.model_copy(update={"channel": "left"}))
    assert silent.lacking == pytest.approx(0.9999, abs=1e-5)
    assert silent


@pytest.mark.parametrize("constant", [0.0, 0.3, -1.0])
def test_silence_and_a_constant_are_named(constant):
    flat = np.full(3 * RATE, constant)
    assert measured(flat) == measured(np.stack([flat, 0 * flat], axis=1)) == Loss(silent=1.0)
    assert measured(flat).to_dict() == {"silent": 1.0}
    clicked = flat.copy()
    clicked[-1] += 3e-5  # a bit of 16
    meter = Meter(FEATURES)
    assert not meter.loss  # of nothing that was heard
    for first in range(0, len(flat), 5000):
        assert not first or meter.loss.silent
        meter.add(clicked[first : first + 5000, None].astype(np.float32), RATE)
    assert not meter.loss


@pytest.mark.parametrize("at", [0.0, 2.3, 7.0, 9.0])
@pytest.mark.parametrize("size", [100, 4001, 10 * RATE])
def test_what_cancels_in_one_window_is_not_made_good_by_others(at, size):
    """A second of ten in opposite phase is named where it is most of a window's energy, wherever it lies."""
    moment = (np.arange(10 * RATE) >= at * RATE) & (np.arange(10 * RATE) < (at + 1) * RATE)
    for level, window, named in ((1, 1.0, True), (1, 5.0, False), (3, 5.0, True), (2, 10.0, False), (5, 10.0, True)):
        y = noise(0, seconds=10) * np.where(moment, level, 1)
        features = FEATURES.model_copy(update={"clip_seconds": window})
        both, meter = np.stack([y, np.where(moment, -y, y)], axis=1).astype(np.float32), Meter(features)
        for first in range(0, len(both), size):
            meter.add(both[first : first + size], RATE)
        assert bool(meter.loss) is named
        # Of 13 in the energies of five seconds, 9 are lost.
        assert not named or meter.loss.cancelled > 0.65


def test_a_channel_that_falls_silent_for_a_window_is_named():
    y, left = noise(0, seconds=10), FEATURES.model_copy(update={"channel": "left"})
    dead = np.where(np.arange(len(y)) < 6 * RATE, y, 0)
    assert measured(np.stack([dead, y], axis=1), features=left).lacking == 1
    assert not measured(np.stack([y, dead], axis=1), features=left)
    assert not measured(1e-5 * np.stack([dead, y], axis=1), features=left)  # a recorder's own noise
    assert not measured(1e-5 * np.stack([y, -y], axis=1))


def test_calls_above_the_band_are_measured_however_seldom_and_whatever_rumbles():
    features = Features(sample_rate_hz=44100, clip_seconds=0.5, frames=50)
    for rumble in (0.0, 0.5):
        loss = measured(chirps(45000, rumble=rumble), rate=256000, features=features)
        assert loss.above > 0.9
        assert loss.above_hz == pytest.approx(45000, rel=0.05)
    kept = Features(sample_rate_hz=192000, clip_seconds=0.5, frames=50)
    assert not measured(chirps(45000, rumble=0.5), rate=256000, features=kept)
    assert measured(chirps(45000), rate=256000, features=kept.model_copy(update={"fmax_hz": 20000.0})).above > 0.9
    # A recorder's own noise is no call, nor is what lies above 22.05 kHz of an ordinary sound at 48 kHz.
    hiss = 2e-5 * np.random.default_rng(0).standard_normal(96000)
    assert not measured(hiss + tone(500, rate=96000), rate=96000, features=features)
    noise = 0.1 * np.random.default_rng(0).standard_normal(48000)
    for fmin_hz in (0.0, 20.0):
        near = features.model_copy(update={"fmin_hz": fmin_hz})
        assert measured(noise, rate=48000, features=near).above == 0


@pytest.mark.parametrize(("hz", "low", "least", "most"), [(12, 50, 0.99, 1), (18, 50, 0.99, 1), (60, 50, 0, 0.01)])
def test_a_low_limit_is_measured_in_moments_that_tell_it(hz, low, least, most):
    features = FEATURES.model_copy(update={"fmin_hz": float(low)})
    assert least <= measured(tone(hz, level=0.3), features=features).below <= most


def test_rumble_below_the_band_is_measured():
    features = FEATURES.model_copy(update={"fmin_hz": 200.0})
    assert measured(tone(50, level=0.3) + tone(1000, level=0.1), features=features).below == pytest.approx(
        0.9, abs=0.04
    )
    assert not measured(tone(1000) + tone(50, level=0.01), features=features)


def test_blocks_of_any_size_measure_the_same():
    features = Features(sample_rate_hz=44100, clip_seconds=0.5, frames=50)
    wave = chirps(45000, rumble=0.1).astype(np.float32)[:, None]
    meter = Meter(features)
    for first in range(0, len(wave), 5120):  # whole moments
        meter.add(wave[first : first + 5120], 256000)
    whole = measured(wave, rate=256000, features=features)
    assert meter.loss.above == pytest.approx(whole.above, rel=1e-5)
    short = Meter(features)
    short.add(wave[:7], 256000)
    assert short.loss == Loss()


def test_a_rate_that_a_header_claims_costs_no_memory():
    """20 ms at 4 GHz are 80 million samples, which a file of 4 kB would have made."""
    meter, block = Meter(Features(sample_rate_hz=22050, clip_seconds=1.0)), np.full((2000, 1), 0.1, np.float32)
    tracemalloc.start()
    try:
        meter.add(block, 4_000_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6
    assert meter.frames == 2000


def test_the_rate_follows_the_energy():
    shares = [shares_above([(chirps(hz, seed=seed).astype(np.float32)[:, None], 256000)], seconds=0.5)
              for seed in range(10) for hz in (45000, 60000)]  # fmt: skip
    assert rate_for(shares, most_hz=256000) == 192000
    assert rate_for(shares, most_hz=96000) == 96000
    low = [shares_above([(chirps(9000, seed=1).astype(np.float32)[:, None], 256000)], seconds=0.5)] * 30
    assert rate_for(low, most_hz=256000) == 44100
    assert rate_for(low + shares[:1], most_hz=256000) == 44100  # one of 31 is less than a twentieth
    assert rate_for(low + shares[:2], most_hz=256000) > 44100
    assert rate_for([], most_hz=96000) == 44100
    assert shares_above([(chirps(45000).astype(np.float32)[:, None], 256000)], seconds=0.01)[44100] == 0


def test_no_more_of_a_clip_is_decoded_than_its_seconds():
    taken = []

    def blocks():
        for hz in (9000, 9000, 45000, 45000):
            taken.append(hz)
            yield chirps(hz).astype(np.float32)[:, None], 256000

    assert shares_above(blocks(), seconds=1.0)[44100] < 0.1
    assert taken == [9000, 9000]
    assert shares_above(blocks(), seconds=1.5)[44100] > 0.9


def test_losses_are_named_with_the_field_that_chooses():
    losses = [("a", Loss(above=0.9, above_hz=45000)), ("b", Loss(above=0.2, above_hz=30000)), ("c", Loss()),
              ("d", Loss(cancelled=0.97)), ("e", Loss(below=0.5)), ("f", Loss(lacking=1.0))]  # fmt: skip
    found = loss_texts(losses, FEATURES.model_copy(update={"fmin_hz": 100.0, "channel": 2}), what="file")
    assert {kind: names for kind, (names, _) in found.items()} == {
        "above": ["a", "b"],
        "cancelled": ["d"],
        "below": ["e"],
        "lacking": ["f"],
    }
    for kind, words in {
        "above": ["2 files", "90 %", "4000 Hz", "around 45000 Hz", "features.sample_rate_hz"],
        "cancelled": ["1 file ", "97 %", "features.channel"],
        "below": ["features.fmin_hz = 100 Hz", "50 %"],
        "lacking": ["features.channel = 2", "loudest"],
    }.items():
        for word in words:
            assert word in found[kind][1]


def test_picking_keeps_the_average_bit_for_bit():
    np.testing.assert_array_equal(picked(SIDES, "mix"), SIDES.mean(axis=1, keepdims=True)[:, 0])


def bats(root, *, clips=12, rate=256000):
    for label, hz in (("low", 45000), ("high", 60000)):
        (root / label).mkdir(parents=True)
        for number in range(clips):
            wave = chirps(hz, rate=rate, rumble=0.05, seed=hash_of(label, number))
            soundfile.write(root / label / f"{number}.wav", wave, rate, subtype="PCM_16")
    return root


def hash_of(label, number):
    return 100 * len(label) + number


def test_auto_takes_a_rate_that_keeps_bats_and_leaves_ordinary_folders(tmp_path):
    data = open_dataset(bats(tmp_path / "bats"))
    assert data.hints.sample_rate_hz == 192000
    assert any("24 of 24 clips" in note and "192000 Hz" in note for note in data.notes)
    for rate, expected in ((96000, 44100), (48000, 44100), (22050, 22050)):
        for label in "ab":
            for number in range(5):
                place = tmp_path / str(rate) / label / f"{number}.wav"
                place.parent.mkdir(parents=True, exist_ok=True)
                hiss = 1e-5 * np.random.default_rng(number).standard_normal(rate)
                soundfile.write(place, tone(900 + number, rate=rate) + hiss, rate)
        assert open_dataset(tmp_path / str(rate)).hints.sample_rate_hz == expected


def test_check_and_train_name_what_a_rate_leaves_out(tmp_path):
    data = open_dataset(bats(tmp_path))
    plain = check_dataset(data, near=False)
    files = [(clip.path, data.file(row)) for row, clip in enumerate(data.clips)]
    assert not {"above", "silent"} & set(plain.counts)
    assert (
        left_out(files, Recipe().resolve(sample_rate_hz=192000, clip_seconds=0.5, frames=50).features, seconds=0.5)
        == []
    )
    recipe = Recipe().override(["features.sample_rate_hz=44100"])
    found = check_dataset(data, recipe=recipe, near=False)
    assert found.counts["above"] == 24
    features = recipe.resolve(sample_rate_hz=1, clip_seconds=0.5, frames=50).features
    (line,) = left_out(files, features, seconds=0.5)
    assert "of 24 clips listened to, 24 clips" in line
    assert "above 22050 Hz" in line
    cut = recipe.override(["features.fmin_hz=1000"])
    assert check_dataset(data, recipe=cut, near=False).counts["below"] == 24


def test_a_rate_follows_calls_late_in_long_clips(tmp_path):
    """Windows of training come from the whole clip, so that all of it is listened to."""
    for label, hz in (("low", 45000), ("high", 60000)):
        (tmp_path / label).mkdir()
        for number in range(2):
            quiet = 1e-5 * np.random.default_rng(number).standard_normal(31 * 192000)
            wave = np.concatenate([quiet, chirps(hz, rate=192000, seed=number)])
            soundfile.write(tmp_path / label / f"{number}.wav", wave, 192000)
    data = open_dataset(tmp_path, folds=None)
    assert (data.hints.clip_seconds, data.hints.sample_rate_hz) == (30.0, 192000)
    assert any("4 of 4 clips listened to have sound above 22050 Hz" in note for note in data.notes)
    files = [(clip.path, data.file(row)) for row, clip in enumerate(data.clips)]
    features = Recipe().resolve(sample_rate_hz=44100, clip_seconds=30.0, frames=50).features
    (line,) = left_out(files, features, seconds=600.0)
    assert "of 4 clips listened to, 4 clips with up to" in line
    assert left_out(files, features, seconds=30.0) == []


@pytest.mark.parametrize(("hz", "expected"), [(60000, 192000), (9000, 16000)])
def test_a_rate_follows_a_class_of_higher_rates_than_the_commonest(tmp_path, hz, expected):
    for label, count, rate in (("noise", 7, 16000), ("bat", 5, 256000)):
        (tmp_path / label).mkdir()
        for number in range(count):
            wave = chirps(hz, rate=rate, seed=number) if label == "bat" else tone(900, rate=rate)
            soundfile.write(tmp_path / label / f"{number}.wav", wave, rate)
    data = open_dataset(tmp_path, folds=None)
    assert data.hints.sample_rate_hz == expected
    assert any("5 of 12 clips listened to" in note for note in data.notes) is (hz == 60000)


def written(root, waves, rate=8000):
    for number, wave in enumerate(waves):
        label = root / "ab"[number % 2]
        label.mkdir(exist_ok=True)
        soundfile.write(label / f"{number:02}.wav", wave, rate, subtype="FLOAT")
    return open_dataset(root)


def noise(seed, level=0.1, seconds=1.0):
    return level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def test_level_silence_and_clipping_are_those_of_the_networks_wave(tmp_path):
    y, flat = noise(90), np.clip(noise(91, level=0.9), -1, 1)
    late = np.concatenate([noise(92), np.clip(noise(93, level=0.9, seconds=0.5), -1, 1)])
    odd = [np.stack([y, -y], axis=1), np.stack([flat, noise(94)], axis=1), np.stack([0 * y, noise(95)], axis=1), late]
    data = written(tmp_path, [*(np.stack([noise(n)] * 2, axis=1) for n in range(20)), *odd])
    cancels, clips, left_silent, late_clips = "a/20.wav", "b/21.wav", "a/22.wav", "b/23.wav"

    def kinds(*assignments):
        recipe = Recipe().override(["features.clip_seconds=1", "training.windows=first", *assignments])
        found = {}
        for one in check_dataset(data, recipe=recipe, near=False).findings:
            found.setdefault(one.kind, set()).update(one.clips)
        return {kind: clips for kind, clips in found.items() if kind in ("silent", "clipped", "cancelled", "lacking")}

    for rate in (8000, 4000):  # resampling hides neither
        rated = f"features.sample_rate_hz={rate}"
        assert kinds(rated) == {"silent": {cancels}, "cancelled": {cancels}, "clipped": {clips}}
        assert kinds(rated, "features.channel=right") == {}
        left = kinds(rated, "features.channel=left")
        assert left == {"silent": {left_silent}, "clipped": {clips}, "lacking": {left_silent}}
        assert kinds(rated, "features.channel=loudest") == {"clipped": {clips}}
        assert kinds(rated, "training.windows=all")["clipped"] == {clips, late_clips}


def test_what_lies_above_the_rate_alone_is_silence_to_the_network(tmp_path):
    data = written(tmp_path, [tone(3000, level=0.2) * (0.5 + n / 20) for n in range(10)])
    recipe = Recipe().override(["features.sample_rate_hz=4000"])
    assert check_dataset(data, recipe=recipe, near=False).counts["above"] == 10
    # The edges of a tone that begins at once remain.
    assert check_dataset(data, recipe=recipe, near=False).counts.get("clipped", 0) == 0
