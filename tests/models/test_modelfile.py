"""The model file: bit-exact, deterministic, whole or not at all, and deaf to hostile bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pickle
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import Tensor

from earsight.errors import EarsightError, ModelError, RecipeError
from earsight.inference.model import Model
from earsight.models import modelfile
from earsight.models.backbones import build
from earsight.models.card import ModelCard
from earsight.models.modelfile import FORMAT_VERSION, _digest, load, load_card, load_probe, save
from earsight.models.stages import empty_model
from earsight.models.weights import load_pretrained
from earsight.recipe import load_recipe

CLASSES = ("dog", "réveil matin", "鳥", "odd \udcff name", 'a "quote"')


def _card(**changes: object) -> ModelCard:
    recipe = load_recipe(overrides=["backbone.name=test_resnet", "backbone.weights=none", "backbone.dropout=0.25"])
    values: dict[str, object] = {
        "classes": CLASSES,
        "recipe": recipe.resolve(sample_rate_hz=44100, clip_seconds=5.0, frames=250),
        "mean": (-4.1, 0.1 + 0.2, -3.3),
        "std": (2.0, 1 / 3, 1e-7),
        "temperature": 1.2345678901234567,
        "trained_on": {"dataset": "synthetic", "fold": 2, "seed": 0, "accuracy": 0.1 + 0.7, "digest": None},
        "calibration": {"ece": 1e-300, "bins": [1, 2, 3]},
    }
    return ModelCard(**(values | changes))  # type: ignore[arg-type]


def _state(seed: int = 0) -> dict[str, Tensor]:
    return dict(build("test_resnet", classes=len(CLASSES), weights="none", seed=seed).state_dict())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save(path, state=_state(), card=_card())
    return path


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _rewritten(path: Path, change) -> None:
    """Write the file again with its metadata changed by ``change(content)``."""
    with safetensors.safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["earsight"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    content = change(content) or content
    safetensors.torch.save_file(tensors, path, metadata={"earsight": json.dumps(content)})


# Round trips


def test_the_card_and_the_bits_come_back(saved):
    state, card = _state(), _card()
    found, model = load(saved)
    assert found == card
    assert load_card(saved) == card
    assert list(model.state_dict()) == list(state)
    for key, value in model.state_dict().items():
        assert value.dtype == state[key].dtype
        assert _bits(value) == _bits(state[key]), key
    assert not model.training
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    original = build("test_resnet", classes=len(CLASSES), weights="none", dropout=0.25).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(x), original(x))
    assert model.drop_rate == 0.25


def test_odd_bits_survive(tmp_path):
    state = _state()
    weight = state["fc.weight"].clone()
    weight.view(-1)[:4] = torch.tensor([-0.0, 1e-45, torch.finfo(torch.float32).max, -1e-40])
    save(tmp_path / "m", state=state | {"fc.weight": weight}, card=_card())
    assert _bits(load(tmp_path / "m")[1].state_dict()["fc.weight"]) == _bits(weight)


def test_layout_and_ownership_of_the_tensors_do_not_matter(tmp_path, saved):
    state = {
        key: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
        for key, value in _state().items()
    }
    save(tmp_path / "other", state=dict(reversed(state.items())), card=_card())
    assert (tmp_path / "other").read_bytes() == saved.read_bytes()


def test_the_same_model_gives_the_same_bytes(tmp_path, saved):
    save(tmp_path / "again", state=_state(), card=_card())
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()
    card, model = load(saved)
    save(tmp_path / "third", state=model.state_dict(), card=card)
    assert (tmp_path / "third").read_bytes() == saved.read_bytes()


def test_the_file_is_plain_safetensors(saved):
    with safetensors.safe_open(saved, "pt") as file:
        assert set(file.metadata()) == {"earsight"}
        content = json.loads(file.metadata()["earsight"])
        assert set(file.keys()) == {f"model.{key}" for key in _state()}
    assert content["format_version"] == FORMAT_VERSION == 1
    assert content["card"]["classes"] == list(CLASSES)


def test_a_loaded_model_can_be_trained_on_and_outlives_its_file(saved):
    _, model = load(saved)
    saved.write_bytes(b"")
    model.train()(torch.randn(2, 3, 64, 64)).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_it_serves_as_pretrained_weights(saved):
    model = build("test_resnet", classes=3, weights="none", seed=9)
    load_pretrained(model, "test_resnet", str(saved))
    assert torch.equal(model.conv1[0].weight, _state()["conv1.0.weight"])


def test_metadata_alone_is_read_for_the_card(saved, monkeypatch):
    monkeypatch.setattr("earsight.models.modelfile.read_safetensors", lambda path: pytest.fail("read the weights"))
    assert load_card(str(saved)) == _card()


# Writing


def test_a_full_disk_leaves_the_old_file_and_nothing_else(saved, tmp_path):
    before = saved.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
        with pytest.raises(ModelError, match="cannot be written"):
            save(saved, state=_state(1), card=_card())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert saved.read_bytes() == before
    assert _names(tmp_path) == [saved.name]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_failure_at_any_step_leaves_the_old_file(saved, tmp_path, monkeypatch, call):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, fail)
    with pytest.raises(ModelError, match="No space left on device"):
        save(saved, state=_state(1), card=_card())
    assert saved.read_bytes() == before
    assert _names(tmp_path) == [saved.name]


def test_an_interrupt_leaves_the_old_file(saved, tmp_path, monkeypatch):
    before = saved.read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(saved, state=_state(1), card=_card())
    assert saved.read_bytes() == before
    assert _names(tmp_path) == [saved.name]


def test_others_may_read_what_the_umask_allows(saved):
    mask = os.umask(0)
    os.umask(mask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~mask


def test_seconds_are_those_of_the_products_that_are_counted(saved, monkeypatch):
    """VGG's are no upper bound: DaViT-giant has twelve times as many for a cell of a spectrogram."""
    network, found = build("test_resnet", classes=len(CLASSES), weights="none").eval(), []

    def count(module, _, out):
        weight = module.weight
        found.append(weight[0].numel() * out.numel())

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 3, 128, 250))
    assert modelfile._products(_card(), [empty_model(_card().recipe, classes=len(CLASSES))]) == sum(found)
    load(saved)  # of so few cells none are counted
    monkeypatch.setattr("earsight.models.modelfile._FEW_CELLS", 0)
    load(saved)
    monkeypatch.setattr("earsight.models.modelfile._products", lambda card, networks: 300 * 20e9)
    with pytest.raises(ModelError, match=r"asks for 30\d seconds to load it and answer once; .* may ask for 120"):
        load(saved)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "missing" / "m.safetensors", tmp_path / ("x" * 300)):
        with pytest.raises(ModelError, match="cannot be written"):
            save(path, state=_state(), card=_card())
    assert _names(tmp_path) == ["folder"]
    assert not _names(tmp_path / "folder")


