"""A front end whose channels differ as the default recipe's do, on half a second of sound."""

import pytest

from earsight.features.spectrogram import Spectrogram
from earsight.recipe import Features


@pytest.fixture(scope="session")
def front_end() -> Spectrogram:
    """Three windows, 64 bands, 40 columns of half a second at 16 kHz."""
    return Spectrogram(Features(sample_rate_hz=16000, clip_seconds=0.5, frames=40, bands=64))
