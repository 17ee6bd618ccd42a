"""A small ESC-10 of synthetic sounds, and a scale of tiny networks on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from earsight.models.backbones import build

TINY = """\
backbone: {name: test_resnet}
training: {epochs: 2, watch: true}
features: {bands: 32, frames: 32}
augment: {pitch_semitones: 0}
"""
SCALE = """\
title: Tiny
notes: [Synthetic sounds.]
table1:
  rows:
  - {data: esc10, model: Tiny, pretrained: HERE/pretrained.yaml, random: HERE/random.yaml, paper: [91.16, 72.5]}
  - {data: gtzan, model: Tiny, pretrained: HERE/pretrained.yaml, random: HERE/random.yaml, paper: [91.39, 88.5]}
table2:
  seeds: 2
  rows:
  - {data: esc10, model: Tiny, recipe: HERE/pretrained.yaml, paper: [91.16, 0.36, 92.89], paper_data: esc50}
table3:
  seeds: 2
  data: [esc10]
  ours: [{data: esc10, model: Tiny, recipe: HERE/pretrained.yaml}]
  others:
  - {who: Somebody, source: elsewhere, figures: {esc10: 99.75, esc50: 93.4}}
representations:
  data: esc10
  best: HERE/pretrained.yaml
  rows:
  - {name: log-mel, recipe: HERE/pretrained.yaml}
  - {name: MFCC, recipe: HERE/mfcc.yaml}
windows:
  rows: [{data: esc10, model: Tiny, three: HERE/pretrained.yaml, one: HERE/mfcc.yaml}]
figures:
  data: esc10
  folds: [1, 2]
  pretrained: HERE/pretrained.yaml
  random: HERE/random.yaml
  stages: block2
  explained: 1
  observed: 2
"""


@pytest.fixture(scope="session")
def tiny_esc10(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic clips, marked as ESC-10's."""
    root = tmp_path_factory.mktemp("esc") / "ESC-10"
    shutil.copytree(synthetic_folder, root)
    table = root / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace("FALSE", "TRUE"))
    return root


@pytest.fixture(scope="session")
def tiny_scale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scale file; its recipes and a file of weights, ``donor.safetensors``, lie beside it."""
    folder = tmp_path_factory.mktemp("scale")
    (folder / "pretrained.yaml").write_text(TINY)
    (folder / "random.yaml").write_text(TINY.replace("{name: test_resnet}", "{name: test_resnet, weights: none}"))
    (folder / "mfcc.yaml").write_text(TINY.replace("{bands: 32", "{representation: mfcc, bands: 32"))
    (folder / "tiny.yaml").write_text(SCALE.replace("HERE", str(folder)))
    save_file(build("test_resnet", classes=3, weights="none", seed=9).state_dict(), folder / "donor.safetensors")
    return folder / "tiny.yaml"
