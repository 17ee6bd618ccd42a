"""What is said of the paper's claims: nothing beyond the numbers, and no difference inside the noise."""

from __future__ import annotations

from earsight.experiments.claims import (
    representations_claims,
    similarity_claims,
    sweep_claims,
    table1_claims,
    table2_claims,
    table3_claims,
    windows_claims,
)

NOTHING = {"accuracy": None, "gap": None, "paper": None}


def difference(mean, low, high, p, *, beyond):
    found = {"mean": mean, "ci95": [low, high], "ci95_with_seeds": None, "p_value": p}
    return {"difference": found, "beyond_noise": beyond}


UP = difference(0.11, 0.078, 0.142, 1e-9, beyond=True)
DOWN = difference(-0.05, -0.09, -0.01, 0.01, beyond=True)
FLAT = difference(0.01, -0.02, 0.04, 0.6, beyond=False)


def row(found, **more):
    return {
        **{"model": "Lite0", "title": "ESC-10", "paper_title": None, "paper_difference": None, "difference": found},
        **{"pretrained": NOTHING, "random": NOTHING, **more},
    }


def test_table1_says_where_the_claim_holds():
    (said,) = table1_claims([row(UP), row(UP)])
    assert "holds, beyond the noise, in the 2 pairs." in said
    assert "Lite0 on ESC-10: +11.0 points (95 % +7.8 to +14.2, p = 1e-09)" in said
    (said,) = table1_claims([row(UP), row(FLAT), row(None)])
    assert "holds beyond the noise in 1 of the 2 pairs run of 3; in the others no difference is shown" in said
    assert "p = 0.6, within the noise" in said
    (said,) = table1_claims([row(FLAT)])
    assert "not shown: no difference beyond the noise in the one pair" in said
    (said,) = table1_claims([row(DOWN), row(UP)])
    assert "contradicted beyond the noise in 1 and held beyond it in 1 of the 2 pairs" in said
    assert table1_claims([row(None)])[0].endswith("not tested yet, for no pair was run on both sides.")
    (said,) = table1_claims([row(UP, paper_difference=18.66, paper_title="ESC-50")])
    assert "in the paper +18.66 on ESC-50" in said


def test_the_interval_with_seeds_is_the_one_that_is_said():
    wide = {**UP["difference"], "ci95_with_seeds": [0.02, 0.2]}
    (said,) = table1_claims([row({**UP, "difference": wide})])
    assert "95 % +2.0 to +20.0" in said


def test_gaps_are_counted_by_what_the_interval_leaves_out():
    def cell(low, high):
        return {"accuracy": {}, "paper": 90.0, "gap": {"points": (low + high) / 2, "ci95": [low, high]}}

    said = table1_claims([row(None, pretrained=cell(-3, 1), random=cell(1, 2)), row(None, pretrained=cell(-5, -2))])[1]
    assert "holds it for 1, lies above it for 1, lies below it for 1 of 3 cells" in said


def test_table2_is_about_the_gain():
    gain = {"difference": 0.02, "ci95": [0.014, 0.026], "p_value": 1e-6, "beyond_noise": True}
    base = {"model": "Lite0", "title": "ESC-10", "paper_title": "ESC-50", "single": NOTHING, "ensemble": NOTHING}
    (said,) = table2_claims([{**base, "gain": gain, "paper_gain": 1.73}])
    assert "holds, beyond the noise, in the one row. Lite0 on ESC-10: +2.0 points" in said
    assert "in the paper +1.73 on ESC-50" in said
    (said,) = table2_claims([{**base, "gain": {**gain, "beyond_noise": False}, "paper_gain": None}])
    assert "not shown" in said


def test_table3_ranks_nothing():
    ours = {
        **{"data": "esc10", "title": "ESC-10", "model": "Lite0", "ensemble": NOTHING},
        "single": {"accuracy": {"mean": 0.95, "ci95": [0.93, 0.97]}},
    }
    others = [{"who": name, "figures": {"esc10": value}} for name, value in (("A", 99.75), ("B", 94), ("C", 90))]
    said = table3_claims([ours], [*others, {"who": "D", "figures": {"esc50": 91.5}}])
    assert "our single network (Lite0) is at 95.0 %" in said[0]
    assert "within it: B (94.00); above it: A (99.75); below it: C (90.00)." in said[0]
    assert "no rank is given" in said[1]
    assert table3_claims([{**ours, "single": NOTHING}], others) == ["Not compared yet: no row of ours was run."]


def test_representations_name_the_others():
    rows = [
        {"name": "log-mel", "difference": None},
        {"name": "MFCC", "difference": UP},
        {"name": "x", "difference": None},
    ]
    (said,) = representations_claims(rows, "log-mel")
    assert said.startswith(
        "Of the representations, log-mel is the best: holds, beyond the noise, in the one comparison"
    )
    assert "Against MFCC: +11.0" in said


