"""Checkpoints: the same bits back, and nothing where there is no whole checkpoint."""

import json
import pickle
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from earsight.errors import RunError
from earsight.recipe import Training
from earsight.training.checkpoint import load_checkpoint, save_checkpoint
from earsight.training.optim import copy_state, make_optimizer


def small(outputs=3):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(outputs))
    model(torch.zeros(2, 3, 6, 6))
    return model.to(memory_format=torch.channels_last)


def fitted(name, *, seed=0, steps=3):
    torch.manual_seed(seed)
    model = small()
    optimizer = make_optimizer(model, Training(optimizer=name, learning_rate=0.01))
    train(model, optimizer, steps)
    return model, optimizer


def train(model, optimizer, steps):
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        batch = torch.randn(4, 3, 6, 6, generator=generator).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_checkpoint_gives_back_every_bit(tmp_path, name):
    model, optimizer = fitted(name)
    path = tmp_path / "checkpoint.safetensors"
    mean = {key: value + 1 for key, value in copy_state(model).items()}
    record = {"history": [{"loss": 0.1 + 0.2}], "best_epoch": 2}
    save_checkpoint(path, model=model, optimizer=optimizer, extra={"mean": mean, "best": None}, record=record)
    other, other_optimizer = fitted(name, seed=1, steps=1)
    assert not same(other.state_dict(), model.state_dict())
    extra, found = load_checkpoint(path, model=other, optimizer=other_optimizer)
    assert found == record
    assert extra.keys() == {"mean"}
    assert same(extra["mean"], mean)
    assert same(other.state_dict(), model.state_dict())
    for parameter, state in other_optimizer.state.items():  # a fused optimiser would mix up values laid out otherwise
        assert {value.stride() for value in state.values() if value.shape == parameter.shape} == {parameter.stride()}
    first, second = optimizer.state_dict(), other_optimizer.state_dict()
    assert first["param_groups"] == second["param_groups"]
    assert first["state"].keys() == second["state"].keys()
    assert all(same(first["state"][index], second["state"][index]) for index in first["state"])
    # And it trains on alike.
    train(model, optimizer, 3)
    train(other, other_optimizer, 3)
    assert same(other.state_dict(), model.state_dict())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_it_is_a_safetensors_file(tmp_path):
    model, optimizer = fitted("adamw")
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model=model, optimizer=optimizer, extra={}, record={})
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert json.loads(header["__metadata__"]["record"]) == {}
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(data)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def truncated_header(path):
    path.write_bytes(path.read_bytes()[:20])


def emptied(path):
    path.write_bytes(b"")


def pickled(path):
    torch.save({"model/0.weight": torch.zeros(1)}, path)


def foreign(path):
    save_file({"weight": torch.zeros(3)}, path)


def foreign_with_metadata(path):
    save_file({"weight": torch.zeros(3)}, path, metadata={"record": "{}"})


def of_no_json(path):
    save_file({"weight": torch.zeros(3)}, path, metadata={"record": "{"})


def of_another_head(path):
    model = small(outputs=5)
    save_checkpoint(path, model=model, optimizer=make_optimizer(model, Training()), extra={}, record={})


def of_a_larger_model(path):
    model = nn.Sequential(*small(), nn.Linear(3, 3))
    save_checkpoint(path, model=model, optimizer=make_optimizer(model, Training()), extra={}, record={})


def missing(path):
    path.unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        truncated,
        truncated_header,
        emptied,
        pickled,
        foreign,
        foreign_with_metadata,
        of_no_json,
        of_another_head,
        of_a_larger_model,
        missing,
    ],
)
def test_what_is_no_whole_checkpoint_leaves_everything_as_it_was(tmp_path, spoil):
    model, optimizer = fitted("adamw")
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model=model, optimizer=optimizer, extra={}, record={})
    spoil(path)
    (tmp_path / "checkpoint.previous.safetensors").unlink(missing_ok=True)
    other, other_optimizer = fitted("adamw", seed=1, steps=1)
    before, steps = copy_state(other), other_optimizer.state_dict()["state"][0]["step"].clone()
    assert load_checkpoint(path, model=other, optimizer=other_optimizer) is None
    assert same(other.state_dict(), before)
    assert other_optimizer.state_dict()["state"][0]["step"] == steps == 1


def test_a_byte_that_changed_is_noticed_and_the_one_before_is_taken(tmp_path, caplog):
    model, optimizer = fitted("adamw")
    path = tmp_path / "checkpoint.safetensors"
    for epoch in (1, 2, 3):
        save_checkpoint(path, model=model, optimizer=optimizer, extra={}, record={"epoch": epoch})
    before = tmp_path / "checkpoint.previous.safetensors"
    assert sorted(tmp_path.iterdir()) == [before, path]
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    places = [*range(0, 8 + length, 37), *range(8 + length, len(data), len(data) // 40)]
    noticed = 0
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        record = load_checkpoint(path, model=model, optimizer=optimizer)[1]
        noticed += record == {"epoch": 2}
        assert record in ({"epoch": 2}, {"epoch": 3})
        assert record == {"epoch": 2} or place < 8 + length, "a weight changed in silence"
    assert noticed > 0.9 * len(places)
    assert f"{path}: is damaged, or of another model or trial; training goes on from the one before it" in caplog.text
    before.write_bytes(data[:-4])
    caplog.clear()
    path.write_bytes(data[:-4])
    assert load_checkpoint(path, model=model, optimizer=optimizer) is None
    assert f"{before}: is damaged, or of another model or trial; training begins anew" in caplog.text


def test_a_checkpoint_of_an_earlier_version_is_taken_and_said_not_to_be_checked(tmp_path, caplog):
    model, optimizer = fitted("adamw")
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model=model, optimizer=optimizer, extra={}, record={"epoch": 1})
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"record": '{"epoch": 1}'})
    assert load_checkpoint(path, model=model, optimizer=optimizer)[1] == {"epoch": 1}
    assert "without a digest; it cannot be checked" in caplog.text


def test_a_name_that_changed_in_a_checkpoint_of_an_earlier_version_is_no_traceback(tmp_path):
    """Without a digest not every change shows; what is taken can be trained on, and else training begins anew."""
    model, optimizer = fitted("adamw")
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model=model, optimizer=optimizer, extra={}, record={})
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"record": "{}"})
    data, outcomes = path.read_bytes(), set()
    for name in ("optimizer/0/exp_avg", "optimizer/1/step", "optimizer/3/exp_avg_sq"):
        begin = data.index(f'"{name}"'.encode()) + 1
        for place in range(begin, begin + len(name)):
            for bit in range(7):
                changed = bytearray(data)
                changed[place] ^= 1 << bit
                path.write_bytes(changed)
                other, own = fitted("adamw", steps=1)
                outcomes.add(load_checkpoint(path, model=other, optimizer=own) is None)
                train(other, own, 1)
    assert True in outcomes


def test_a_write_that_fails_leaves_the_old_one(tmp_path):
    model, optimizer = fitted("adamw")
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model=model, optimizer=optimizer, extra={}, record={"epoch": 1})
    with pytest.raises(TypeError):
        save_checkpoint(path, model=model, optimizer=optimizer, extra={}, record={"epoch": object()})
    assert load_checkpoint(path, model=model, optimizer=optimizer)[1] == {"epoch": 1}


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path):
    """A limit on the size of files stands for the disk: the system refuses the write in the middle in the same way."""
    model, optimizer = fitted("adamw")
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model=model, optimizer=optimizer, extra={}, record={"epoch": 1})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RunError, match="make room"):
            save_checkpoint(path, model=model, optimizer=optimizer, extra={}, record={"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
