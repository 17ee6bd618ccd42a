"""The step that a GPU can record: replayed by a recorder that runs on a CPU, it trains to the same bits."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from earsight.errors import RecipeError, RunError
from earsight.features.augment import draw
from earsight.features.device_cache import SpectrogramCache
from earsight.models.backbones import build
from earsight.training import loop
from earsight.training import trial as trial_module
from earsight.training.batches import Data, DeviceBatches, HostBatches, batches_of
from earsight.training.device import make_recorder, step_kind
from earsight.training.loop import fit, predict
from earsight.training.optim import copy_state, make_optimizer
from earsight.training.step import Step
from earsight.training.trial import Trial, run_trial

CPU = torch.device("cpu")
ROWS = np.arange(40)


class Rehearsal:
    """Records as CUDA graphs do, but replays by running the body again; it knows only what was there at the record."""

    def __init__(self):
        self.warmed, self.recorded, self.replayed = 0, 0, 0

    def warm_up(self, body, *, times):
        with torch.random.fork_rng(devices=[]):
            for _ in range(times):
                body()
        self.warmed += times

    def record(self, body):
        self.recorded += 1

        def replay():
            self.replayed += 1
            body()

        return replay


class NoLooking(TorchDispatchMode):
    """Refuses what would make a host wait for its GPU, or end the recording of a graph."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "equal", "unique", "masked_select"), name
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def data(prepared):
    mean, std = prepared.store.statistics(ROWS)
    return Data(
        source=prepared.store,
        labels=prepared.dataset.labels,
        classes=10,
        mean=torch.tensor(mean, dtype=torch.float32),
        std=torch.tensor(std, dtype=torch.float32),
        device=CPU,
    )


@pytest.fixture(scope="module")
def resident(data, prepared):
    return replace(data, source=SpectrogramCache(prepared.store, CPU))


@pytest.fixture
def recorded(monkeypatch):
    """Training as on a GPU, with a recorder that runs on a CPU."""
    recorders = []

    def make(*_):
        recorders.append(Rehearsal())
        return recorders[-1]

    monkeypatch.setattr(loop, "step_kind", lambda *_: "graph")
    monkeypatch.setattr(loop, "make_recorder", make)
    return recorders


def tiny_model(seed=0):
    return build("test_resnet", classes=10, weights="none", seed=seed, dropout=0.1).to(
        memory_format=torch.channels_last
    )


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(fitted):
    return [record["loss"] for record in fitted.history]


def test_feeds_fit_where_the_data_are(data, resident):
    assert isinstance(batches_of(data, smoothing=0.0), HostBatches)
    assert isinstance(batches_of(resident, smoothing=0.0), DeviceBatches)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_both_feeds_give_the_same_spectrograms_and_targets(data, resident, tiny, smoothing):
    augment = tiny("augment.probability=0.8", "augment.time_masks=2", "augment.band_masks=1").augment

    def batches():
        generator = np.random.default_rng(5)
        return [(rows, draw(augment, batch=len(rows), generator=generator)) for rows in np.split(ROWS, (13, 27))]

    found = []
    for given in (data, resident):
        feed = batches_of(given, smoothing=smoothing)
        found.append([feed.assemble(*batch) for batch in feed.epoch(batches())])
    assert [len(spectrograms) for spectrograms, _ in found[1]] == [13, 14, 13]
    for (host, host_targets), (device, device_targets) in zip(*found, strict=True):
        # Normalised by a deviation above 1: a thousandth here is more than one in the log-mels.
        assert data.std.min() > 1
        torch.testing.assert_close(device, host, atol=1e-5, rtol=0)
        torch.testing.assert_close(device_targets, host_targets, atol=1e-6, rtol=0)
        assert device.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_training_from_the_device_is_training_from_the_store(data, resident, tiny, optimizer):
    recipe = tiny(f"training.optimizer={optimizer}", "training.precision=float32", "training.learning_rate=0.003")
    found = [fit(tiny_model(), given, ROWS, recipe=recipe, seed=2) for given in (data, resident)]
    np.testing.assert_allclose(losses(found[0]), losses(found[1]), rtol=2e-3)
    models = [tiny_model(), tiny_model()]
    for model, fitted in zip(models, found, strict=True):
        model.load_state_dict(fitted.state)
    logits = [predict(model, given, ROWS) for model, given in zip(models, (data, resident), strict=True)]
    np.testing.assert_allclose(*logits, atol=0.05)


@pytest.mark.parametrize("extra", [["training.optimizer=adam"], ["training.ema=0.9"], ["training.optimizer=sgd"]])
def test_what_is_recorded_trains_to_the_same_bits(resident, tiny, monkeypatch, recorded, extra):
    # 40 rows in batches of 13 and 14: two shapes, a recording for each.
    recipe = tiny(*extra, "training.batch_size=13")
    replayed = fit(tiny_model(), resident, ROWS, recipe=recipe, seed=3)
    (recorder,) = recorded
    assert (recorder.recorded, recorder.replayed, recorder.warmed) == (2, 9, 6)
    monkeypatch.setattr(loop, "make_recorder", lambda *_: None)
    plain = fit(tiny_model(), resident, ROWS, recipe=recipe, seed=3)
    assert same(replayed.state, plain.state)
    assert losses(replayed) == losses(plain)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_fused_optimisers_are_the_plain_ones(resident, tiny, monkeypatch, recorded, optimizer):
    recipe = tiny(f"training.optimizer={optimizer}", "training.precision=float32", "training.learning_rate=0.003")
    fused = fit(tiny_model(), resident, ROWS, recipe=recipe, seed=3)
    monkeypatch.setattr(loop, "step_kind", lambda *_: "eager")
    monkeypatch.setattr(loop, "make_recorder", lambda *_: None)
    plain = fit(tiny_model(), resident, ROWS, recipe=recipe, seed=3)
    np.testing.assert_allclose(losses(fused), losses(plain), rtol=1e-3)


