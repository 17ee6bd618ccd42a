#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.4.6: a FLAC whose second half is missing. Seeks within what is there go where
# they should. One beyond it raises, and from then on nothing can be read from the open file: reading on, and seeks to
# places that could be reached before, raise as well. Expected was that the file stays usable, as it does for a WAV.
# seen: FLAC: seek to 1 s reads the right samples; seek to 5 s raises; then seek to 0 raises too; opened anew it is read
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
import numpy as np
import soundfile as sf

wave = np.random.default_rng(0).normal(0, 0.1, 6 * 44100)
sf.write("whole.flac", wave, 44100, subtype="PCM_16")
whole = sf.read("whole.flac")[0]
data = open("whole.flac", "rb").read()
open("cut.flac", "wb").write(data[: len(data) // 2])


def tried(work):
    """What it gives, or the error."""
    try:
        return work()
    except sf.LibsndfileError as error:
        return error


with sf.SoundFile("cut.flac") as file:
    print("frames promised:", file.frames)
    file.seek(44100)
    assert np.array_equal(file.read(1000), whole[44100:45100])
    beyond = tried(lambda: file.seek(5 * 44100))
    print("seek beyond the cut:", beyond)
    back, on = tried(lambda: file.seek(0)), tried(lambda: file.read(1000))
    print("then a seek to 0:", back, "- and reading:", on)
    assert isinstance(beyond, sf.LibsndfileError)
    assert isinstance(back, sf.LibsndfileError) and isinstance(on, sf.LibsndfileError), "the file stays usable now"
assert np.array_equal(sf.SoundFile("cut.flac").read(1000), whole[:1000])
PY
