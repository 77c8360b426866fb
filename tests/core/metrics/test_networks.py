"""Published files of metric networks become weights; what is missing, damaged or another network is one sentence."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections import OrderedDict
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.core import pickles
from tests.core.parity import seeded
from tests.core.published_like import published_tensors
from tests.core.weights_folders import change_tensors
from triportrait.core.checkpoint import save_weights
from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.metrics.emotion import EmotionNetwork
from triportrait.core.metrics.networks import ORIGINS, MissingWeights, file_of, load, make_by_rule
from triportrait.core.metrics.recon3d import FaceReconstructor
from triportrait.core.metrics.rule_weights import is_made_by_rule
from triportrait.core.metrics.rule_weights import published_tensors as published_tensors_of
from triportrait.core.metrics.syncnet import SyncNet
from triportrait.core.published.convert import convert
from triportrait.core.published.network_contract import manifest

CONVERTED = [kind for kind, origin in ORIGINS.items() if origin.converted]


def counted(tensors):
    """A state dict as modules save it, with the counters that evaluation never reads."""
    counters = {name.replace("running_var", "num_batches_tracked"): torch.tensor(9) for name in tensors
                if name.endswith("running_var")}  # fmt: skip
    return OrderedDict(tensors | counters)


@pytest.mark.parametrize(
    "kind, module, count, numbers",
    [("recon3d", FaceReconstructor, 279, 24_034_625), ("syncnet", SyncNet, 88, 13_631_616),
     ("emotion", EmotionNetwork, 267, 23_528_522)],
)  # fmt: skip
def test_the_manifests_are_the_modules(kind, module, count, numbers):
    network = module()
    ours = {n: tuple(t.shape) for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert ours == manifest(kind)
    assert len(ours) == count
    assert sum(p.numel() for p in network.parameters()) == numbers


def test_a_file_of_deep3dfacerecon(tmp_path, reconstructor):
    """It holds the states of Adam and of the schedule, too."""
    scaled = torch.nn.Linear(2, 2)
    adam = torch.optim.Adam(scaled.parameters())
    scaled(torch.ones(2)).sum().backward()
    adam.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda epoch: 0.5)
    content = {"net_recon": counted(published_tensors("recon3d")), "opt_00": adam.state_dict()}
    torch.save(content | {"sched_00": schedule.state_dict()}, tmp_path / "epoch_20.pth")
    (part,) = convert(tmp_path / "epoch_20.pth", tmp_path / "w").parts
    assert (part.kind, part.num_tensors) == ("recon3d", 279)
    loaded = load("recon3d", tmp_path / "w")
    assert (loaded.sha256, loaded.published_sha256) == (sha256(part.path), sha256(tmp_path / "epoch_20.pth"))
    face = 0.5 + 0.5 * seeded("recon3d_img", (1, 3, 224, 224), "uniform")
    with torch.no_grad():
        assert torch.equal(loaded.network(face), reconstructor(face))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_syncnet(tmp_path, syncnet, zipped, no_grad):
    """It is a bare state dict, of the time before torch's zip files."""
    tensors = published_tensors("syncnet")
    named = counted(tensors) if zipped else OrderedDict(tensors)  # counters may be missing
    torch.save(named, tmp_path / "syncnet_v2.model", _use_new_zipfile_serialization=zipped)
    convert(tmp_path / "syncnet_v2.model", tmp_path / "w")
    columns = seeded("syncnet_mfcc", (2, 1, 13, 20))
    assert torch.equal(load("syncnet", tmp_path / "w").network.embed_sound(columns), syncnet.embed_sound(columns))


def test_a_checkpoint_of_the_emotion_network(tmp_path, monkeypatch, emotion, no_grad):
    """It is Lightning's: callbacks, OmegaConf's settings and paths lie beside the tensors, and nothing is imported."""
    made = {}
    names = {"omegaconf.dictconfig": "DictConfig", "omegaconf.base": "ContainerMetadata",
             "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint"}  # fmt: skip
    parents = {".".join(module.split(".")[:n]) for module in names for n in (1, 2)}
    for module in parents - names.keys():
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    for module, name in names.items():
        made[name] = pickles.named(module, name)
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{name: made[name]}))
    settings, metadata = made["DictConfig"](), made["ContainerMetadata"]()
    metadata.ref_type, metadata.key_type, settings._metadata, settings._content = Any, int, metadata, {"lr": 1e-4}
    unused = {"backbone.fc.weight": torch.zeros(31, 2048), "backbone.fc.bias": torch.zeros(31)}
    content = {
        "epoch": 3, "global_step": 100, "pytorch-lightning_version": "1.4.9", "hyper_parameters": settings,
        "state_dict": counted(published_tensors("emotion") | unused), "optimizer_states": [], "lr_schedulers": [],
        "callbacks": {made["ModelCheckpoint"]: {"best_model_path": "a/b.ckpt", "best_model_score": torch.tensor(0.5)}},
    }  # fmt: skip
    torch.save(content, tmp_path / "x.ckpt")
    monkeypatch.undo()
    (part,) = convert(tmp_path / "x.ckpt", tmp_path / "w").parts
    assert set(load_file(part.path)) == set(manifest("emotion"))
    face = 0.5 + 0.5 * seeded("emotion_img", (1, 3, 224, 224), "uniform")
    assert torch.equal(load("emotion", tmp_path / "w").network(face), emotion(face))
    assert "non-commercial" in json.loads((tmp_path / "w" / "emotion.json").read_text())["provenance"]["licence"]


