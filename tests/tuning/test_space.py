"""Points of a search: every combination, the same draws each time, and mistakes in a line."""

import pytest

from earsight.errors import RecipeError
from earsight.recipe import Recipe
from earsight.tuning.space import make_points


def test_a_grid_is_every_combination_in_order():
    points = make_points(Recipe(), grid=["training.learning_rate=1e-3,1e-4", "augment.stretch=[0.9, 1.2],[1, 1]"])
    assert [(p.recipe.training.learning_rate, p.recipe.augment.stretch) for p in points] == [
        (1e-3, (0.9, 1.2)),
        (1e-3, (1, 1)),
        (1e-4, (0.9, 1.2)),
        (1e-4, (1, 1)),
    ]
    assert points[0].values["training.learning_rate"] == 1e-3
    assert points[0].name == "learning_rate=0.001 stretch=[0.9, 1.2]"


def test_what_says_the_same_is_one_point():
    assert len(make_points(Recipe(), grid=["training.learning_rate=1e-3,0.001,1e-4"])) == 2


def test_fields_that_only_fit_together_are_set_together():
    grid = ["features.windows_ms=[50]", "features.hops_ms=[25]"]
    assert make_points(Recipe(), grid=grid)[0].recipe.features.windows_ms == (50,)


def test_draws_lie_where_they_should_and_more_of_them_keep_the_first():
    random = [
        "training.learning_rate=loguniform(1e-5,1e-2)",
        "training.label_smoothing=uniform(0, 0.3)",
        "training.batch_size=integer(8,11)",
        "training.optimizer=choice(adamw,sgd)",
    ]
    few, many = (make_points(Recipe(), random=random, samples=count, seed=3) for count in (20, 200))
    assert [point.values for point in few] == [point.values for point in many[:20]]
    assert [point.values for point in few] != [
        point.values for point in make_points(Recipe(), random=random, samples=20, seed=4)
    ]
    rates = sorted(point.recipe.training.learning_rate for point in many)
    assert 1e-5 <= rates[0] < 1e-4
    assert 1e-3 < rates[-1] <= 1e-2
    assert 1e-4 < rates[100] < 1e-3, "the middle of a loguniform draw is the geometric mean of its ends"
    assert {point.recipe.training.batch_size for point in many} == {8, 9, 10, 11}
    assert {point.recipe.training.optimizer for point in many} == {"adamw", "sgd"}
    assert all(len(f"{rate:e}".split("e")[0].rstrip("0").replace(".", "")) <= 4 for rate in rates)


def test_each_draw_meets_each_point_of_the_grid():
    points = make_points(
        Recipe(), grid=["augment.mixup=0,0.3"], random=["training.learning_rate=loguniform(1e-5,1e-2)"], samples=3
    )
    assert len({point.recipe.training.learning_rate for point in points}) == 3
    assert len(points) == 6


@pytest.mark.parametrize(
    ("grid", "random", "message"),
    [
        ([], [], "nothing to search: give --grid"),
        (["training.learning_rat=1"], [], "no such field; did you mean 'learning_rate'?"),
        (["trainin.epochs=1"], [], "no such field; did you mean 'training'?"),
        (["training.learning_rate=20"], [], "training.learning_rate: Input should be less than or equal to 10"),
        (["training.epochs"], [], "grid training.epochs: expected section.field=..., such as"),
        (["training.epochs="], [], "expected section.field=..., such as"),
        (["training.epochs=[1"], [], "the values are not YAML"),
        (["training.epochs=1", "training.epochs=2"], [], "training.epochs: named twice"),
        (["training.epochs=1"], ["training.epochs=integer(1,2)"], "training.epochs: named twice"),
        ([], ["training.epochs=3"], "expected uniform, loguniform, integer, choice with values in brackets"),
        ([], ["training.epochs=normal(1,2)"], "expected uniform, loguniform, integer, choice"),
        ([], ["training.epochs=integer(1)"], "expected two numbers in brackets"),
        ([], ["training.epochs=integer(a,b)"], "expected two numbers in brackets"),
        ([], ["training.epochs=integer(3,1)"], "expected a lower and a higher number"),
        ([], ["training.learning_rate=loguniform(0,1)"], "above 0 for loguniform"),
        ([], ["training.optimizer=choice()"], "no value to choose from"),
    ],
)
def test_mistakes_are_told_in_a_line(grid, random, message):
    with pytest.raises(RecipeError) as error:
        make_points(Recipe(), grid=grid, random=random)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
