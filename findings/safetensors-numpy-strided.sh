#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.6: safetensors.numpy.save_file takes an array that is not contiguous, raises nothing, and
# the file holds its numbers in another order. Expected was an error, as safetensors.torch raises one, or the array.
# seen: saved [[0, 3], [1, 4], [2, 5]], read [[0, 1], [2, 3], [4, 5]]
# seen: every second of 0..7 saved as [0, 2, 4, 6], read as [0, 1, 2, 3]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
import numpy as np
from safetensors.numpy import load_file, save_file

grid = np.arange(6, dtype=np.int32).reshape(2, 3).T
save_file({"grid": grid, "half": np.arange(8, dtype=np.int32)[::2]}, "a.safetensors")
found = load_file("a.safetensors")
print("saved", grid.tolist(), "read", found["grid"].tolist())
print("saved [0, 2, 4, 6] read", found["half"].tolist())
assert grid.tolist() == [[0, 3], [1, 4], [2, 5]]
assert found["grid"].tolist() == [[0, 1], [2, 3], [4, 5]], "the order is kept now, or an error is raised"
assert found["half"].tolist() == [0, 1, 2, 3], "the stride is heeded now"
PY
