#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.4.6: `compression_level` of an MP3 decides the bit rate, not the encoder's
# effort: the same ten seconds of noise at level 0 and at 0.99 differs several times in size and in what is left of it.
# Expected was effort, as the same argument is for FLAC.
# seen: FLAC: samples equal at both levels; MP3 at 44.1 kHz: 159,511 bytes at level 0 and 41,057 at 0.99, another sound
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
import os

import numpy as np
import soundfile as sf

noise = np.random.default_rng(0).normal(0, 0.1, 10 * 44100)
for kind in ("FLAC", "MP3"):
    size, read = {}, {}
    for level in (0.0, 0.99):
        name = f"a{level}.{kind.lower()}"
        sf.write(name, noise, 44100, format=kind, compression_level=level)
        size[level], read[level] = os.path.getsize(name), sf.read(name)[0]
    equal = np.array_equal(read[0.0], read[0.99])
    print(kind, "bytes", size, "same samples:", equal)
    if kind == "FLAC":
        assert equal
    else:
        assert not equal and size[0.0] > 3 * size[0.99]
PY
