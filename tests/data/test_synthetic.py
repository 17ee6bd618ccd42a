import hashlib

import numpy as np
import pytest
import soundfile

from earsight.data import Hints, open_dataset
from earsight.data.synthetic import KINDS, write_synthetic
from earsight.errors import DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "s", clips_per_class=10, seconds=1.0)


def digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_it_opens_as_synthetic(root):
    data = open_dataset(root)
    assert data.name == "synthetic"
    assert data.layout == "esc50"
    assert data.hints == Hints(sample_rate_hz=22050, clip_seconds=1.0, frames=50)
    assert data.classes == tuple(sorted(KINDS))
    assert len(data.classes) == 10
    assert data.fold_numbers == (1, 2, 3, 4, 5)
    assert "synthetic" in data.describe()


def test_folds_are_even_and_sources_whole(root):
    data = open_dataset(root)
    for fold in data.fold_numbers:
        np.testing.assert_array_equal(np.bincount(data.labels[data.folds == fold]), np.full(10, 2))
    for group in set(data.groups):
        rows = data.groups == group
        assert rows.sum() == 2
        assert len(set(data.folds[rows])) == 1
        assert len(set(data.labels[rows])) == 1


def test_clips_are_sound_of_16_bits_and_all_different(root):
    data = open_dataset(root)
    seen = set()
    for row in range(len(data.clips)):
        wave, rate = soundfile.read(data.file(row))
        assert soundfile.info(data.file(row)).subtype == "PCM_16"
        assert (rate, wave.shape) == (22050, (22050,))
        assert 0.05 < np.abs(wave).max() < 0.75
        assert np.sqrt(np.mean(wave**2)) > 0.002
        seen.add(wave.tobytes())
    assert len(seen) == 100


def test_the_seed_decides_every_byte(root, tmp_path):
    again = write_synthetic(tmp_path / "again", clips_per_class=10, seconds=1.0)
    assert digests(again) == digests(root)
    other = digests(write_synthetic(tmp_path / "other", seed=1, clips_per_class=10, seconds=1.0))
    assert other.keys() == digests(root).keys()
    assert sum(other[name] == digest for name, digest in digests(root).items()) == 2  # the table and the marker


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"clips_per_class": 8}, "at least 10"),
        ({"clips_per_class": 11}, "even"),
        ({"seconds": 0.1}, "0.5 to 60"),
        ({"seconds": float("nan")}, "0.5 to 60"),
        ({"sample_rate_hz": 100}, "8000"),
        ({"seed": -1}, "seed"),
    ],
)
def test_numbers_out_of_range(tmp_path, numbers, message):
    with pytest.raises(DataError, match=message):
        write_synthetic(tmp_path / "s", **numbers)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write_synthetic(tmp_path / "file" / "below")
