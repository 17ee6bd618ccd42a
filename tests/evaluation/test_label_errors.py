import numpy as np
import pytest

from earsight.calibration.temperature import fit_temperature
from earsight.errors import RunError
from earsight.evaluation.label_errors import suspected_labels
from earsight.evaluation.summary import Predictions

CLASSES = ("a", "b", "c")


def trial(seed, *, wrong=(), clips=60, sure=4.0, fold=1):
    """A network that is mostly right about 60 clips, whose labels are right but for ``wrong``."""
    draws = np.random.default_rng(seed)
    true = np.arange(clips) % 3
    logits = draws.normal(size=(clips, 3)) + sure * np.eye(3)[true]
    labels = true.copy()
    labels[list(wrong)] = (true[list(wrong)] + 1) % 3
    names = np.array([f"{fold}-{clip:02}.wav" for clip in range(clips)])
    return Predictions(names, labels, logits.astype(np.float32), CLASSES, {"fold": fold, "seed": seed})


def test_planted_labels_are_found_over_seeds_and_the_surest_comes_first():
    wrong = (3, 10, 50)
    found = suspected_labels([trial(seed, wrong=wrong, sure=6.0) for seed in range(3)], temperature=fit_temperature)
    assert {one.clip for one in found} == {f"1-{clip:02}.wav" for clip in wrong}
    by_clip = {one.clip: one for one in found}
    assert (by_clip["1-03.wav"].label, by_clip["1-03.wav"].likelier) == ("b", "a")
    assert all(one.trials == 3 and one.probability > 0.5 > one.probability_of_label for one in found)
    margins = [one.probability - one.probability_of_label for one in found]
    assert margins == sorted(margins, reverse=True)


def test_right_labels_are_not_suspected():
    assert suspected_labels([trial(0, sure=9.0)], temperature=fit_temperature) == []


def test_a_clip_between_two_classes_is_not_suspected():
    """The likelier class has less than it usually has."""
    one = trial(0, sure=9.0)
    one.logits[0] = (0.0, 0.2, -9.0)  # its label is a
    assert one.logits[0].argmax() == 1
    assert suspected_labels([one], temperature=lambda logits, labels: 1.0) == []


def test_one_seed_that_errs_is_outvoted():
    trials = [trial(seed, sure=9.0) for seed in range(4)]
    trials[0].logits[6] = (-9.0, 9.0, -9.0)
    assert len(suspected_labels(trials[:1], temperature=lambda logits, labels: 1.0)) == 1
    assert suspected_labels(trials, temperature=lambda logits, labels: 1.0) == []


def test_folds_stand_side_by_side():
    found = suspected_labels([trial(0, wrong=(1,)), trial(1, wrong=(2,), fold=2)], temperature=fit_temperature)
    assert {"1-01.wav", "2-02.wav"} <= {one.clip for one in found}
    assert {one.trials for one in found} == {1}


def test_the_temperature_is_fitted_to_each_trial():
    given = []

    def cold(logits, labels):
        given.append((logits.shape, labels.shape))
        return 1.0

    suspected_labels([trial(0), trial(1)], temperature=cold)
    assert given == [((60, 3), (60,))] * 2


def test_trials_of_other_classes_or_labels_are_refused():
    one, other = trial(0), trial(1)
    with pytest.raises(RunError, match="same classes"):
        suspected_labels([one, Predictions(one.clips, one.labels, one.logits, ("x", "y", "z"), {})], temperature=max)
    with pytest.raises(RunError, match="same classes"):
        suspected_labels([], temperature=fit_temperature)
    other.labels[0] = 2
    with pytest.raises(RunError, match=r"1-00\.wav: has two labels"):
        suspected_labels([one, other], temperature=fit_temperature)


def alone(probabilities, labels):
    """One trial with these probabilities."""
    clips = np.array([f"{row}.wav" for row in range(len(labels))])
    return Predictions(clips, np.array(labels), np.log(np.array(probabilities)), CLASSES, {"fold": 1, "seed": 0})


def as_they_are(logits, labels):
    return 1.0


def test_a_label_that_is_the_likeliest_class_is_not_suspected():
    """Class b usually has 0.3 where it is the label, so that 0.34 is enough, but a has 0.35."""
    rows = [(0.6, 0.2, 0.2), (0.35, 0.34, 0.31), (0.4, 0.3, 0.3), (0.4, 0.3, 0.3), (0.2, 0.2, 0.6)]
    found = suspected_labels([alone(rows, [0, 0, 1, 1, 2])], temperature=as_they_are)
    assert [(one.clip, one.likelier) for one in found] == []
    rows[1] = (0.32, 0.36, 0.32)
    found = suspected_labels([alone(rows, [0, 0, 1, 1, 2])], temperature=as_they_are)
    assert [(one.clip, one.likelier) for one in found] == [("1.wav", "b")]


def test_nine_tenths_are_enough_of_networks_that_are_always_sure():
    sure = [(0.999, 0.0005, 0.0005), (0.0005, 0.999, 0.0005), (0.0005, 0.0005, 0.999)]
    for share, count in ((0.95, 1), (0.85, 0)):
        rows = [*sure * 3, (0.99 - share, share, 0.01)]
        found = suspected_labels([alone(rows, [0, 1, 2] * 3 + [0])], temperature=as_they_are)
        assert [(one.clip, one.probability) for one in found] == [("9.wav", pytest.approx(share))] * count


def test_a_class_that_no_clip_bears_is_never_likelier():
    rows = [(0.9, 0.05, 0.05), (0.05, 0.9, 0.05), (0.02, 0.02, 0.96)]
    assert suspected_labels([alone(rows, [0, 1, 0])], temperature=as_they_are) == []


def test_clips_that_more_trials_held_out_weigh_no_more():
    """A sum of two seeds' probabilities would reach what one clip has."""
    first = alone([(0.9, 0.05, 0.05), (0.05, 0.9, 0.05), (0.54, 0.36, 0.1)], [0, 1, 0])
    second = Predictions(
        first.clips[2:], first.labels[2:], np.log([(0.46, 0.48, 0.06)]), CLASSES, {"fold": 1, "seed": 1}
    )
    assert suspected_labels([first, second], temperature=as_they_are) == []
    (found,) = suspected_labels(
        [
            alone([(0.9, 0.05, 0.05), (0.3, 0.5, 0.2), (0.3, 0.6, 0.1)], [0, 1, 0]),
            Predictions(first.clips[2:], first.labels[2:], np.log([(0.3, 0.6, 0.1)]), CLASSES, {}),
        ],
        temperature=as_they_are,
    )
    assert (found.clip, found.trials, found.probability) == ("2.wav", 2, pytest.approx(0.6))
