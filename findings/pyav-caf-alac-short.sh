#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1.2), numpy 2.4.6: ALAC in CAF, written and read back by the same library. The last packet of ALAC
# holds only what is left of the sound, and the table in the file says by how much it is shorter than the others; where it
# is more than half full, that much is taken off its end once more. Expected was as many samples as were written.
# seen: of 10000 samples 10000 are decoded, of 3000 only 1904; with the flag skip_manual 3000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
import av
import numpy as np
from av.codec.context import Flags2


def there_and_back(wave, manual=False):
    """The samples that come back."""
    with av.open("a.caf", "w") as out:
        stream = out.add_stream("alac", rate=44100)
        stream.layout, stream.format = "mono", "s16p"
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16p", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        cutter = av.AudioResampler("s16p", "mono", 44100, frame_size=4096)
        for part in [*cutter.resample(frame), *cutter.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    with av.open("a.caf") as file:
        stream = file.streams.audio[0]
        if manual:
            stream.codec_context.flags2 |= Flags2.skip_manual
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(stream)])


for count, decoded in ((10000, 10000), (3000, 1904)):
    wave = (8000 * np.sin(np.arange(count) / 20)).astype(np.int16)
    found, manual = there_and_back(wave), there_and_back(wave, manual=True)
    print(f"{count} samples written, {len(found)} decoded, {len(manual)} with skip_manual")
    assert len(found) == decoded
    assert np.array_equal(manual, wave)
PY
