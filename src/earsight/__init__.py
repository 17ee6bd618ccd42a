"""earsight fine-tunes ImageNet-pretrained CNNs on spectrograms of sound.

From Python, the two things most people want::

    import earsight

    classifier = earsight.load("runs/mine/model.safetensors")
    print(classifier.predict("new.wav").label)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from earsight.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from earsight.inference.classifier import Classifier

__all__ = ["__version__", "load"]


def load(path: str | Path) -> Classifier:
    """Load a model file; see `earsight.inference.classifier.Classifier`.

    Raises
    ------
    earsight.errors.ModelError
        If the file is not a whole model file of this version of earsight.
    """
    # Imported here, so that `import earsight` and `earsight --help` do not wait for torch.
    from earsight.inference.classifier import load_classifier

    return load_classifier(path)


def __dir__() -> list[str]:
    """What is meant for callers; not what this file needs itself."""
    return sorted(__all__)
