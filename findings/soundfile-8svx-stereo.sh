#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2), PyAV 18.1.0 (FFmpeg 8.1.2), numpy 2.4.6: a stereo 8SVX, whose body holds all of the left
# channel and then all of the right one, as sox and FFmpeg read and write it. libsndfile takes it for two channels, as its CHAN
# chunk says, and their samples for interleaved; nothing is raised. Expected were the two tones, or an error.
# seen: soundfile: 9000 frames, each channel every second sample of one tone and then of the other; PyAV: the two tones
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 av==18.1.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
import struct

import av
import numpy as np
import soundfile as sf

count = 9000
left, right = (np.round(64 * np.sin(np.arange(count) / one)).astype("i1") for one in (3, 40))
head = struct.pack(">IIIHBBI", count, 0, 0, 8000, 1, 0, 0x10000)
chunks = [(b"VHDR", head), (b"CHAN", struct.pack(">I", 6)), (b"BODY", left.tobytes() + right.tobytes())]
body = b"".join(name + struct.pack(">I", len(one)) + one for name, one in chunks)
with open("a.8svx", "wb") as file:
    file.write(b"FORM" + struct.pack(">I", 4 + len(body)) + b"8SVX" + body)

found, _ = sf.read("a.8svx")
print("soundfile:", found.shape)
assert found.shape == (count, 2)
assert np.array_equal(found[: count // 2, 0] * 128, left[::2]) and np.array_equal(found[count // 2 :, 0] * 128, right[::2])
assert np.array_equal(found[: count // 2, 1] * 128, left[1::2]), "the channels are told apart now"
mixer = av.AudioResampler(format="u8p", layout="stereo")
with av.open("a.8svx") as source:
    frames = [part for frame in source.decode(audio=0) for part in mixer.resample(frame)]
planes = [np.concatenate([frame.to_ndarray()[channel] for frame in frames]).astype(int) - 128 for channel in (0, 1)]
print("PyAV:", len(planes), "channels of", len(planes[0]), "frames")
assert np.array_equal(planes[0], left) and np.array_equal(planes[1], right)
PY
