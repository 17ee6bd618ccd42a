"""Write the boxes of ``BOXES`` as other programs write them, and have them read what earsight writes.

    pip install crowsetta==5.1.2 opensoundscape==0.13.2 ipython
    python tests/data/boxes_by_others/make.py tests/data/boxes_by_others

The files beside this one came of it; `tests/data/test_boxes_by_others.py` reads them. With ``--read FOLDER``, which
`earsight predict --hop --format raven` and ``audacity`` filled with ``x.raven.txt``, ``many.raven.txt`` and
``x.audacity.txt``, what the two read of them is printed as JSON.
"""

import json
import sys
from pathlib import Path

import crowsetta
import numpy as np
import pandas as pd
from opensoundscape.annotations import BoxedAnnotations

BOXES = (
    ("a.wav", 0.25, 1.75, "owl", 200.0, 900.5),
    ("a.wav", 3.5, 4.125, 'it\'s a "wren"', 2000.0, 7000.0),
    ("b.wav", 0.1, 0.333333, "owl", 250.0, 800.0),
)


def write(folder):
    frame = pd.DataFrame(BOXES, columns=["audio_file", "start_time", "end_time", "annotation", "low_f", "high_f"])
    others = BoxedAnnotations(frame, audio_files=["a.wav", "b.wav"])
    (folder / "opensoundscape").mkdir(exist_ok=True)
    others.to_csv(folder / "opensoundscape.csv")
    others.to_raven_files(folder / "opensoundscape")
    mine = frame[frame.audio_file == "a.wav"].drop(columns="audio_file")
    names = {"start_time": "begin_time_s", "end_time": "end_time_s", "low_f": "low_freq_hz", "high_f": "high_freq_hz"}
    raven = mine.rename(columns=names)
    crowsetta.formats.bbox.Raven(df=raven, annot_path="a.txt", annot_col="Annotation").to_file(
        folder / "crowsetta.raven.txt"
    )
    track = raven.rename(columns={"annotation": "label"})
    track = track[["begin_time_s", "end_time_s", "label", "low_freq_hz", "high_freq_hz"]]
    crowsetta.formats.bbox.AudBBox(df=track, annot_path="a.txt").to_file(folder / "crowsetta.audbbox.txt")
    crowsetta.formats.seq.AudSeq(
        start_times=mine.start_time.to_numpy(),
        end_times=mine.end_time.to_numpy(),
        labels=mine.annotation.to_numpy(),
        annot_path="a.txt",
    ).to_file(folder / "crowsetta.audseq.txt")
    crowsetta.formats.seq.SimpleSeq(
        onsets_s=mine.start_time.to_numpy(),
        offsets_s=mine.end_time.to_numpy(),
        labels=mine.annotation.to_numpy(),
        annot_path=Path("a.csv"),
    ).to_file(folder / "crowsetta.simple.csv")
    sequence = crowsetta.Sequence.from_keyword(
        labels=mine.annotation.to_numpy(),
        onsets_s=mine.start_time.to_numpy(),
        offsets_s=mine.end_time.to_numpy(),
        onset_samples=np.round(mine.start_time.to_numpy() * 8000).astype(int),
        offset_samples=np.round(mine.end_time.to_numpy() * 8000).astype(int),
    )
    annotation = crowsetta.Annotation(annot_path=Path("a.csv"), notated_path=Path("a.wav"), seq=sequence)
    crowsetta.formats.seq.GenericSeq(annots=[annotation]).to_file(folder / "crowsetta.generic.csv")


def read(folder):
    raven = crowsetta.formats.bbox.Raven.from_file(folder / "x.raven.txt", annot_col="Class")
    track = crowsetta.formats.seq.AudSeq.from_file(folder / "x.audacity.txt")
    out = {
        "crowsetta raven": [[one.onset, one.offset, one.label] for one in raven.to_bbox()],
        "crowsetta audacity": [
            [float(begin), float(end), str(label)]
            for begin, end, label in zip(track.start_times, track.end_times, track.labels, strict=True)
        ],
    }
    for name in ("x", "many"):
        frame = BoxedAnnotations.from_raven_files(
            [folder / f"{name}.raven.txt"], annotation_column="Class", audio_files=["x.wav"]
        ).df
        out[f"opensoundscape raven {name}"] = frame[["start_time", "end_time", "annotation"]].values.tolist()
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        read(Path(sys.argv[2]))
    else:
        write(Path(sys.argv[1]))
