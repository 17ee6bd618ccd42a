#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2), PyAV 18.1.0, numpy 2.4.6: an Ogg file of two Vorbis streams one after the other, which
# the format allows (internet radio is recorded so). soundfile reads the first alone and raises nothing; PyAV raises where
# the second has another rate. Expected was both streams, or an error from both.
# seen: soundfile: 44100 of 66150 frames, no error; PyAV: 43972 samples, then PatchWelcomeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 av==18.1.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
import av
import numpy as np
import soundfile as sf

for name, rate in (("a.ogg", 44100), ("b.ogg", 22050)):
    sf.write(name, np.sin(np.arange(rate) / 20) * 0.5, rate, format="OGG", subtype="VORBIS")
with open("both.ogg", "wb") as out:
    out.write(open("a.ogg", "rb").read() + open("b.ogg", "rb").read())
frames = len(sf.read("both.ogg")[0])
print("soundfile:", frames, "frames")
assert frames == 44100
count, raised = 0, None
with av.open("both.ogg") as file:
    try:
        for frame in file.decode(audio=0):
            count += frame.samples
    except av.error.FFmpegError as error:
        raised = error
print("PyAV:", count, "samples, then", type(raised).__name__, raised)
assert isinstance(raised, av.error.PatchWelcomeError)
PY
