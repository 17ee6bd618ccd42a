"""Kernels are compiled in several processes, each once, and where other processes fail, in this one."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, sys, torch
from earsight.kernels import compiling, runtime
names = ("apply", "add_gradient", "finish_gradient", "input_gradient", "affine_gradients", "covariance")
compiling.MODULES = {name: runtime.MODULES[name] for name in names}
os.cpu_count = lambda: int(sys.argv[1])
if sys.argv[2] == "broken":
    compiling._CODE = "raise SystemExit(1)"
compiling.compile_kernels(torch.float32)
print(json.dumps([runtime.compiled(name, "float32")[0].cache_hits for name in names]))
"""


@pytest.mark.parametrize(
    ("cores", "others", "read"),
    [
        (8, "whole", [0, 1, 0, 1, 0, 1]),  # a third process would have too little to do
        (2, "broken", [0, 0, 0, 0, 0, 0]),
    ],
)
def test_who_compiles_what(tmp_path, cores, others, read):
    environment = os.environ | {"EARSIGHT_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(cores), others]
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)
    )
    assert json.loads(first.stdout) == read
    assert json.loads(second.stdout) == [1] * 6
    assert first.stderr == second.stderr == ""
