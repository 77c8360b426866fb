"""Inception and LPIPS with the user's files give what the kept libraries give on the same pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.core.metrics.published_files import write_inception
from triportrait.core.errors import InputError
from triportrait.core.metrics.inception import RESIZES
from triportrait.core.metrics.lpips_network import lpips_network
from triportrait.core.metrics.networks import load
from triportrait.core.metrics.torchvision_ops import declare

declare()
PICTURES = torch.randint(0, 256, (2, 3, 150, 170), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def check_equal(got, wanted):
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def features(library, x):
    for name, layer in library.named_children():
        x = layer(x) if name != "fc" else x
    return x.flatten(1)


@pytest.fixture(scope="module")
def blocks():
    return pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def file(blocks, tmp_path_factory):
    """Every tensor of the published file, the classifier's included, made by the rule."""
    return write_inception(tmp_path_factory.mktemp("inception"))


@pytest.fixture(scope="module")
def library(blocks, file):
    """The library's own network; it would unpickle a file of the user's, which ours does not."""
    return blocks.FeatureExtractorInceptionV3("x", ["2048"], str(file))


@pytest.fixture(scope="module")
def ours(file):
    return load("inception", file.parent).network


def test_resized_as_tensorflow_1_it_is_torch_fidelity_s(ours, library, no_grad):
    check_equal(ours(PICTURES, "legacy_tensorflow"), library(PICTURES)[0])


def test_resized_as_pytorch_fid(ours, library, no_grad):
    """Its formula, written out, in front of the library's layers."""
    small = F.interpolate(PICTURES / 255, (299, 299), mode="bilinear", align_corners=False, antialias=False)
    check_equal(ours(PICTURES, "legacy_pytorch"), features(library, 2 * small - 1))


def test_resized_as_clean_fid(ours, library, no_grad):
    """Bicubic with antialiasing, each channel in float, cut to 0 and 255, not rounded."""
    small = np.zeros((2, 3, 299, 299), np.float32)
    for i, c in np.ndindex(2, 3):
        channel = Image.fromarray(PICTURES[i, c].numpy().astype(np.float32), mode="F")
        small[i, c] = np.asarray(channel.resize((299, 299), resample=Image.Resampling.BICUBIC)).clip(0, 255)
    assert small.min() == 0
    wanted = features(library, (torch.from_numpy(small) - 128) / 128)
    check_equal(ours(PICTURES, "clean"), wanted)


def test_the_rules_differ(ours, no_grad):
    """By far more than the bound of the other tests."""
    all_ = [ours(PICTURES, rule) for rule in RESIZES]
    assert all((a - b).abs().max() > 1e-3 * a.abs().max() for i, a in enumerate(all_) for b in all_[:i])


def test_torchmetrics_without_its_antialiasing_agrees(ours, file, no_grad):
    fid = pytest.importorskip("torchmetrics.image.fid")
    network = fid.NoTrainInceptionV3("x", ["2048"], str(file), antialias=False)
    check_equal(ours(PICTURES, "legacy_tensorflow"), network(PICTURES))


def test_another_file_is_one_sentence(blocks, file, tmp_path):
    tensors = torch.load(file)
    del tensors["Mixed_7c.branch1x1.bn.bias"]
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x.pth: expected the weights of Inception-v3 .*: 1 missing \(Mixed_7c"):
        load("inception", tmp_path / "x.pth")


def test_the_library_never_unpickles_the_user_s_file(blocks, tmp_path):
    class Payload:
        def __reduce__(self):
            return __import__("os").system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"fc.weight": Payload()}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="which no weights file needs"):
        load("inception", tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def test_inception_without_its_package_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", None)
    (tmp_path / "x.pth").touch()
    with pytest.raises(InputError, match=r"torch-fidelity: it is not installed; pip .*, or leave FID and KID out"):
        load("inception", tmp_path / "x.pth")


def test_lpips_says_nothing_of_how_its_package_calls_torchvision(recwarn):
    pytest.importorskip("lpips")
    lpips_network("alex", None)
    assert not recwarn


@pytest.mark.parametrize("kind, trunk", [("lpips_alex", "alex"), ("lpips_vgg", "vgg")])
def test_lpips_is_the_package_s(tmp_path, kind, trunk, no_grad):
    lpips = pytest.importorskip("lpips")
    library = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False).eval()
    named = {f"features.{name.split('.', 1)[1]}": p.clone() for name, p in library.net.named_parameters()}
    torch.save(named | {"classifier.6.weight": torch.zeros(1)}, tmp_path / "x.pth")
    loaded = load(kind, tmp_path / "x.pth")
    assert len(loaded.sha256) == 64
    a, b = (PICTURES[i : i + 1].float() / 127.5 - 1 for i in (0, 1))
    assert loaded.network(a, b).item() == pytest.approx(library(a, b).item(), rel=1e-6)
    library.spatial = True
    torch.testing.assert_close(loaded.network.at_pixels(a, b), library(a, b)[:, 0])
    assert loaded.network(a, b).item() == pytest.approx(library.eval()(a, b).mean().item(), rel=0.1)
    with pytest.raises(
        InputError, match=r"expected torchvision's (VGG-16|AlexNet) .* got (shape|none).* as features.0"
    ):
        load("lpips_vgg" if trunk == "alex" else "lpips_alex", tmp_path / "x.pth")