@pytest.mark.parametrize("kind, name", [("recon3d", "final_layers.0.bias"), ("emotion", "backbone.bn1.weight")])
def test_a_file_that_lacks_a_tensor_writes_nothing(tmp_path, kind, name):
    tensors = published_tensors(kind)
    del tensors[name]
    torch.save({"state_dict": tensors}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=rf"tensors of a published {kind}, got 1 missing \({name}\)"):
        convert(tmp_path / "x.pth", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_file_that_would_run_something_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return __import__("os").system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"net_recon": {"final_layers.0.weight": torch.ones(1)}, "opt_00": Payload()}, tmp_path / "epoch_20.pth")
    with pytest.raises(InputError, match=r"names the global posix.system, which no weights file needs"):
        convert(tmp_path / "epoch_20.pth", tmp_path / "w")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ORIGINS)
def test_a_missing_file_says_which_its_licence_and_source(tmp_path, kind):
    origin = ORIGINS[kind]
    with pytest.raises(MissingWeights) as caught:
        load(kind, tmp_path)
    sentence = str(caught.value)
    for part in (origin.metrics, origin.network, origin.licence, origin.source, origin.files[0]):
        assert part in sentence
    assert sentence.startswith(
        f"{tmp_path / (f'{kind}.safetensors' if origin.converted else origin.files[0])}: no such file"
    )
    assert ("triportrait convert" in sentence) == origin.converted


@pytest.mark.parametrize("kind", CONVERTED)
def test_half_of_a_network_is_no_missing_one(tmp_path, kind):
    """Its metrics must not silently stay empty."""
    (tmp_path / f"{kind}.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="no such file in the weights folder") as caught:
        load(kind, tmp_path)
    assert not isinstance(caught.value, MissingWeights)


def test_weights_of_another_network_are_one_sentence(tmp_path):
    save_weights(tmp_path, "recon3d", published_tensors("emotion"), None, {})
    with pytest.raises(InputError, match=r"recon3d.safetensors: expected the weights of Deep3DFaceRecon: 14 missing"):
        load("recon3d", tmp_path)
    (tmp_path / "recon3d.json").write_text((tmp_path / "recon3d.json").read_text().replace("recon3d", "emotion"))
    with pytest.raises(InputError, match="expected format 1 and kind recon3d, got 1 and 'emotion'"):
        load("recon3d", tmp_path)


def test_arcface_is_loaded_like_the_others_and_moves_no_seed(tmp_path):
    tensors = published_tensors("arcface")
    torch.save(tensors, tmp_path / "backbone.pth")
    convert(tmp_path / "backbone.pth", tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    network = load("arcface", tmp_path).network
    assert torch.equal(torch.rand(1), expected)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert torch.equal(network.fc.weight, tensors["fc.weight"])
    change_tensors(tmp_path, lambda t: t["fc.bias"].fill_(torch.nan), "arcface")
    with pytest.raises(InputError, match=r"fc.bias holds numbers that are not finite"):
        load("arcface", tmp_path)


def test_a_folder_or_the_file_itself(tmp_path):
    for name in ("pt_inception-2015-12-05-6726825d.pth", "alexnet-owt-7be5be79.pth"):
        (tmp_path / name).touch()
    assert file_of("inception", tmp_path).name == "pt_inception-2015-12-05-6726825d.pth"
    assert file_of("lpips_alex", tmp_path / "alexnet-owt-7be5be79.pth") == tmp_path / "alexnet-owt-7be5be79.pth"


@pytest.mark.parametrize("kind", ORIGINS)
def test_a_network_made_by_rule_is_known_by_its_tensors(kind):
    package = {"inception": "torch_fidelity", "lpips_alex": "lpips", "lpips_vgg": "lpips"}.get(kind, "torch")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    made = make_by_rule(kind)
    assert made.by_rule and made.identity.startswith("rule ")
    assert not made.network.training and not any(p.requires_grad for p in made.network.parameters())
    assert is_made_by_rule(made.network)
    trained = next(iter(published_tensors_of(made.network).values()))
    with torch.no_grad():
        trained.copy_(trained.flatten().roll(1).view_as(trained))
    assert not is_made_by_rule(made.network), "one tensor of another order is enough"


def test_a_file_made_by_rule_is_known_whatever_its_card_says(tmp_path):
    """It was rounded to half precision, published and converted: the tensors tell."""
    torch.save(
        {name: tensor.half() for name, tensor in published_tensors("arcface").items()}, tmp_path / "backbone.pth"
    )
    convert(tmp_path / "backbone.pth", tmp_path)
    assert load("arcface", tmp_path).by_rule
    change_tensors(tmp_path, lambda t: t["conv1.weight"].mul_(1.5), "arcface")
    other = load("arcface", tmp_path)
    assert not other.by_rule and other.identity == other.sha256
