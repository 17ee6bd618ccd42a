"""timm without torch's compiler: none of it is loaded to build and load a network, and all of it works afterwards."""

from __future__ import annotations

import subprocess
import sys


def python(code: str) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_network_is_built_and_computes_without_the_compiler():
    said = python(
        "import sys, torch\n"
        "from earsight.models.backbones import build, build_empty\n"
        "empty = build_empty('tf_efficientnet_lite0', classes=3)\n"
        "assert all(value.is_meta for value in empty.parameters())\n"
        "model = build('tf_efficientnet_lite0', classes=3, weights='none').eval()\n"
        "empty.load_state_dict(model.state_dict(), assign=True)\n"
        "x = torch.ones(1, 3, 32, 32)\n"
        "with torch.inference_mode():\n"
        "    assert torch.equal(empty.eval()(x), model(x))\n"
        "print([name for name in sys.modules if name.startswith('torch._dynamo')])"
    )
    assert said == "[]"


def test_what_waited_for_the_compiler_loads_it_when_it_is_used():
    said = python(
        "import sys, torch\n"
        "real = torch.compiler.disable\n"
        "from earsight.models.timm_import import import_timm\n"
        "timm = import_timm()\n"
        "assert torch.compiler.disable is real and 'torch._dynamo.utils' not in sys.modules\n"
        "from timm.models.naflexvit import NaFlexRopeIterator\n"
        "from torchvision.ops import roi_align\n"
        "boxes = roi_align(torch.arange(16.0).reshape(1, 1, 4, 4), [torch.tensor([[0.0, 0, 4, 4]])], 2, aligned=True)\n"
        "print(boxes.flatten().tolist())\n"
        "module = sys.modules['torchvision.ops.roi_align']\n"
        "print(module.is_compile_supported('cpu'))\n"
        "import torch._dynamo.utils\n"
        "print(torch._dynamo.utils.is_compile_supported('cpu'), torch._dynamo.utils.__spec__ is not None)"
    )
    boxes, late, direct = said.splitlines()
    assert boxes == "[2.5, 4.5, 10.5, 12.5]"
    assert direct == f"{late} True"


def test_another_name_of_the_stand_in_is_the_compilers_own():
    said = python(
        "import sys\n"
        "from earsight.models import timm_import\n"
        "sys.modules[timm_import._COMPILER] = timm_import._Late(timm_import._COMPILER)\n"
        "from torch._dynamo.utils import counters\n"
        "import torch._dynamo.utils\n"
        "print(counters is torch._dynamo.utils.counters)"
    )
    assert said == "True"


def test_a_function_that_the_compiler_leaves_alone_computes_as_it_is():
    said = python(
        "from earsight.models.timm_import import _disabled_late\n"
        "def double(x, *, by=2): return x * by\n"
        "late = _disabled_late(double)\n"
        "import sys\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "print(late(3), late(3, by=5), late.__name__, 'torch._dynamo' in sys.modules)"
    )
    assert said == "6 15 double True"
