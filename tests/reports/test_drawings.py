"""Drawings of a run: they say what they show, in shades of one ink, for few classes and for many."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from earsight.errors import EarsightError
from earsight.evaluation.metrics import softmax
from earsight.reports.drawings import Bar, confusion_drawing, curves_drawing, intervals_drawing, reliability_drawing
from earsight.reports.html import inline_svg


def words(figure):
    text = inline_svg(figure, name="t", alt="x")
    return [re.sub("<[^>]*>", "", found).strip() for found in re.findall(r"<text.*?</text>", text, re.DOTALL)]


def history(**more):
    return [{"epoch": n, "loss": 2 / n, "accuracy": 1 - 1 / n, "learning_rate": 1e-3 / n} | more for n in range(1, 9)]


@pytest.mark.parametrize("number", [2, 10, 20, 21, 50, 120])
def test_a_matrix_names_each_class_and_counts(number):
    counts = np.diag(np.full(number, 777))
    counts[0, 1] = 3333
    found = words(confusion_drawing(counts, [f"dog_{index} $" for index in range(number)]))
    if number <= 60:
        assert found.count("777") == number
        assert found.count("3333") == 1
    rows = [word for word in found if word.startswith("dog_")]
    if number <= 20:
        assert all(rows.count(f"dog_{index} $") == 2 for index in range(number))
    elif number <= 80:
        assert sorted(rows) == sorted(f"dog_{index} $  {index + 1}" for index in range(number))
        assert str(number) in found
    assert {"predicted class", "true class"} <= set(found)


@pytest.mark.parametrize("number", [10, 20, 21, 50])
def test_the_cells_of_a_matrix_have_room_for_their_numbers(number):
    figure = confusion_drawing(np.diag(np.full(number, 88)), ["a"] * number)
    figure.canvas.draw()
    axis = figure.axes[0]
    boxes = [text.get_window_extent() for text in axis.texts]
    width = axis.get_window_extent().width / number
    assert max(box.width for box in boxes) < 0.95 * width
    assert max(box.height for box in boxes) < 0.95 * width


def test_a_matrix_survives_empty_rows_and_long_and_strange_names():
    counts = np.zeros((4, 4), dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = words(confusion_drawing(counts, ["x" * 300, "🐸", "שלום", "<script>"]))
    assert "x" * 31 + "…" in found
    assert "&lt;script&gt;" in found


def test_curves_have_the_accuracy_where_there_is_one():
    found = words(curves_drawing([history()]))
    assert {"training loss", "held-out accuracy in %", "learning rate", "epoch"} <= set(found)
    assert "their mean" not in found
    found = words(
        curves_drawing([history(), [*history(), {"epoch": 9, "loss": 0.1, "learning_rate": 0.0}]], scored="inner")
    )
    assert {"inner accuracy in %", "each of 2 trainings", "their mean"} <= set(found)
    assert not any("accuracy" in word for word in words(curves_drawing([history(accuracy=None)])))


def test_the_thick_line_is_the_mean():
    other = [row | {"loss": row["loss"] + 1} for row in history()]
    lines = curves_drawing([history(), other]).axes[0].lines
    thick = max(lines, key=lambda line: line.get_linewidth())
    np.testing.assert_allclose(thick.get_ydata(), [2 / n + 0.5 for n in range(1, 9)])


def test_curves_without_rows_or_keys_are_refused():
    with pytest.raises(EarsightError, match="0 epochs"):
        curves_drawing([])
    with pytest.raises(EarsightError, match="lacks loss, learning_rate"):
        curves_drawing([[{"epoch": 1}]])


def test_reliability_gives_its_error():
    generator = np.random.default_rng(0)
    shares, labels = softmax(generator.normal(size=(300, 4))), generator.integers(0, 4, size=300)
    found = words(reliability_drawing({"before": shares, "after": shares}, labels))
    assert sum("expected calibration error" in word for word in found) == 2
    assert "before: expected calibration error 0.0 %" in words(reliability_drawing({"before": np.eye(4)}, np.arange(4)))


def test_intervals_stand_at_their_values():
    axis = intervals_drawing([Bar("a", 50, 40, 60), Bar("b $", 70, 65, 80)], label="x", zero=True).axes[0]
    spans = [list(line.get_xdata()) for line in axis.lines]
    assert spans[:4] == [[40, 60], [50], [65, 80], [70]]
    assert spans[4] == [0, 0]


def test_a_matrix_that_does_not_fit_is_refused():
    with pytest.raises(EarsightError, match="one row per class"):
        confusion_drawing(np.zeros((3, 3)), ["a", "b"])
