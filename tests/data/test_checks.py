import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from earsight.data import audio, open_dataset
from earsight.data.checks import check_dataset

RATE = 8000


def noise(seed, seconds=1.0, level=0.1):
    return level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def dataset(root, rows, *, header="path,label,fold,group"):
    """Write clips given as (label, fold, group, wave) and open them through a csv."""
    lines = [header]
    for number, (label, fold, group, wave) in enumerate(rows):
        path = root / f"{number}.wav"
        if isinstance(wave, bytes):
            path.write_bytes(wave)
        else:
            soundfile.write(path, wave, RATE, subtype="FLOAT")
        lines.append(f"{path.name},{label},{fold},{group}")
    (root / "clips.csv").write_text("\n".join(lines))
    return open_dataset(root / "clips.csv")


def good(count=40):
    return [("ab"[n % 2], 1 + n // 2 % 2, f"g{n}", noise(n)) for n in range(count)]


def kinds(report):
    return {finding.kind: finding.clips for finding in report.findings}


def test_good_clips_have_no_findings(tmp_path):
    seen = []
    report = check_dataset(dataset(tmp_path, good()), progress=lambda done, total: seen.append((done, total)))
    assert report.findings == ()
    assert report.errors == ()
    assert seen == [(n, 40) for n in range(1, 41)]
    assert json.loads(json.dumps(report.to_dict())) == {"clips": 40, "errors": 0, "counts": {}, "findings": []}


@pytest.mark.parametrize(
    ("wave", "kind"),
    [
        (np.zeros(RATE), "silent"),
        (np.full(RATE, 1e-5), "silent"),
        (np.full(RATE, 0.3), "constant"),
        (np.clip(noise(99, level=0.9), -1, 1), "clipped"),
        (noise(99, seconds=0.05), "short"),
        (np.concatenate([noise(99, 0.3), np.zeros(RATE)]), "padded"),
        (noise(99, seconds=3.0), "long"),
        (b"no sound\n", "unreadable"),
        (b"", "unreadable"),
    ],
)
def test_one_bad_clip_is_found_and_named(tmp_path, wave, kind):
    report = check_dataset(dataset(tmp_path, [*good(), ("a", 1, "bad", wave)]), workers=2)
    assert kinds(report) == {kind: ("40.wav",)}
    assert report.counts == {kind: 1}
    assert [finding.severity for finding in report.findings] == ["error" if kind == "unreadable" else "warning"]
    assert bool(report.errors) == (kind == "unreadable")


def test_what_becomes_of_long_clips_goes_by_the_layout(tmp_path):
    found = dataset(tmp_path, [*good(), ("a", 1, "long", noise(99, seconds=3.0))])
    for layout, text in (("csv", "cut into windows"), ("esc50", "only their first 1 s are used")):
        (finding,) = check_dataset(replace(found, layout=layout)).findings
        assert text in finding.text


@pytest.mark.parametrize(
    ("label", "fold", "kind", "said"),
    [
        ("a", 2, {"leak"}, "folds 1 and 2"),
        ("b", 1, {"label_conflict"}, "a and b"),
        ("a", 1, {"duplicate"}, "2 times"),
        ("b", 2, {"leak", "label_conflict"}, "a and b"),
    ],
)
def test_the_same_sound_twice(tmp_path, label, fold, kind, said):
    report = check_dataset(dataset(tmp_path, [*good(), (label, fold, "copy", noise(0))]))
    assert set(kinds(report)) == kind
    assert set(kinds(report).values()) == {("0.wav", "40.wav")}
    assert any(said in finding.text for finding in report.findings)
    assert not report.errors


def test_copies_in_drawn_folds_are_duplicates_whatever_the_draw(tmp_path):
    for label, seeds in (("a", range(10)), ("b", (0, *range(10, 19)))):
        for number, seed in enumerate(seeds):
            (tmp_path / label).mkdir(exist_ok=True)
            soundfile.write(
                tmp_path / label / f"{number}.wav", noise(seed if label == "b" else max(seed, 1) + 50), RATE
            )
    for seed in range(4):
        assert kinds(check_dataset(open_dataset(tmp_path, seed=seed))) == {"duplicate": ("a/0.wav", "a/1.wav")}


def test_lines_say_it_all_and_end(tmp_path):
    rows = [*good(), *(("a", 1 + n % 2, f"x{n}", b"no sound") for n in range(25)), ("b", 1, "z", np.zeros(RATE))]
    lines = check_dataset(dataset(tmp_path, rows)).lines()
    assert lines[0].startswith("error: unreadable: a text file")
    assert lines[0].endswith("(40.wav)")
    assert sum("unreadable" in line for line in lines) == 21
    assert "... and 5 more findings of kind unreadable; --json lists them all" in lines
    assert any(line.startswith("warning: silent: 1 clip silent") for line in lines)
    assert lines[-1] == "66 clips checked: 25 errors, 1 warning"
    assert check_dataset(dataset(tmp_path, good())).lines() == ["40 clips checked: 0 errors, 0 warnings"]


def test_the_same_sound_in_another_container_is_the_same(tmp_path):
    data = dataset(tmp_path, good())
    wave = (noise(0) * 2**15).astype(np.int16)
    soundfile.write(tmp_path / "0.wav", wave, RATE, format="FLAC", subtype="PCM_16")
    soundfile.write(tmp_path / "2.wav", wave, RATE, format="AIFF", subtype="PCM_16")
    assert kinds(check_dataset(data)) == {"leak": ("0.wav", "2.wav")}


def test_many_silent_clips_are_silent_and_not_copies(tmp_path):
    rows = [*good(), ("a", 1, "x", np.zeros(RATE)), ("b", 2, "y", np.zeros(RATE))]
    assert kinds(check_dataset(dataset(tmp_path, rows))) == {"silent": ("40.wav", "41.wav")}


def test_sources_that_straddle_folds(tmp_path):
    rows = [*good(), ("a", 1, "same", noise(98)), ("a", 2, "same", noise(99))]
    assert kinds(check_dataset(dataset(tmp_path, rows))) == {"group_straddles": ("40.wav", "41.wav")}


def test_low_rates(tmp_path):
    data = dataset(tmp_path, good())
    soundfile.write(tmp_path / "3.wav", noise(1000)[:4000], 4000)
    report = check_dataset(data)
    assert kinds(report) == {"rates": ("3.wav",)}
    assert "4000 Hz" in report.findings[0].text


def test_imbalance_and_few(tmp_path):
    rows = [("a", 1 + n % 2, f"g{n}", noise(n)) for n in range(13)]
    report = check_dataset(dataset(tmp_path, [*rows, ("b", 1, "x", noise(50)), ("b", 2, "y", noise(51))]))
    assert set(kinds(report)) == {"imbalance", "few"}
    assert "'b' (2)" in report.findings[1].text


def test_labels_with_braces_are_words(tmp_path):
    rows = [*good(), ("{n}", 1, "x", noise(0)), ("{n}", 2, "y", noise(52))]
    texts = [finding.text for finding in check_dataset(dataset(tmp_path, rows)).findings]
    assert any("a and {n}" in text for text in texts)


def test_blocks_change_nothing(tmp_path, monkeypatch):
    rows = [*good(), ("a", 1, "x", np.concatenate([noise(99, 0.3), np.zeros(RATE)])), ("b", 2, "y", noise(0))]
    data = dataset(tmp_path, rows)
    whole = check_dataset(data)
    monkeypatch.setattr(audio, "_BLOCK_VALUES", 1000)
    assert check_dataset(data, workers=1) == whole


@pytest.mark.real_audio
def test_esc10_has_nothing_that_stops(esc10):
    report = check_dataset(open_dataset(esc10))
    assert not report.errors
    assert report.clips == 400
    assert not {"leak", "label_conflict", "group_straddles", "imbalance", "few"} & set(report.counts)


def labelled(root, *labels):
    """A folder set with these classes, of one clip each, checked: texts of the findings on labels."""
    rows = ["path,label", *(f'{number}.wav,"{label}"' for number, label in enumerate(labels))]
    for number in range(len(labels)):
        soundfile.write(root / f"{number}.wav", noise(number), RATE)
    (root / "clips.csv").write_text("\n".join(rows), encoding="utf-8")
    found = check_dataset(open_dataset(root / "clips.csv", folds=None, labels="single")).findings
    return [finding.text for finding in found if finding.kind == "labels"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["low", "Low", "x"], ["classes 'Low' (1) and 'low' (1) differ only in case, blanks or marks"]),
        (["air_conditioner", "air conditioner"], ["classes 'air conditioner' (1) and 'air_conditioner' (1)"]),
        (
            ["dog", "dog\u200b"],
            ["classes 'dog' (1) and 'dog\\u200b' (1)", "class 'dog\\u200b' has outer blanks or marks"],
        ),
        (["dog\ufeff", "x"], ["class 'dog\\ufeff' has outer blanks or marks that are not seen: rename it"]),
        (["dog", "dog;chainsaw"], ["class 'dog;chainsaw' (1) looks like several labels: --labels several learns"]),
        (["nan", "x"], ["class 'nan' (1) looks like a missing label: leave its rows out, or rename it"]),
        (["None", "x"], ["class 'None' (1) looks like a missing label"]),
        (["a|b", "x"], ["class 'a|b' (1) looks like several labels"]),
        (["dog", "cat", "dog, cat"], ["class 'dog, cat' (1) looks like several labels"]),
        (["dog", "Male speech, man speaking"], []),
        (["\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645", "x"], []),  # a joiner that Persian spelling needs
        (["dog", "dogs", "{dog}"], []),
        (["1", "1.0", "1,0", "2"], ["classes '1' (1) and '1,0' (1) and '1.0' (1) are one number, written in several"]),
        (["7", "07", "70"], ["classes '07' (1) and '7' (1) are one number, written in several ways: give them one"]),
        (["1.5", "1.50", "15"], ["classes '1.5' (1) and '1.50' (1) are one number"]),
        (["1", "-1", "1.01", "1a"], []),
    ],
)
def test_labels_that_are_not_what_they_seem(tmp_path, labels, said):
    found = labelled(tmp_path, *labels)
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True))


def test_folders_with_outer_blanks_are_named(tmp_path):
    for number, folder in enumerate(("dog", " dog", "cat")):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "0.wav", noise(number), RATE)
    found = [f.text for f in check_dataset(open_dataset(tmp_path, folds=None)).findings if f.kind == "labels"]
    assert found[0].startswith("classes ' dog' (1) and 'dog' (1) differ only")
    assert found[1].startswith("class ' dog' has outer blanks")
