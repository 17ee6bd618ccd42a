#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1.2), numpy 2.4.6: a Flash video of 20 s whose header announces sound alone, and whose picture begins
# after 12 s, as a live stream is recorded whose camera is switched on later. Demuxing or decoding its sound gives all of it
# and then raises IndexError, since the stream that was found midway is not among those that PyAV made at the start.
# Expected was that the iteration ends, as it does where the header announces both.
# seen: header announces both: 863 packets; sound alone: 863 packets, then IndexError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
from fractions import Fraction

import av
import numpy as np

with av.open("both.flv", "w") as out:
    sound = out.add_stream("aac", rate=44100)
    sound.layout = "mono"
    picture = out.add_stream("flv1", rate=10)
    picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
    wave = (0.1 * np.sin(np.arange(20 * 44100) / 20)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 44100, 0
    cutter = av.AudioResampler("fltp", "mono", 44100, frame_size=1024)
    packets = [one for part in [*cutter.resample(frame), *cutter.resample(None)] for one in sound.encode(part)]
    packets += sound.encode(None)
    for number in range(120, 200):
        image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), format="rgb24")
        image.pts, image.time_base = number, Fraction(1, 10)
        packets += picture.encode(image)
    packets += picture.encode(None)
    for packet in sorted(packets, key=lambda one: float(one.dts * one.time_base)):
        out.mux(packet)
data = bytearray(open("both.flv", "rb").read())
assert data[4] == 5
data[4] = 4  # sound alone
open("late.flv", "wb").write(data)

found = {}
for name in ("both.flv", "late.flv"):
    count, raised = 0, None
    with av.open(name) as file:
        try:
            for packet in file.demux(file.streams.audio[0]):
                count += packet.size > 0
        except IndexError as error:
            raised = error
    found[name] = count, type(raised).__name__
    print(name, count, "packets, then", raised or "the end")
assert found == {"both.flv": (863, "NoneType"), "late.flv": (863, "IndexError")}
PY
