"""``python -m benchmarks.wrong_labels plant ESC10 CSV [--seed N]`` and ``... score CSV RUN``: suspected labels.

``plant`` writes a csv of ESC-10 in which one label in twenty is wrong, with the right ones in the column ``true``.
``score`` says how many of those ``earsight check CSV --run RUN`` suspects, by one seed, by two and so on.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from earsight.calibration.temperature import fit_temperature
from earsight.evaluation.label_errors import suspected_labels
from earsight.evaluation.summary import read_run

SHARE = 0.05


def plant(data: Path, target: Path, *, seed: int) -> None:
    with (data / "meta" / "esc50.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["category"] for row in rows})
    draws = np.random.default_rng(seed)
    wrong = set(draws.choice(len(rows), round(SHARE * len(rows)), replace=False).tolist())
    with target.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "fold", "group", "true"])
        for number, row in enumerate(rows):
            label = row["category"]
            if number in wrong:
                others = [name for name in names if name != label]
                label = others[draws.integers(len(others))]
            path = (data / "audio" / row["filename"]).absolute()
            table.writerow([path, label, row["fold"], row["src_file"], row["category"]])


def score(table: Path, run: Path) -> None:
    with table.open() as file:
        wrong = {Path(row["path"]).name for row in csv.DictReader(file) if row["label"] != row["true"]}
    trials = read_run(run)
    for seeds in range(1, 1 + len({trial.about["seed"] for trial in trials})):
        some = [trial for trial in trials if trial.about["seed"] < seeds]
        found = [Path(one.clip).name in wrong for one in suspected_labels(some, temperature=fit_temperature)]
        print(
            f"{seeds} seeds: {len(found)} suspected, {sum(found)} of them planted: precision "
            f"{sum(found) / max(1, len(found)):.0%}, recall {sum(found) / len(wrong):.0%} of {len(wrong)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("plant", "score"))
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "plant":
        plant(given.first, given.second, seed=given.seed)
    else:
        score(given.first, given.second)


if __name__ == "__main__":
    main()