def test_a_diverged_model_is_not_saved(tmp_path):
    state = _state()
    state["fc.bias"] = torch.tensor([0.0, math.nan, 0.0, 0.0, 0.0])
    with pytest.raises(ModelError, match=r"fc\.bias holds NaN"):
        save(tmp_path / "m", state=state, card=_card())
    assert not _names(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1, 2}, {(1, 2): 3}])
def test_a_card_that_is_not_json_is_not_saved(tmp_path, value):
    with pytest.raises(ModelError, match="does not go into JSON"):
        save(tmp_path / "m", state=_state(), card=_card(trained_on={"x": value}))
    assert not _names(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ()},
        {"classes": ("a", "a")},
        {"classes": ("a", "")},
        {"mean": ()},
        {"mean": (0.0, 0.0)},
        {"mean": (0.0, 0.0, math.nan)},
        {"std": (1.0, 1.0, 0.0)},
        {"std": (1.0, 1.0, -1.0)},
        {"std": (1.0, 1.0, math.inf)},
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"recipe": load_recipe()},
    ],
)
def test_cards_that_could_not_serve(changes):
    with pytest.raises(ModelError, match="model card"):
        _card(**changes)


def test_a_card_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        _card().temperature = 2.0  # type: ignore[misc]


# Files that do not serve


