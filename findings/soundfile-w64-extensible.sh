#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2), PyAV 18.1.0 (FFmpeg 8.1), numpy 2.4.6: a W64 file of 32-bit floats in three channels, as FFmpeg writes it
# (WAVE_FORMAT_EXTENSIBLE, whose sub-format says float) is opened as PCM_32: the bits of the floats are read as integers, without
# an error. The same samples in RF64, which FFmpeg writes with the same format chunk, are read as floats. Expected was that the
# sub-format counts in both.
# seen: W64: subtype PCM_32, first samples 0.488 where 0.25 was written; RF64: FLOAT, the samples that were written
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 soundfile==0.14.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
import av
import numpy as np
import soundfile as sf

wave = np.linspace(0.25, 0.75, 15000, dtype=np.float32).reshape(5000, 3)
for name, container, options in (("a.w64", "w64", {}), ("a.rf64", "wav", {"rf64": "always"})):
    with av.open(name, "w", format=container, options=options) as out:
        stream = out.add_stream("pcm_f32le", rate=44100, layout="3.0")
        frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1), format="flt", layout="3.0")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    found = sf.read(name, dtype="float32")[0]
    print(name, sf.info(name).format, sf.info(name).subtype, len(found), "first", found[0])
    same = np.array_equal(found[:5000], wave)
    assert same == (name == "a.rf64"), "this has changed"
assert sf.info("a.w64").subtype == "PCM_32"
PY
