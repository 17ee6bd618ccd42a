#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.4.6: of a Vorbis file whose wave goes beyond full scale, read as float32,
# samples above 1 come back as they are; read as int16 they wrap around to the other end of the range, where an MP3 of
# the same wave is clamped. Expected was clamping in both.
# seen: a square wave of 0.99 decodes to above 1.05 in both; Vorbis in int16 has samples of the wrong sign, MP3 none
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
import numpy as np
import soundfile as sf

square = np.where(np.arange(44100) % 100 < 50, 0.99, -0.99).astype(np.float32)
for kind, subtype in (("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")):
    name = f"a.{kind.lower()}"
    sf.write(name, square, 44100, format=kind, subtype=subtype)
    real, whole = (sf.read(name, dtype=dtype)[0] for dtype in ("float32", "int16"))
    loud = np.abs(real) > 1.01
    wrapped = int((np.sign(real[loud]) != np.sign(whole[loud])).sum())
    print(kind, f"peak {np.abs(real).max():.3f}, {loud.sum()} samples above 1.01, of wrong sign in int16: {wrapped}")
    assert loud.sum() > 100
    assert wrapped == (loud.sum() if kind == "OGG" else 0)
PY