def _framed(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


_ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
_META = {"earsight": json.dumps({"format_version": 1})}


@pytest.mark.parametrize("read", [load, load_card])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"x", "not a safetensors file"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "not a safetensors file"),
        (b"PK\x03\x04" + bytes(60), "is a pickle, which can run code; earsight loads only .safetensors model files"),
        (pickle.dumps({"weights": [1.0] * 9}), "is a pickle, which can run code"),
        (pickle.dumps({"weights": [1.0] * 9}, protocol=2), "is a pickle, which can run code"),
        (b"\xff" * 8 + b"{" + bytes(20), "truncated or damaged"),
        (struct.pack("<Q", 10**8) + b"{}", "truncated or damaged"),
        (_framed(b"{"), "truncated or damaged"),
        (_framed(b"{" + b"[" * 100_000), "truncated or damaged"),
        (_framed(b'{"a":' * 100_000), "truncated or damaged"),
        (_framed(b'{"a": 1}'), "truncated or damaged"),
        (_framed(b"{\xff\xfe}"), "truncated or damaged"),
        (_framed(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": []}}'), "truncated or damaged"),
        (_framed(b'{"__metadata__": []}'), "truncated or damaged"),
        (_framed(b'{"__metadata__": {"earsight": 3}}'), "truncated or damaged"),
        (_framed(b'{"__metadata__": {"earsight": "[]"}}'), "truncated or damaged"),
        (_framed(b'{"__metadata__": {"earsight": "{"}}'), "truncated or damaged"),
        (_framed(b'{"__metadata__": {"earsight": "' + b"[" * 100_000 + b'"}}'), "truncated or damaged"),
        (_framed(json.dumps({"w": _ENTRY}).encode(), bytes(3)), "truncated or damaged"),
        (_framed(json.dumps({"w": _ENTRY}).encode(), bytes(5)), "truncated or damaged"),
        (_framed(json.dumps({"w": _ENTRY}).encode(), bytes(4)), "holds weights only.*backbone.weights="),
        (_framed(json.dumps({"w": _ENTRY, "__metadata__": {"format": "pt"}}).encode(), bytes(4)), "holds weights only"),
        (_framed(json.dumps({"w": _ENTRY, "__metadata__": _META}).encode(), bytes(4)), "its card cannot be read"),
    ],
)
def test_hostile_and_foreign_files(tmp_path, data, message, read):
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).count("\n") == 0
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize("offsets", [[-4, 0], [4, 0], [0, 2**63], [0, 10**400], [0, 4.5], ["0", "4"], [0, 8]])
@pytest.mark.parametrize("shape", [[1], [-1], [2**40, 2**40], [0], None])
def test_hostile_tensor_tables(saved, offsets, shape):
    length = int.from_bytes(saved.read_bytes()[:8], "little")
    header = json.loads(saved.read_bytes()[8 : 8 + length])
    body = saved.read_bytes()[8 + length :]
    header["model.fc.bias"] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
    saved.write_bytes(_framed(json.dumps(header).encode(), body))
    with pytest.raises(ModelError):
        load(saved)


def test_missing_directory_and_pipe(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "missing.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path / "missing\0")
    with pytest.raises(ModelError, match=r"is a directory; expected a weights file such as model\.safetensors"):
        load(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    caught: list[Exception] = []

    def attempt() -> None:
        try:
            load(pipe)
        except ModelError as error:
            caught.append(error)

    thread = threading.Thread(target=attempt, daemon=True)  # opening a pipe without a writer would wait for ever
    thread.start()
    thread.join(20)
    assert [("is a pipe" in str(error)) for error in caught] == [True]


def test_an_unreadable_file(saved, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match="Permission denied"):
        load(saved)


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.01, 0.5, 0.99999])
def test_truncated(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: max(1, int(len(data) * share))])
    with pytest.raises(ModelError, match=r"truncated or damaged|not a safetensors file"):
        load(saved)


def test_versions(saved):
    _rewritten(saved, lambda content: content | {"format_version": 2})
    with pytest.raises(ModelError, match="format version 2, this earsight reads 1; upgrade earsight"):
        load(saved)
    for version in (0, "1", None, 1.0, True, [1]):
        _rewritten(saved, lambda content, version=version: content | {"format_version": version})
        with pytest.raises(ModelError, match="train the model again"):
            load_card(saved)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metadata_is_json_beyond_the_card_too(saved, value):
    _rewritten(saved, lambda content: content | {"later": value})
    with pytest.raises(ModelError, match="its metadata cannot be read"):
        load_card(saved)


