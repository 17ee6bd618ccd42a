"""Notebooks without ipywidgets: no library's warning about its progress bars, which earsight does not show."""

from __future__ import annotations

import subprocess
import sys

import pytest

NOTEBOOK = """
import sys, types, warnings
class Shell:  # as tqdm 4.70 knows a notebook, and older ones do
    config = {"IPKernelApp": 1}
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=Shell)
sys.modules["ipykernel.zmqshell"] = sys
sys.modules["ipywidgets"] = None
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    WORK
print([str(one.message) for one in seen if "IProgress" in str(one.message)])
"""
TIMM = "from earsight.models.timm_import import import_timm; import_timm()"
HUB = """from earsight.reports.hub import fetch
    try:
        fetch("hf://none")
    except Exception as error:
        assert "expected" in str(error)
"""
GRADIENTS = """import torch
    from earsight.analysis.attribution import integrated_gradients as found
    net, one = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), torch.ones(1, 3, 2, 2)
    found(net, one, silence=0 * one, target=0)"""


@pytest.mark.parametrize("work", [TIMM, HUB, GRADIENTS], ids=["timm", "hub", "captum"])
def test_no_warning_of_tqdm(work):
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK.replace("WORK", work)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "[]\n"
