#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1), soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.4.6: FLAC packets that FFmpeg copies into another
# FLAC file, as `ffmpeg -c copy` does when it cuts or joins, keep the header of the file that the first came from. Of a piece,
# FFmpeg and libsndfile both report the length of the whole, and soundfile.read raises at its end; of two files in a row,
# libsndfile reads the first alone without an error, and FFmpeg decodes both and reports the length of the first. Expected
# was that the total in the header is that of the packets, or 0, which the format has for unknown lengths.
# seen: piece: 40960 samples, header 200000, read: LibsndfileError; joined: 160000 samples, header 100000, soundfile 100000
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

wave = np.random.default_rng(0).uniform(-0.5, 0.5, 200_000)
for name, part in (("whole", wave), ("a", wave[:100_000]), ("b", wave[100_000:160_000])):
    sf.write(f"{name}.flac", part, 44100, subtype="PCM_16")


def copy(target, sources, most=None):
    with av.open(target, "w", format="flac") as out:
        stream = None
        for name in sources:
            with av.open(name) as source:
                stream = stream or out.add_stream_from_template(source.streams.audio[0])
                packets = [packet for packet in source.demux(audio=0) if packet.dts is not None]
                for packet in packets[:most]:
                    packet.stream = stream
                    out.mux(packet)


def decoded(name):
    with av.open(name) as file:
        return sum(frame.samples for frame in file.decode(audio=0)), round(file.duration / 1e6 * 44100)


copy("piece.flac", ["whole.flac"], most=10)
copy("joined.flac", ["a.flac", "b.flac"])
print("piece: FFmpeg decodes, reports", decoded("piece.flac"), "libsndfile reports", sf.info("piece.flac").frames)
assert abs(decoded("piece.flac")[1] - 200_000) < 2 and decoded("piece.flac")[0] == 40_960
assert sf.info("piece.flac").frames == 200_000
try:
    sf.read("piece.flac")
    raise SystemExit("the piece is read now")
except sf.LibsndfileError as error:
    print("soundfile.read:", type(error).__name__, error)
print("joined: FFmpeg decodes, reports", decoded("joined.flac"), "soundfile reads", len(sf.read("joined.flac")[0]))
assert decoded("joined.flac")[0] == 160_000 and abs(decoded("joined.flac")[1] - 100_000) < 2
assert len(sf.read("joined.flac")[0]) == 100_000
PY