def _reseal(content: dict) -> dict:
    """What a hand-made file would do: the digest fits the changed card."""
    text = json.dumps(content["card"], sort_keys=True, separators=(",", ":"))
    return content | {"card_sha256": hashlib.sha256(text.encode()).hexdigest()}


def test_resealing_is_what_the_writer_does(saved):
    _rewritten(saved, _reseal)
    assert load_card(saved) == _card()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["recipe"]["backbone"].update(name="test_resnetz"), "did you mean 'test_resnet"),
        (lambda card: card["recipe"]["backbone"].update(name="hf-hub:a/b"), "timm has no such model"),
        (lambda card: card["recipe"]["backbone"].update(name="test_efficientnet"), "do not fit test_efficientnet"),
        (lambda card: card["recipe"]["backbone"].update(name="densenet201"), "do not fit densenet201"),
        (lambda card: card["classes"].append("one more"), "do not fit test_resnet with 6 classes"),
        (lambda card: card.update(classes=[]), "its card cannot be read"),
        (lambda card: card.update(classes=3), "its card cannot be read"),
        (lambda card: card.update(mean=[0], std=[1]), "it normalises 1 windows and has 3"),
        (lambda card: card.update(std=[0, 0, 0]), "its card cannot be read"),
        (lambda card: card.update(temperature="warm"), "its card cannot be read"),
        (lambda card: card.pop("mean"), "its card cannot be read"),
        (lambda card: card["recipe"].update(unknown=1), "its card cannot be read"),
        (lambda card: card["recipe"]["features"].update(sample_rate_hz="auto"), "its card cannot be read"),
        (lambda card: card.update(recipe=[]), "its card cannot be read"),
    ],
)
def test_cards_that_do_not_fit_their_weights(saved, change, message):
    def apply(content: dict) -> dict:
        change(content["card"])
        return _reseal(content)

    _rewritten(saved, apply)
    with pytest.raises(ModelError, match=message) as caught:
        load(saved)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_changed_card_is_noticed(saved):
    _rewritten(saved, lambda content: content["card"].update(temperature=3.0))
    with pytest.raises(ModelError, match="its card is not the one that was saved"):
        load(saved)


_CHANGES = [
    (lambda tensors: tensors.pop("model.fc.bias"), r"1 of its weights do not fit .*model\.fc\.bias"),
    (lambda tensors: tensors.update({"model.extra": torch.zeros(1)}), r"do not fit .*model\.extra"),
    (lambda tensors: tensors.update({"extra": torch.zeros(1)}), "do not fit .*extra"),
    (lambda tensors: tensors.update({"a\x1b[2J\nb": torch.zeros(1)}), r"\(a\\x1b\[2J\\nb\); it was saved"),
    (
        lambda tensors: tensors.update({"model.fc.beside": tensors.pop("model.fc.bias")}),  # both names are told
        r"2 of its weights do not fit .*\(model\.fc\.beside, model\.fc\.bias\)",
    ),
    (lambda tensors: tensors.update({"model.fc.bias": tensors["model.fc.bias"].double()}), "do not fit"),
    (lambda tensors: tensors.update({"model.fc.bias": tensors["model.fc.bias"][:4].clone()}), "do not fit"),
    (lambda tensors: tensors.update({"model.fc.bias": tensors["model.fc.bias"] * math.nan}), "NaN"),
    (
        lambda tensors: tensors.update({"model.fc.bias": torch.full_like(tensors["model.fc.bias"], math.inf)}),
        "infinite",
    ),
    (
        lambda tensors: tensors.update({"reference.1.mean": torch.zeros(1)}),
        "Mahalanobis statistics for 1 networks and 1",
    ),
    (lambda tensors: tensors.update({"reference.0.odd": torch.zeros(1)}), "is truncated or damaged.*it has "),
    (lambda tensors: tensors.update({"model.fc.bias": tensors["model.fc.bias"] + 1e-3}), None),
]


