"""timm, imported in half the time."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from earsight.library_output import load_tqdm

_COMPILER = "torch._dynamo.utils"


def import_timm() -> ModuleType:
    """timm, without torch's compiler, which processes that never compile would wait for.

    torchvision's ``ops.roi_align`` imports a function of ``torch._dynamo.utils``, and timm's ``models.naflexvit`` calls
    `torch.compiler.disable`: each brings all of the compiler, SymPy and Triton, 1.2 of the 1.7 s of CPU time that
    ``import timm`` takes after torch, and 150 MB (torch 2.14.1, torchvision 0.29.1, timm 1.0.31). While timm is
    imported both are stand-ins, which load the compiler when they are used.
    """
    load_tqdm()
    if "timm" in sys.modules or "torch._dynamo" in sys.modules:
        return importlib.import_module("timm")
    late = sys.modules[_COMPILER] = _Late(_COMPILER)
    compiler: Any = torch.compiler
    disable, compiler.disable = compiler.disable, _disabled_late
    try:
        return importlib.import_module("timm")
    finally:
        compiler.disable = disable
        if sys.modules.get(_COMPILER) is late:
            del sys.modules[_COMPILER]


class _Late(ModuleType):
    """Stands for the compiler's module until that function is called, or anything else of it is asked for."""

    def is_compile_supported(self, device_type: str) -> bool:
        """What the real function says."""
        return bool(self._real().is_compile_supported(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)

    def _real(self) -> ModuleType:
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        return importlib.import_module(_COMPILER)


def _disabled_late(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A function that the compiler leaves alone, as `torch.compiler.disable` makes it when it is first called."""

    @functools.cache
    def disabled() -> Callable[..., Any]:
        compiler: Any = torch.compiler
        made: Callable[..., Any] = compiler.disable(function, **options)
        return made

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        return disabled()(*args, **named)

    return call
