"""earsight fine-tunes ImageNet-pretrained CNNs on spectrograms of sound.

From Python: a folder in, a model and its report out::

    import earsight

    run = earsight.train("my_sounds", "runs/mine", progress=True)
    print(run.load().predict("new.wav").label)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from earsight.version import __version__

if TYPE_CHECKING:
    from earsight.api import Classifier, Drawing, Evaluation, Explanation, Run, crossval, evaluate, explain, load, train
    from earsight.commands.options import RunOptions
    from earsight.errors import EarsightError
    from earsight.inference.events import EventRules
    from earsight.inference.predictions import Event, Prediction, Window
    from earsight.inference.recordings import Recording
    from earsight.recipe import Recipe

# fmt: off
__all__ = [
    "Classifier", "Drawing", "EarsightError", "Evaluation", "Event", "EventRules", "Explanation", "Prediction",
    "Recipe", "Recording", "Run", "RunOptions", "Window", "__version__", "crossval", "evaluate", "explain", "load",
    "train",
]
# fmt: on


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import earsight` does not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'earsight' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module("earsight.api"), name)


def __dir__() -> list[str]:
    """What is meant for callers; not what this file needs itself."""
    return sorted(__all__)