@pytest.mark.parametrize(("change", "message"), _CHANGES)
@pytest.mark.parametrize("sealed", [False, True])
def test_changed_weights(saved, change, message, sealed):
    with safetensors.safe_open(saved, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(tensors)
    if sealed:
        metadata = {"earsight": json.dumps(json.loads(metadata["earsight"]) | {"tensors_sha256": _digest(tensors)})}
    safetensors.torch.save_file(tensors, saved, metadata=metadata)
    if not sealed:
        with pytest.raises(ModelError, match="its weights are not those that were saved"):
            load(saved)
    elif message is None:  # a whole file with other weights
        assert torch.equal(load(saved)[1].fc.bias, tensors["model.fc.bias"])
    else:
        with pytest.raises(ModelError, match=message):
            load(saved)


# What the card asks for


def _hostile(path: Path, change) -> Path:
    def apply(content: dict) -> dict:
        change(content["card"])
        return _reseal(content)

    _rewritten(path, apply)
    return path


@pytest.fixture
def built(monkeypatch) -> list[tuple[str, str]]:
    """The networks that loading makes: their names and devices."""
    found = []

    def spy(recipe, *, classes, device="meta"):
        found.append((recipe.backbone.name, device))
        return empty_model(recipe, classes=classes, device=device)

    monkeypatch.setattr("earsight.models.modelfile.empty_model", spy)
    return found


def test_features_beyond_the_budget_are_refused_before_anything_is_made(saved, built, monkeypatch):
    _hostile(saved, lambda card: card["recipe"]["features"].update(hops_ms=[0.07] * 3, clip_seconds=300))
    monkeypatch.setattr("earsight.models.modelfile.read_safetensors", lambda path: pytest.fail("read the weights"))
    with pytest.raises(ModelError, match=r"asks for 4,410,001 columns.*; a model file may ask for.*EARSIGHT_MODEL_B"):
        load(saved)
    assert not built


@pytest.mark.parametrize(
    "change",
    [
        lambda recipe: recipe["backbone"].update(name="x\x1b[2J\nearsight: all is well"),
        lambda recipe: recipe["transfer"].update(cut="x\x1b[2J\nearsight: all is well"),
    ],
)
def test_names_in_a_refusal_stay_on_its_line(saved, change):
    _hostile(saved, lambda card: change(card["recipe"]))
    with pytest.raises(EarsightError, match=r"x\\x1b\[2J\\nearsight"):
        load(saved)


def test_a_network_of_billions_is_compared_without_memory(saved, built):
    _hostile(saved, lambda card: card["recipe"]["backbone"].update(name="vit_5b_patch16_sapiens2"))
    with pytest.raises(ModelError, match="weights do not fit vit_5b_patch16_sapiens2"):
        load(saved)
    assert built == [("vit_5b_patch16_sapiens2", "meta")]


def _many(card: dict, members: int) -> None:
    one = {key: card[key] for key in card if key not in ("members", "weights")}
    card.update(members=[one] * members, weights=[1 / members] * members, mean=[0.0] * 3, std=[1.0] * 3)


def test_of_members_without_weights_the_first_alone_is_made(saved, built):
    _hostile(saved, lambda card: _many(card, 90))  # as many as there are tensors, all of them another's
    with pytest.raises(ModelError, match="of its weights do not fit an ensemble of 90"):
        load(saved)
    assert built == [("test_resnet", "meta")]


def test_too_many_members(saved, built):
    _hostile(saved, lambda card: _many(card, 3000))
    with pytest.raises(ModelError, match="asks for 3,000 members; a model file may ask for 1,000"):
        load(saved)
    assert not built


def test_buffers_that_no_state_has_get_their_values(tmp_path, built):
    recipe = load_recipe(overrides=["backbone.name=resnetblur18", "backbone.weights=none"])
    recipe = recipe.resolve(sample_rate_hz=8000, clip_seconds=1.0, frames=64)
    full = build("resnetblur18", classes=len(CLASSES), weights="none").eval()
    save(tmp_path / "m", state=full.state_dict(), card=_card(recipe=recipe))
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "m")[1](x), full(x))
    assert built == [("resnetblur18", "meta"), ("resnetblur18", "cpu")] * 2


