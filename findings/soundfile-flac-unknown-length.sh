#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.4.6: a FLAC whose STREAMINFO gives no total of samples (0, which the format
# allows for streams) is reported with 2**63 - 1 frames; soundfile.read refuses it, and reading it in blocks raises at the
# end of the file, because soundfile seeks after each read. All of its samples are there, and reads within them succeed.
# Expected was that a valid FLAC is read.
# seen: frames 9223372036854775807; read: ValueError; 10000 frames of 44100 are read; the last block: psf_fseek() failed
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
import numpy as np
import soundfile as sf

wave = np.random.default_rng(0).uniform(-0.5, 0.5, 44100)
sf.write("a.flac", wave, 44100, subtype="PCM_16")
data = bytearray(open("a.flac", "rb").read())
assert data[:4] == b"fLaC" and data[4] & 0x7F == 0
before = sf.read("a.flac")[0]
data[21] &= 0xF0  # the total's 36 bits: the low half of byte 13 of STREAMINFO, and the four bytes after it
data[22:26] = bytes(4)
open("b.flac", "wb").write(data)
print("frames", sf.info("b.flac").frames)
assert sf.info("b.flac").frames == 2**63 - 1
try:
    sf.read("b.flac")
    raise SystemExit("read succeeds now")
except (ValueError, MemoryError) as error:
    print("read:", type(error).__name__, error)
with sf.SoundFile("b.flac") as sound:
    first = sound.read(10000)
    assert np.array_equal(first, before[:10000])
    print("read(10000):", len(first), "frames, the same samples")
    try:
        while len(sound.read(10000)):
            pass
        raise SystemExit("the end is reached without an error now")
    except sf.LibsndfileError as error:
        print("at the end:", error)
PY
