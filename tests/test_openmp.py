"""The command line and its workers have OpenMP's threads wait by sleeping; `import earsight` changes nothing."""

import os
import subprocess
import sys

import pytest

from earsight.openmp import SPINS, spin_briefly, spinning_briefly

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def printed(code, **environment):
    command = [sys.executable, "-c", "import os, sys\n" + code]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stdout


SHOW = "print([os.environ.get(name) for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')], 'torch' in sys.modules)"
AT_THE_VERB = f"from earsight import cli\ndef app():\n    {SHOW}\n    sys.exit(0)\ncli.app = app\ncli.main()"


@pytest.mark.parametrize(
    ("code", "environment", "wanted"),
    [
        (AT_THE_VERB, {}, f"['{SPINS}', None] False\n"),
        (AT_THE_VERB, {"OMP_WAIT_POLICY": "active"}, "[None, 'active'] False\n"),
        (AT_THE_VERB, {"GOMP_SPINCOUNT": "7"}, "['7', None] False\n"),
        (f"import earsight, earsight.execution.processes\n{SHOW}", {}, "[None, None] True\n"),
    ],
)
def test_who_changes_the_environment(code, environment, wanted):
    assert printed(code, **environment) == wanted


def test_for_a_block_only():
    with spinning_briefly():
        assert os.environ["GOMP_SPINCOUNT"] == str(SPINS)
    assert not os.environ.keys() & set(NAMES)
    spin_briefly()
    with spinning_briefly():
        pass
    assert os.environ["GOMP_SPINCOUNT"] == str(SPINS), "it was there before"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp is that of torch's wheels for Linux")
def test_torch_reads_it():
    shown = subprocess.run(
        [sys.executable, "-c", "from earsight.openmp import spin_briefly; spin_briefly(); import torch"],
        env=os.environ | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in shown