_IN_LITTLE_MEMORY = """
import resource, sys
from earsight.errors import EarsightError, ModelError
from earsight.models.modelfile import load
load(sys.argv[1])  # what is imported on first use
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20),) * 2)
for path in sys.argv[1:]:
    try:
        load(path)
        print("loaded")
    except ModelError as error:
        print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="a process's size is read from /proc")
def test_hostile_cards_take_little_memory(saved, tmp_path):
    changes = [
        lambda card: card["recipe"]["features"].update(hops_ms=[0.07] * 3, clip_seconds=600),
        lambda card: card["recipe"]["backbone"].update(name="vit_5b_patch16_sapiens2"),
        lambda card: card["recipe"]["backbone"].update(name="regnety_2560"),
        lambda card: _many(card, 90),
        lambda card: card["classes"].extend(map(str, range(100_000))),
    ]
    paths = [shutil.copy(saved, tmp_path / f"{number}.safetensors") for number in range(len(changes))]
    for path, change in zip(paths, changes, strict=True):
        _hostile(path, change)
    command = [sys.executable, "-c", _IN_LITTLE_MEMORY, saved, *paths]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert found[0] == "loaded"
    assert "asks for 600 seconds of sound" in found[1]
    assert [("do not fit" in line) for line in found[2:]] == [True] * 4


@pytest.mark.parametrize("value", [10**400, 1e300, "1e999"])
def test_logits_of_the_probe_that_are_none(saved, value):
    _rewritten(saved, lambda content: content | {"probe": [value, *content["probe"][1:]]})
    saved.write_bytes(saved.read_bytes().replace(b'\\"1e999\\"', b"1e999    "))
    with pytest.raises(ModelError, match="its answer to the probe cannot be read"):
        load_probe(saved)


# Fuzzing


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_noticed(tmp_path, data):
    whole = tmp_path / "whole.safetensors"
    if not whole.exists():
        save(whole, state=_state(), card=_card())
    good = whole.read_bytes()
    head = 8 + int.from_bytes(good[:8], "little")
    raw = bytearray(good)
    # Half of the damage goes into the header, which is small beside the weights.
    places = st.one_of(st.integers(0, head - 1), st.integers(0, len(good) - 1))
    for place, bits in data.draw(st.lists(st.tuples(places, st.integers(1, 255)), max_size=4)):
        raw[place] ^= bits
    cut = data.draw(st.one_of(st.none(), places))
    raw = raw[:cut] if cut is not None else raw
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(raw)
    if bytes(raw) == good:
        event("undamaged")
        load(damaged)
    try:
        card, model = load(damaged)
    except ModelError:
        event("noticed")
        return
    event("harmless")
    assert card == _card()
    state = _state()
    assert all(_bits(value) == _bits(state[key]) for key, value in model.state_dict().items())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), framed=st.booleans())
def test_random_bytes_are_refused(tmp_path, data, framed):
    path = tmp_path / "random.safetensors"
    path.write_bytes(_framed(b"{" + data) if framed else data)
    for read in (load, load_card):
        with pytest.raises(ModelError):
            read(path)


def test_a_run_folder_and_an_onnx_file_are_told_from_damage(saved, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match=f"is a directory; name the file in it, {re.escape(str(path))}"):
        load(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08\x12\x07pytorch" + bytes(100))
    with pytest.raises(
        ModelError, match=r"is an ONNX file, by its name; examples/onnx_predict\.py shows how to run it"
    ):
        load(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("earsight.models.modelfile.empty_model", ModelError, "its card asks for a network that cannot be made"),
        ("earsight.inference.model.Spectrogram", RecipeError, "its card asks for features that cannot be made"),
    ],
)
def test_a_card_whose_network_or_features_cannot_be_made_names_its_file(saved, monkeypatch, what, error, words):
    def refused(*arguments, **named):
        raise error("choose another")

    monkeypatch.setattr(what, refused)
    with pytest.raises(ModelError, match=f"{re.escape(str(saved))}: {words} .choose another."):
        Model.load(saved)
