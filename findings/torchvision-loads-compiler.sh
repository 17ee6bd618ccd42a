#!/usr/bin/env bash
# torch 2.14.1, torchvision 0.29.1, timm 1.0.31, Python 3.11: `import torchvision`, and so `import timm`, loads all of
# torch's compiler, with SymPy and Triton, where `import torch` does not: one file of torchvision's operators
# (ops/roi_align.py) imports one function of it. Drawing a weight on the meta device loads it too, though nothing is
# computed there; filling one with zeros does not. Expected was that only torch.compile loads the compiler. Here that was
# 1.2 s of CPU time and 150 MB before a first answer.
# seen: torch: no; torchvision: torch._dynamo, sympy, triton; timm: the same; meta zeros: no; meta normal_: the same
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 timm==1.0.31
look() {
    "$work/env/bin/python" - "$1" "$2" <<'PY'
import sys

exec(sys.argv[2])
loaded = [name for name in ("torch._dynamo", "sympy", "triton") if name in sys.modules]
print(f"{sys.argv[1]}: {', '.join(loaded) or 'no'}")
PY
}
{
    look torch "import torch"
    look torchvision "import torchvision"
    look timm "import timm"
    look "meta zeros" "import torch; torch.empty(3, device='meta').zero_()"
    look "meta normal_" "import torch; torch.empty(3, device='meta').normal_()"
} | tee "$work/seen"
diff - "$work/seen" <<'SEEN'
torch: no
torchvision: torch._dynamo, sympy, triton
timm: torch._dynamo, sympy, triton
meta zeros: no
meta normal_: torch._dynamo, sympy, triton
SEEN