def test_stopped_and_recorded_anew_it_ends_with_the_same_bits(resident, tiny, tmp_path, monkeypatch, recorded):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    recipe = tiny("training.ema=0.9", "training.batch_size=13")
    whole = fit(tiny_model(), resident, ROWS, recipe=recipe, seed=3)

    class StoppedError(Exception):
        pass

    def stop(done, *_):
        if done == 5:
            raise StoppedError

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(StoppedError):
        fit(tiny_model(), resident, ROWS, recipe=recipe, seed=3, checkpoint=path, on_step=stop)
    again = fit(tiny_model(seed=1), resident, ROWS, recipe=recipe, seed=3, checkpoint=path)
    assert recorded[-1].replayed == 6  # the second and the third epoch
    assert same(again.state, whole.state)
    assert losses(again) == losses(whole)


@pytest.mark.parametrize("extra", [["training.optimizer=adam"], ["training.ema=0.9"], ["training.optimizer=sgd"]])
def test_no_step_looks_at_a_value(resident, tiny, extra):
    recipe = tiny(*extra, "training.label_smoothing=0.1")
    training, model = recipe.training, tiny_model()
    optimizer = make_optimizer(model, training, recordable=True)
    feed = batches_of(resident, smoothing=training.label_smoothing)
    mean = copy_state(model) if training.ema else None
    step = Step(
        model,
        optimizer,
        assemble=feed.assemble,
        training=training,
        device=CPU,
        weights=torch.rand(10),
        ema=mean,
        recorder=Rehearsal(),
    )
    generator = np.random.default_rng(0)
    batches = [(rows, draw(recipe.augment, batch=8, generator=generator)) for rows in np.split(ROWS, 5)]
    model.train()
    with NoLooking():
        for batch in feed.epoch(batches):
            step(*batch, rate=0.01, ema_decay=0.9)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            float(optimizer.param_groups[0]["lr"])


def test_rates_and_batches_reach_what_was_recorded(resident, tiny):
    """The recording reads its slots: the same tensors at every step, filled anew."""
    training, model = tiny("training.optimizer=sgd", "training.momentum=0").training, tiny_model()
    slots = []

    class Remembering(Rehearsal):
        def record(self, body):
            slots.append(body.__closure__)
            return super().record(body)

    optimizer = make_optimizer(model, training, recordable=True)
    feed = batches_of(resident, smoothing=0.0)
    step = Step(model, optimizer, assemble=feed.assemble, training=training, device=CPU, recorder=Remembering())
    generator = np.random.default_rng(0)
    batches = [(rows, draw(tiny().augment, batch=20, generator=generator)) for rows in np.split(ROWS, 2)]
    before = copy_state(model)
    first, second = (step(*batch, rate=0.0).item() for batch in feed.epoch(batches))
    parameters = dict(model.named_parameters())
    assert all(torch.equal(before[name], value) for name, value in parameters.items())
    assert first != second
    for batch in feed.epoch(batches):
        step(*batch, rate=0.1)
    assert not any(torch.equal(before[name], value) for name, value in parameters.items())
    assert len(slots) == 1


def test_kinds_of_steps():
    gpu = torch.device("cuda")
    assert [step_kind(wanted, gpu) for wanted in ("auto", "none", "graph", "fused")] == [
        "graph",
        "eager",
        "graph",
        "fused",
    ]
    assert [step_kind(wanted, CPU) for wanted in ("auto", "none")] == ["eager", "eager"]
    for wanted in ("graph", "fused"):
        with pytest.raises(RecipeError, match=f"training.compile is {wanted}, which needs an NVIDIA GPU; set it to"):
            step_kind(wanted, CPU)
    assert make_recorder("eager", gpu) is None


def test_a_full_gpu_is_said_with_the_remedy(prepare_as, cpu, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")

    monkeypatch.setattr(trial_module, "fit", fail)
    said = r"^the GPU's memory is full \(CUDA out of memory\); lower jobs or training\.batch_size, or leave the data"
    with pytest.raises(RunError, match=said):
        run_trial(prepare_as("training.epochs=1"), Trial(1, 0), run=tmp_path, device=cpu)


def test_a_compiled_step_is_the_same_step(resident, tiny, monkeypatch):
    """Traced as `fused` has it traced, without a compiler behind it: nothing breaks its graph in two."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    training = tiny("training.precision=float32", "training.ema=0.9").training
    feed, found = batches_of(resident, smoothing=0.0), []
    generator = np.random.default_rng(0)
    batches = [(rows, draw(tiny().augment, batch=20, generator=generator)) for rows in np.split(ROWS, 2)]
    for fuse in (False, True):
        model = tiny_model().train()
        optimizer = make_optimizer(model, training, recordable=True)
        mean = copy_state(model)
        step = Step(
            model,
            optimizer,
            assemble=feed.assemble,
            training=training,
            device=CPU,
            ema=mean,
            recorder=Rehearsal(),
            fuse=fuse,
        )
        torch.manual_seed(0)
        found.append([step(*batch, rate=0.003, ema_decay=0.5).item() for batch in feed.epoch(batches)])
        assert list(mean) == list(model.state_dict()) == list(tiny_model().state_dict())
    np.testing.assert_allclose(*found, rtol=1e-3)