def test_windows_are_judged_pair_by_pair():
    (said,) = windows_claims([row(UP), row(FLAT)])
    assert said.startswith("Three windows are better than one: holds beyond the noise in 1 of the 2 pairs")
    assert windows_claims([row(None)])[0].endswith("not tested yet, for no pair was run on both sides.")


def points(*values):
    """Stages with (difference, half of its interval, p); the reference is last."""
    made = [
        {"stage": f"block{n}", "difference": {"mean": mean, "ci95": [mean - half, mean + half], "p_value": p}}
        for n, (mean, half, p) in enumerate(values)
    ]
    return [*made, {"stage": "all", "difference": None}]


def swept(kind, *values, seeds=(0,)):
    return sweep_claims({"analysis": kind, "points": points(*values), "seeds": list(seeds)})[0]


LOSS, SAME = (-0.2, 0.05, 1e-6), (-0.01, 0.02, 0.5)


def test_fusion():
    assert "holds: pretraining up to block2 is not worse" in swept("fusion", LOSS, LOSS, SAME)
    assert "up to block1 it is" in swept("fusion", LOSS, LOSS, SAME)
    assert "is contradicted: pretraining up to block1 is worse" in swept("fusion", LOSS, LOSS)
    assert "the second not shown" in swept("fusion", SAME, SAME)
    said = swept("fusion", LOSS, SAME)
    assert "block0 -20.0 (-25.0 to -15.0), block1 -1.0 (-3.0 to +1.0, noise)" in said
    assert "One seed" in said
    assert "One seed" not in swept("fusion", LOSS, SAME, seeds=(0, 1))
    # A bootstrap interval that leaves 0 out is not enough: p must be small too.
    assert "the second not shown" in swept("fusion", (-0.02, 0.01, 0.2), SAME)


def test_freeze_and_cutoff():
    # Only the deepest stage costs anything: that is no growth with depth.
    assert "not shown: freezing up to block1, the deepest, costs more than the noise" in swept("freeze", SAME, LOSS)
    more = (-0.3, 0.05, 1e-6)
    assert "holds: up to block0 nothing is lost beyond the noise, from block1 on accuracy is lost" in swept(
        "freeze", SAME, LOSS, more
    )
    assert "holds: from block0 on accuracy is lost" in swept("freeze", LOSS, more)
    assert "not so: from block0 on accuracy is lost" in swept("freeze", more, LOSS)
    assert "freezing no stage costs anything beyond the noise" in swept("freeze", SAME, SAME)
    assert "ending after block1 costs nothing beyond the noise; ending after block0 does" in swept("cutoff", LOSS, SAME)
    assert "ending after block1 already costs more than the noise" in swept("cutoff", LOSS, LOSS)
    assert "no cut costs anything" in swept("cutoff", SAME, SAME)


def test_similarity_of_two_runs():
    def run(*by_fold):
        return {
            "trials": [
                {"fold": fold, "seed": 0, "stage": f"block{n}", "svcca": value}
                for fold, values in enumerate(by_fold)
                for n, value in enumerate(values)
            ]
        }

    falling = run([0.9, 0.8, 0.6, 0.4], [0.9, 0.8, 0.6, 0.5], [0.8, 0.9, 0.6, 0.5])
    flat = run([0.3, 0.3, 0.3, 0.2], [0.3, 0.4, 0.3, 0.2], [0.3, 0.3, 0.2, 0.3])
    kept, changed = similarity_claims({"runs": [falling, flat]})
    assert kept.startswith("Pretrained stages stay more like their start than random ones: holds.")
    assert "0.69 against 0.28, difference +0.41 (95 % +0.3" in kept
    assert changed.startswith(
        "When pretrained, likeness falls with depth: holds. Rank correlation with depth -0.93 (95"
    )
    rising = run([0.2, 0.3, 0.4, 0.5], [0.3, 0.2, 0.4, 0.5], [0.2, 0.3, 0.4, 0.6])
    kept, changed = similarity_claims({"runs": [rising, falling]})
    assert "is contradicted" in kept
    assert "is contradicted" in changed
    _, agreed = similarity_claims({"runs": [run(*[[0.9, 0.8, 0.6]] * 3), flat]})
    assert "not judged, for trials that all agree tell nothing of their spread" in agreed
    assert agreed.endswith("Rank correlation with depth -1.00 in every trial.")
    one, _ = similarity_claims({"runs": [run([0.9, 0.8, 0.6]), run([0.2, 0.2, 0.1])]})
    assert "not judged, for there is no interval of one trial" in one
