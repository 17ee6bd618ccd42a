"""Recipes: names, files, overrides, what is refused and in which words, and the way to YAML and back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earsight.errors import RecipeError
from earsight.files import say_once, sealed
from earsight.recipe import Augment, Recipe, Training, list_recipes, load_recipe, parse_recipe, recipe_notes


def _message(call, *args, **kwargs):
    with pytest.raises(RecipeError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_in_the_package_loads_and_comes_back(name):
    recipe = load_recipe(name)
    assert parse_recipe(recipe.to_yaml()) == recipe


def test_default_is_in_the_package():
    assert "default" in list_recipes()
    assert load_recipe() == load_recipe("default")


def _number(low, high):
    return st.floats(low, high, allow_nan=False)


@st.composite
def _recipes(draw):
    low = draw(_number(0.5, 1.0))
    return Recipe(
        name=draw(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8)),
        augment=Augment(stretch=(low, draw(_number(low, 2.0))), mixup=draw(_number(0, 10))),
        training=Training(
            epochs=draw(st.integers(1, 10000)),
            learning_rate=draw(_number(1e-9, 10)),
            optimizer=draw(st.sampled_from(["adam", "adamw", "sgd"])),
            step_epochs=tuple(draw(st.lists(st.integers(1, 99), max_size=3))),
        ),
    )


@given(_recipes())
def test_yaml_round_trip(recipe):
    assert parse_recipe(recipe.to_yaml()) == recipe


@pytest.mark.parametrize("name", ["50", "1e3x", "nan", "inf", "null", "true", "1.5"])
def test_names_that_look_like_something_else_stay_names(name):
    recipe = Recipe(name=name)
    assert parse_recipe(recipe.to_yaml()).name == name


def test_a_recipe_file_may_be_named_by_a_number(tmp_path):
    (tmp_path / "50.yaml").write_text("training: {epochs: 3}\n")
    recipe = load_recipe(tmp_path / "50.yaml")
    assert recipe.name == "50"
    assert parse_recipe(recipe.to_yaml()) == recipe


def test_overrides_take_numbers_as_people_write_them():
    recipe = load_recipe(
        overrides=[
            "training.learning_rate=3e-4",
            "backbone.weights=none",
            "augment.stretch=[0.8, 1.25]",
            "training.epochs=1e2",
            "features.frames=100",
            "augment.shift=false",
        ]
    )
    assert recipe.training.learning_rate == 3e-4
    assert recipe.backbone.weights == "none"
    assert recipe.augment.stretch == (0.8, 1.25)
    assert recipe.training.epochs == 100
    assert recipe.features.frames == 100
    assert recipe.augment.shift is False
    untouched = recipe.model_dump(exclude={"training", "backbone", "augment", "features"})
    assert untouched == Recipe().model_dump(exclude={"training", "backbone", "augment", "features"})


def test_later_overrides_win():
    assert load_recipe(overrides=["training.epochs=3", "training.epochs=4"]).training.epochs == 4


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("training.epoch=3", ["training.epoch", "did you mean 'epochs'"]),
        ("trainin.epochs=3", ["trainin", "did you mean 'training'"]),
        ("training.epochs.x=3", ["training.epochs.x", "no such field"]),
        ("epochs=3", ["epochs: no such field; did you mean 'training.epochs'?"]),
        ("training.epochs", ["overrides training.epochs", "section.field=value"]),
        ("=3", ["overrides =3", "section.field=value"]),
        ("training.epochs=ten", ["training.epochs", "integer", "'ten'"]),
        ("training.epochs=2.5", ["training.epochs", "2.5"]),
        ("training.epochs=0", ["training.epochs", "greater than or equal to 1", "0"]),
        ("training.epochs=", ["training.epochs", "integer"]),
        ("training=5", ["training", "5"]),
        ("training.optimizer=adamm", ["training.optimizer", "'adamw'", "adamm"]),
        ("augment.stretch=[1.2, 0.9]", ["stretch", "two rising factors"]),
        ("augment.stretch=1.2", ["stretch", "1.2"]),
        ("features.windows_ms=[25, 50]", ["windows_ms", "three"]),
        ("features.fft_ms=10", ["fft_ms is 10", "100 ms"]),
        ("features.frames=3", ["frames is 3", "between 16 and 20000"]),
        ("backbone.name=[a: b", ["backbone.name", "not YAML"]),
    ],
)
def test_overrides_that_do_not_fit(assignment, words):
    message = _message(load_recipe, overrides=[assignment])
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trainin: {epochs: 3}", ["trainin", "did you mean 'training'"]),
        ("training: {epocs: 3}", ["training.epocs", "did you mean 'epochs'"]),
        ("training: 3", ["training", "3"]),
        ("- a\n- b", ["found list"]),
        ("a: [", ["not YAML"]),
        ("training: {optimizer: !!python/object/apply:os.getcwd []}", ["not YAML"]),
        ("1: 2", ["1"]),
    ],
)
def test_files_that_do_not_fit(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    for call, argument in ((load_recipe, path), (parse_recipe, text)):
        message = _message(call, argument)
        for word in words:
            assert word in message


def test_unknown_names_and_files(tmp_path):
    assert "did you mean 'default'" in _message(load_recipe, "defualt")
    message = _message(load_recipe, "defualt")
    assert message.endswith(
        "did you mean 'default'? (`earsight recipe list` shows the names, and a file must end in .yaml)"
    )
    assert "unknown; `earsight recipe list` shows the names, and a file" in _message(load_recipe, "zzz")
    assert "`earsight recipe list` shows the names" in _message(load_recipe, "qqqqqq")
    assert "no such file" in _message(load_recipe, tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    assert "UTF-8" in _message(load_recipe, tmp_path / "binary.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "no such file" in _message(load_recipe, tmp_path / "folder.yaml")


def test_extends(tmp_path):
    (tmp_path / "base.yaml").write_text("training: {epochs: 3, batch_size: 8}\naugment: {mixup: 0}\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\ntraining: {epochs: 5}\n")
    recipe = load_recipe(tmp_path / "top.yaml", overrides=["augment.shift=false"])
    assert recipe.name == "top"
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.augment.mixup) == (5, 8, 0)
    assert recipe.augment.shift is False
    assert recipe.training.optimizer == Training().optimizer
    (tmp_path / "package.yaml").write_text("extends: default\ntraining: {epochs: 7}\n")
    assert load_recipe(tmp_path / "package.yaml").training.epochs == 7


@pytest.mark.parametrize("parent", ["a.yaml", "b.yaml", "../{folder}/a.yaml"])
def test_a_recipe_that_extends_itself(tmp_path, parent):
    (tmp_path / "a.yaml").write_text(f"extends: {parent.format(folder=tmp_path.name)}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    message = _message(load_recipe, tmp_path / "a.yaml")
    assert "extends itself" in message
    assert "remove one 'extends' line" in message


def test_a_cycle_through_lists(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: [default, b.yaml]\n")
    (tmp_path / "b.yaml").write_text("extends: [c.yaml]\n")
    (tmp_path / "c.yaml").write_text("extends: [default, a.yaml, c.yaml]\n")
    assert "extends itself (a.yaml -> b.yaml -> c.yaml -> a.yaml)" in _message(load_recipe, tmp_path / "a.yaml")
    assert "extends itself (b.yaml -> c.yaml -> a.yaml -> b.yaml)" in _message(load_recipe, tmp_path / "b.yaml")


def test_extends_several(tmp_path):
    (tmp_path / "base.yaml").write_text("training: {epochs: 3, batch_size: 8}\n")
    (tmp_path / "one.yaml").write_text("extends: base.yaml\ntraining: {epochs: 4}\naugment: {mixup: 0.1}\n")
    (tmp_path / "two.yaml").write_text("extends: base.yaml\naugment: {mixup: 0.2}\nbackbone: {name: resnet18}\n")
    (tmp_path / "top.yaml").write_text("extends: [one.yaml, two.yaml]\nbackbone: {weights: none}\n")
    recipe = load_recipe(tmp_path / "top.yaml")
    # base comes once, below both: through two it does not undo what one says.
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.augment.mixup) == (4, 8, 0.2)
    assert (recipe.backbone.name, recipe.backbone.weights, recipe.name) == ("resnet18", "none", "top")
    (tmp_path / "turned.yaml").write_text("extends: [two.yaml, one.yaml]\n")
    assert load_recipe(tmp_path / "turned.yaml").augment.mixup == 0.1
    (tmp_path / "none.yaml").write_text("extends: []\n")
    assert load_recipe(tmp_path / "none.yaml") == Recipe(name="none")


@pytest.mark.parametrize("value", ["3", "[default, 3]", "{default: 1}", "[[default]]", "null", "true"])
def test_extends_what_is_no_name(tmp_path, value):
    (tmp_path / "a.yaml").write_text(f"extends: {value}\n")
    message = _message(load_recipe, tmp_path / "a.yaml")
    assert "a.yaml" in message
    assert "expected the name of a recipe, or a list of names" in message or "extends none: unknown" in message


def test_extends_what_is_not_there(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: [default, defualt]\n")
    message = _message(load_recipe, tmp_path / "a.yaml")
    assert "recipe a.yaml extends defualt: unknown; did you mean 'default'" in message
    (tmp_path / "b.yaml").write_text("extends: absent.yaml\n")
    assert "recipe b.yaml extends absent.yaml: no such file" in _message(load_recipe, tmp_path / "b.yaml")


def test_notes_are_the_comments_that_open_each_file(tmp_path):
    (tmp_path / "base.yaml").write_text("# what all share\n#   and more\ntraining: {epochs: 3}\n# not this\n")
    (tmp_path / "top.yaml").write_text("# mine\n#\n#tight\nextends: base.yaml\n")
    (tmp_path / "bare.yaml").write_text("extends: top.yaml\n")
    notes = list(recipe_notes(tmp_path / "bare.yaml").values())
    assert notes == [[], ["mine", "", "tight"], ["what all share", "  and more"]]


def test_digest_follows_content_and_not_the_name():
    recipe = Recipe()
    assert recipe.digest == recipe.model_copy(update={"name": "other"}).digest
    assert recipe.digest != recipe.override(["training.epochs=3"]).digest
    assert recipe.override(["training.epochs=3"]).digest == recipe.override(["training.epochs=3.0"]).digest
    assert len(recipe.digest) == 12


def test_no_recipe_in_the_package_changes_its_digest():
    """Run folders are known by it: a digest that changes makes every run of that recipe a run of another."""
    golden = json.loads((Path(__file__).parent / "recipe_digests.json").read_text())
    assert {name: load_recipe(name).digest for name in list_recipes()} == golden


@pytest.mark.parametrize(
    ("field", "old", "new", "digest"),
    [
        ("augment.backend", "picture", "spectrogram", "eb8667e0ddb9"),
        ("training.source", "pictures", "spectrograms", "ecd00e377f59"),
    ],
)
def test_values_under_their_old_names_are_read_and_noted(tmp_path, field, old, new, digest):
    section, leaf = field.split(".")
    (tmp_path / "old.yaml").write_text(f"extends: default\n{section}: {{{leaf}: {old}}}\n")
    told = []
    recipes = [
        load_recipe(tmp_path / "old.yaml", say=told.append),
        load_recipe(overrides=[f"{field} = {old}"], say=told.append),
        parse_recipe(f"{section}: {{{leaf}: {old}}}"),
    ]
    assert told == [f"  note: {field}: {old} is now called {new}; the old name is still read"] * 2
    assert {recipe.digest for recipe in recipes} == {digest}
    assert all(f"{leaf}: {new}" in recipe.to_yaml() for recipe in recipes)
    told.clear()
    assert load_recipe(overrides=[f"{field}={new}"], say=told.append).digest == digest
    assert told == []


def test_a_recipe_is_frozen():
    with pytest.raises(RecipeError, match="stay as they are"):
        Recipe().training.epochs = 3


def test_resolve_fills_in_auto_alone():
    plain = Recipe().resolve(sample_rate_hz=22050, clip_seconds=4.0, frames=200)
    assert (plain.features.rate, plain.features.samples, plain.features.columns) == (22050, 88200, 200)
    # A length of the user's own keeps the data set's columns per second.
    longer = Recipe().override(["features.clip_seconds=2"]).resolve(sample_rate_hz=8000, clip_seconds=4.0, frames=200)
    assert (longer.features.rate, longer.features.samples, longer.features.columns) == (8000, 16000, 100)
    fixed = Recipe().override(["features.frames=64"]).resolve(sample_rate_hz=8000, clip_seconds=4.0, frames=200)
    assert fixed.features.columns == 64
    assert plain.resolve(sample_rate_hz=1, clip_seconds=1, frames=1) == plain
    with pytest.raises(RecipeError, match="still 'auto'"):
        Recipe().features.rate  # noqa: B018


def test_an_unreadable_recipe_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("training: {epochs: 3}")
    path.chmod(0)
    if os.access(path, os.R_OK):  # whoever is allowed everything reads it all the same
        assert load_recipe(path).training.epochs == 3
    else:
        assert "cannot be read" in _message(load_recipe, path)


def test_a_recipe_that_differs_from_its_digest_is_read_and_named(tmp_path, caplog):
    recipe = load_recipe()
    path, text = tmp_path / "recipe.yaml", sealed("# mine\n" + recipe.to_yaml())
    path.write_text(text)
    say_once.cache_clear()
    assert load_recipe(path) == recipe
    assert caplog.messages == []
    assert recipe_notes(path)[str(path.resolve())] == ["mine"]
    first = text.partition("\n")[0]
    for changed in (text[: len(first) - 9] + "x" + text[len(first) - 8 :], text[: text.index("training:")], first[:9]):
        path.write_text(changed)
        say_once.cache_clear()
        caplog.clear()
        load_recipe(path)
        (line,) = caplog.messages
        assert f"{path.resolve()}: does not fit its digest" in line
