#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.4.6: a float WAV of the same samples, written two seconds later, is another
# file: its PEAK chunk holds the time of writing. Expected was the same bytes, as for 16 bits.
# seen: PCM_16: same bytes; FLOAT: differ, at offsets within the PEAK chunk alone
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
import time

import numpy as np
import soundfile as sf

wave = np.sin(np.arange(8000) / 9).astype(np.float32)
for subtype in ("PCM_16", "FLOAT"):
    data = []
    for name in ("a.wav", "b.wav"):
        sf.write(name, wave, 8000, subtype=subtype)
        data.append(open(name, "rb").read())
        time.sleep(2.1)
    off = [at for at, (a, b) in enumerate(zip(*data, strict=True)) if a != b]
    print(subtype, "offsets that differ:", off, "PEAK at", data[0].find(b"PEAK"))
    if subtype == "PCM_16":
        assert not off
    else:
        peak = data[0].index(b"PEAK")
        assert off and all(peak + 8 <= at < peak + 16 for at in off)
PY
