"""Scales: the paper's figures are the paper's, every recipe is there, and what does not parse is one line."""

from __future__ import annotations

import pytest

from earsight.errors import DataError, RecipeError
from earsight.experiments.cells import Asked, chosen, section_cells, sweep_variants, weight_files
from earsight.experiments.collection import KINDS, recognise
from earsight.experiments.plan import cell_trials
from earsight.experiments.scale import SECTIONS, load_scale
from earsight.recipe import list_recipes, load_recipe
from test_paper_recipes import ENSEMBLES, FIGURES

MODELS = {"densenet201": "DenseNet-201", "resnet50": "ResNet-50", "inception_v3": "Inception-v3"}


def test_the_papers_scale_is_every_cell_of_its_tables_with_its_figures():
    scale = load_scale("paper")
    assert scale.sections == SECTIONS
    found = {(row.data, row.model): row for row in scale.table1.rows}
    assert set(found) == {(data, MODELS[network]) for data, network in FIGURES}
    for (data, network), figures in FIGURES.items():
        row = found[data, MODELS[network]]
        assert row.paper == tuple(map(float, figures))
        assert row.pretrained == f"paper/{data}-{network}-pretrained"
        assert row.random == f"paper/{data}-{network}-random"
    repeated = {(row.data, row.model): row for row in scale.table2.rows}
    for (data, network), (spread, ensemble) in ENSEMBLES.items():
        row = repeated[data, MODELS[network]]
        assert row.paper == (float(FIGURES[data, network][0]), float(spread), float(ensemble))
        assert row.recipe == f"paper/{data}-{network}-pretrained"
    assert scale.table2.seeds == 5
    others = {other.who: other.figures for other in scale.table3.others}
    assert others["Choi et al."] == {"gtzan": 89.80, "urbansound8k": 69.10}
    assert others["ES-ResNet (Guzhov et al. 2020, arXiv 2004.07301)"] == {"esc50": 91.50, "urbansound8k": 85.42}
    assert others["the paper, DenseNet from random weights"] == {"gtzan": 88.50, "esc50": 72.50, "urbansound8k": 76.32}
    assert others["the paper, pretrained DenseNet"] == {"gtzan": 91.39, "esc50": 91.16, "urbansound8k": 85.14}
    ensemble = others["the paper, ensemble of five pretrained DenseNets"]
    assert ensemble == {"gtzan": 90.50, "esc50": 92.89, "urbansound8k": 87.42}
    known = [tuple(sorted(figures.items())) for figures in others.values()]
    assert len(set(known)) == len(known), "no row stands twice"
    assert others["Multi-Stream Network"] == {"esc50": 84.90}
    assert others["attention CRNN"] == {"esc50": 86.10}
    assert others["Sturm's ceiling for GTZAN"] == {"gtzan": 94.50}


@pytest.mark.parametrize("name", ["paper", "small"])
def test_every_cell_has_a_packaged_recipe_and_trials(name):
    scale, known = load_scale(name), set(list_recipes())
    asked = Asked(scale.sections)
    for section in scale.sections:
        cells = section_cells(scale, section, asked)
        assert len({cell.name for cell in cells}) == len(cells) > 0
        for cell in cells:
            assert cell.recipe.name in known
            assert cell.data in KINDS
            assert cell_trials(cell, asked)


def test_cells_of_the_papers_tables():
    scale = load_scale("paper")
    asked = Asked(("table1",))
    cells = {cell.name: cell for cell in section_cells(scale, "table1", asked)}
    assert len(cells) == 18
    assert len(cell_trials(cells["gtzan-resnet50-random"], asked)) == 1, "one split of 20 %"
    assert len(cell_trials(cells["urbansound8k-resnet50-random"], asked)) == 10
    two = {cell.name: cell for cell in section_cells(scale, "table2", asked)}
    assert len(cell_trials(two["esc50-inception_v3-pretrained"], asked)) == 25
    assert len(cell_trials(two["esc50-inception_v3-pretrained"], Asked(("table2",), folds="2", seeds=3))) == 5
    with pytest.raises(DataError, match="no fold of this data set"):
        cell_trials(two["esc50-inception_v3-pretrained"], Asked(("table2",), folds="6"))


@pytest.mark.parametrize("name", ["paper", "small"])
def test_a_published_row_has_its_authors_or_the_papers_table(name):
    for other in load_scale(name).table3.others:
        assert "arXiv" in other.who or "the paper's Table III" in other.source


@pytest.mark.parametrize("name", ["paper", "small"])
def test_pairs_of_windows_differ_in_nothing_else(name):
    for row in load_scale(name).windows.rows:
        three, one = load_recipe(row.three), load_recipe(row.one)
        assert (len(three.features.windows_ms), one.features.windows_ms, one.features.hops_ms) == (3, (25.0,), (10.0,))
        same = {"windows_ms": three.features.windows_ms, "hops_ms": three.features.hops_ms}
        features = one.features.model_copy(update=same)
        assert one.model_copy(update={"features": features, "name": three.name}) == three


def test_sweeps_share_the_cell_that_changes_nothing():
    scale = load_scale("small")
    asked = Asked(("figures",))
    cells = {cell.name: cell for cell in section_cells(scale, "figures", asked)}
    for kind in ("fusion", "freeze", "cutoff"):
        found = sweep_variants(kind, scale, asked)
        assert [item.folder for item in found if item.is_reference] == ["esc10-lite0-pretrained"]
        assert {item.folder for item in found} <= set(cells)
    assert {cell.folds for cell in cells.values()} == {(1, 2, 3)}


def test_weights_go_to_the_cells_that_start_from_them():
    scale = load_scale("small")
    cells = section_cells(scale, "table1", Asked(("table1",)))
    files = weight_files(["resnet50=here.pth"], cells)
    given = {c.name: c for c in section_cells(scale, "table1", Asked(("table1",), weights=files))}
    assert given["esc10-resnet50-pretrained"].recipe.backbone.weights == "here.pth"
    assert given["esc10-resnet50-random"].recipe.backbone.weights == "none"
    assert given["esc10-lite0-pretrained"].recipe.backbone.weights == "imagenet"
    for wrong in ("resnet50", "resnet50=", "resnet18=a.pth"):
        with pytest.raises(RecipeError, match=r"expected BACKBONE=FILE.*resnet50"):
            weight_files([wrong], cells)


def test_cells_by_pattern():
    cells = section_cells(load_scale("paper"), "table1", Asked(("table1",)))
    assert len(chosen(cells, ["esc50-*", "gtzan-resnet50-random"])) == 7
    with pytest.raises(RecipeError, match="did you mean 'esc50-resnet50-random'"):
        chosen(cells, ["esc50-resnet50-randon"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "found list"),
        ("a: [", "not YAML"),
        ("title: t\ntabel1: {}", r"tabel1: Extra inputs"),
        ("title: t\ntable2: {seeds: 1, rows: []}", r"table2.seeds: .* \(found 1\)"),
    ],
)
def test_a_scale_that_does_not_parse(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=said):
        load_scale(str(tmp_path / "mine.yaml"))


def test_a_scale_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        load_scale(str(tmp_path / "mine.yaml"))
    with pytest.raises(RecipeError, match="choose from paper, small"):
        load_scale("papers")


def test_an_esc50_holds_esc10_and_a_folder_of_esc10_comes_first(tiny_esc10, tmp_path, monkeypatch):
    found = recognise([tiny_esc10])
    assert set(found) == {"esc10"}
    assert len(found["esc10"].dataset.clips) == 100
    # The same folder stands in for an ESC-50 where that has as many classes.
    monkeypatch.setitem(KINDS, "esc50", KINDS["esc50"].__class__(**{**vars(KINDS["esc50"]), "classes": 10}))
    both = recognise([tiny_esc10])
    assert set(both) == {"esc10", "esc50"}
    assert both["esc50"].dataset.name != both["esc10"].dataset.name
