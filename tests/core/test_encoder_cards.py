"""Cards of motion encoders: each kind comes back as it was saved, and a card that tells of none is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.core.weights_folders import change_card
from tests.train import little
from triportrait.core.checkpoint import load_motion_encoder, read_card, save_motion_encoder
from triportrait.core.errors import InputError
from triportrait.core.motion.declared_encoder import DeclaredEncoder
from triportrait.core.motion.encoder import MotionColumns, MotionEncoder
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.motion.parameter_encoder import flame_parameters
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.motion.small_encoder import HEAD_COLUMNS, SmallMotionEncoder

MODEL = ModelIdentity("FLAME 2020", "0123456789abcdef")
LAYERS: list[Any] = [
    {"op": "normalize", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]},
    {"op": "conv", "out": 8, "stride": 2, "bias": False},
    {"op": "norm", "kind": "batch"},
    {"op": "activation", "kind": "leaky_relu", "slope": 0.2},
    {
        "op": "residual",
        "layers": [{"op": "conv", "out": 16}, {"op": "norm", "kind": "group", "groups": 4}],
        "shortcut": [{"op": "conv", "out": 16, "kernel": 1}],
    },
    {"op": "resize", "size": [6, 6]},
    {"op": "pool", "kind": "average", "size": 2},
    {"op": "concatenate", "layers": [{"op": "conv", "out": 3, "groups": 1}]},
    {"op": "flatten"},
    {"op": "norm", "kind": "layer"},
    {"op": "linear", "out": 7},
]


class Unequal(nn.Module):
    """What `LAYERS` says, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.wide, self.groups, self.shortcut = nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Conv2d(8, 16, 1)
        self.few, self.layer, self.linear = nn.Conv2d(16, 3, 3, padding=1), nn.LayerNorm(171), nn.Linear(171, 7)
        for p in (self.norm.running_mean, self.norm.running_var, *self.parameters()):
            assert p is not None
            nn.init.uniform_(p, 0.1, 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(v)[:, None, None] for v in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
        x = nn.functional.leaky_relu(self.norm(self.conv((x - mean) / std)), 0.2)
        x = self.groups(self.wide(x)) + self.shortcut(x)
        x = nn.functional.avg_pool2d(nn.functional.interpolate(x, (6, 6), mode="bilinear"), 2)
        return self.linear(self.layer(torch.cat([self.few(x), x], 1).flatten(1)))

    def tensors(self) -> dict[str, torch.Tensor]:
        names = {"conv": "1", "norm": "2", "wide": "4.main.0", "groups": "4.main.1", "shortcut": "4.shortcut.0",
                 "few": "7.main.0", "layer": "9", "linear": "10"}  # fmt: skip
        state = {name: t for name, t in self.state_dict().items() if not name.endswith("tracked")}
        return {f"layers.{names[name.partition('.')[0]]}.{name.partition('.')[2]}": t for name, t in state.items()}


def declared() -> DeclaredEncoder:
    return DeclaredEncoder({"crop_size": 16, "layers": LAYERS}, "mine")


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder with a declared encoder."""
    torch.manual_seed(0)
    save_motion_encoder(tmp_path / "own", Unequal().tensors(), declared(), {"licence": "mine"})
    return tmp_path / "own"


def test_declared_layers_are_what_torch_makes_of_them(own):
    torch.manual_seed(0)
    by_hand, loaded = Unequal().eval(), load_motion_encoder(own)
    crop = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(loaded(crop), by_hand(crop))
    assert (loaded.name, loaded.motion_width, loaded.crop_size, loaded.columns) == ("mine", 7, 16, None)
    assert not loaded.train().training
    assert not any(t.is_meta for t in loaded.state_dict().values())
    assert all(not p.requires_grad for p in loaded.parameters())


def kinds() -> dict[str, MotionEncoder]:
    columns = MotionColumns({"jaw": 3}, (0.1, 0.25, 2.0), MODEL)
    with torch.device("meta"):
        published = PDFGC()
    return {
        "published": published,
        "small": little.encoder(),
        "read": SmallMotionEncoder(3, 16, (8, 8), columns, "jaws"),
        "parameters": flame_parameters(MODEL),
        "in units": flame_parameters(MODEL, tuple(0.5 + i for i in range(109))),
    }


@pytest.mark.parametrize("kind", [k for k in kinds() if k != "published"])
def test_each_kind_comes_back_as_it_was(kind, tmp_path):
    encoder = kinds()[kind]
    save_motion_encoder(tmp_path, encoder.state_dict(), encoder, {"from": "here"})
    again = load_motion_encoder(tmp_path)
    assert type(again) is type(encoder)
    assert again.card() == encoder.card()
    side = encoder.crop_size
    inputs = torch.rand(2, 3, side, side) if side is not None else torch.rand(2, encoder.motion_width)
    assert torch.equal(again(inputs), encoder(inputs))
    assert read_card(tmp_path, "motion")["provenance"] == {"from": "here"}


def test_the_published_network_is_named_and_its_card_of_before_stays_right():
    published = kinds()["published"]
    assert published.card() == {
        "name": "PD-FGC", "architecture": "PD-FGC", "motion_width": 548,
        "crop": {"frame": "published 224", "size": 224}, "columns": None,
    }  # fmt: skip
    assert published.to_dict() is None
    assert published.gaze is None


def test_parameters_as_they_are_change_no_bit():
    parameters = torch.randn(4, 109)
    assert torch.equal(flame_parameters(None)(parameters), parameters)
    assert torch.equal(flame_parameters(None, (2.0,) * 109)(parameters), parameters / 2)


def test_what_the_demo_reads_steers_the_gaze():
    encoder = little.encoder()
    assert encoder.columns == HEAD_COLUMNS
    assert encoder.gaze == slice(7, 9)
    assert kinds()["read"].gaze is None
    assert not kinds()["read"].of_drawn_heads


BAD_ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": ""}, "name: expected 1 to 80 letters, got ''"),
    "long name": ({"name": "x" * 81}, "name: expected 1 to 80 letters"),
    "control": ({"name": "a\x1b[2J"}, "name: expected 1 to 80 letters"),
    "a number": ({"name": 3}, "name: expected 1 to 80 letters, got 3"),
    "architecture": ({"architecture": "resnet"}, "architecture: expected one of PD-FGC, small, parameters"),
    "a list": ({"architecture": []}, r"architecture: expected one of .*, got \[\]"),
    "another": ({"architecture": "small"}, "config: expected the sizes of a small motion encoder"),
    "published": ({"architecture": "PD-FGC"}, "config: expected null, got"),
    "width": ({"motion_width": 8}, "motion_width: expected 7 of this network, got 8"),
    "a truth": ({"motion_width": True}, "motion_width: expected 7 of this network, got True"),
    "no crop": ({"crop": None}, "crop: expected .*16.* of this network, got None"),
    "crop": ({"crop": {"frame": "other", "size": 16}}, "crop: expected"),
    "more": ({"code": "import os"}, "encoder: expected architecture, columns, crop, motion_width, name, got"),
    "columns": ({"columns": []}, r"columns: expected head_model, scale, widths, got \[\]"),
    "few units": ({"columns": {"widths": {"jaw": 7}, "scale": [1.0], "head_model": None}}, "scale: expected 7 numbers"),
    "no unit": (
        {"columns": {"widths": {"jaw": 7}, "scale": [1.0] * 6 + [0], "head_model": None}}, "scale: expected 7 numbers",
    ),
    "a huge width": ({"columns": {"widths": {"jaw": 10**9}, "scale": [], "head_model": None}}, "widths: expected"),
    "many widths": (
        {"columns": {"widths": {str(i): 4096 for i in range(9)}, "scale": [], "head_model": None}}, "scale: expected",
    ),
    "no model": (
        {"columns": {"widths": {"jaw": 7}, "scale": [1.0] * 7, "head_model": {"name": "x"}}}, "head_model: expected",
    ),
    "other columns": (
        {"columns": {"widths": {"jaw": 3}, "scale": [1.0] * 3, "head_model": None}},
        "config: expected 3 numbers at the end, as its columns have, got 7",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change, said", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_entries_that_tell_of_no_encoder_are_refused(change, said, own):
    change_card(own, lambda card: card["encoder"].update(change), "motion")
    with pytest.raises(InputError, match=said) as result:
        load_motion_encoder(own)
    assert str(result.value).isprintable()
    assert len(str(result.value)) < 1000


def test_only_motion_has_an_encoder(own):
    change_card(own, lambda card: card.update(encoder="mine"), "motion")
    with pytest.raises(InputError, match="encoder: expected architecture"):
        load_motion_encoder(own)


def conv(**more: Any) -> dict[str, Any]:
    return {"op": "conv", "out": 8} | more


END: list[Any] = [{"op": "flatten"}, {"op": "linear", "out": 7}]
BAD_LAYERS: dict[str, tuple[Any, str]] = {
    "no list": ({}, r"layers: expected a list of layers, got \{\}"),
    "no layer": (["conv"], "layers.0: expected a layer .an object with op., got 'conv'"),
    "unknown": ([{"op": "__import__"}], "layers.0: op: expected one of conv, norm, .*, got '__import__'"),
    "a list for op": ([{"op": ["conv"]}], "layers.0: op: expected one of"),
    "unknown entry": ([conv(hook="x")], "layers.0: conv: expected out, kernel, .*, got hook"),
    "no channels": ([{"op": "conv"}], "layers.0: conv: out: expected a whole number from 1 to 8192, got None"),
    "huge": ([conv(out=10**12)], "layers.0: conv: out: expected a whole number from 1 to 8192, got 1000000000000"),
    "a fraction": ([conv(stride=1.5)], "stride: expected a whole number from 1 to 16, got 1.5"),
    "negative": ([conv(padding=-1)], "padding: expected a whole number from 0 to 64, got -1"),
    "groups": ([conv(groups=2)], "layers.0: conv: expected groups that divide 3 and 8 channels, got 2"),
    "kernel": ([conv(kernel=31, padding=0)], "layers.0: conv: expected a layer that takes a map of 3 x 16 x 16"),
    "a vector before": ([{"op": "flatten"}, conv()], "layers.1: conv: expected a map before it, got a vector of 768"),
    "a map before": ([{"op": "linear", "out": 3}], "layers.0: linear: expected a vector before it, got a map of"),
    "ends as a map": ([conv()], r"expected a vector at the end .flatten, linear., got a map of 8 x 16 x 16"),
    "norm": ([{"op": "norm", "kind": "spectral"}], "layers.0: norm: kind: expected one of batch, group, layer, got"),
    "activation": ([{"op": "activation", "kind": "eval"}], "kind: expected one of relu, .*, got 'eval'"),
    "slope": ([{"op": "activation", "kind": "relu", "slope": 0.1}], "expected slope for kind leaky_relu alone"),
    "resize": ([{"op": "resize", "size": [4096, 4096]}], "size: expected height and width from 1 to 1024"),
    "values": ([conv(out=8192), {"op": "resize", "size": [512, 512]}], "at most 67,108,864 numbers for one crop"),
    "wide map": ([{"op": "resize", "size": [1024, 1024]}, conv(out=8192)], "layers.1: conv: expected 1 to 67,108,864"),
    "weights": (
        [{"op": "resize", "size": [256, 256]}, {"op": "flatten"}, {"op": "linear", "out": 8192}],
        "layers.2: expected at most 268,435,456 weights in all, got more",
    ),
    "work": (
        [{"op": "resize", "size": [512, 512]}, conv(out=256), conv(out=256, kernel=31)], "weights|multiplications",
    ),
    "a residual of two sizes": (
        [{"op": "residual", "layers": [conv()]}], "residual: expected layers and a shortcut of one size, got a map of",
    ),
    "inside": ([{"op": "residual", "layers": [{"op": "x"}]}], "layers.0.main.0: op: expected one of"),
    "std": ([{"op": "normalize", "mean": [0, 0, 0], "std": [1, 1, 0]}], "std: expected a number from 1e-06"),
    "many": ([{"op": "activation", "kind": "relu"}] * 513, "layers.512: expected at most 512 layers in all"),
}  # fmt: skip


@pytest.mark.parametrize("layers, said", BAD_LAYERS.values(), ids=BAD_LAYERS)
def test_layers_that_are_no_network_are_refused_before_memory_is_taken(layers, said, own, monkeypatch):
    """No file is read, and what would be allocated lies on the meta device."""

    def layered(card: dict[str, Any]) -> None:
        card["config"]["layers"] = layers

    change_card(own, layered, "motion")
    (own / "motion.safetensors").unlink()
    with pytest.raises(InputError, match=said) as result:
        load_motion_encoder(own)
    assert "motion.json config: " in str(result.value)
    assert str(result.value).isprintable()
    assert len(str(result.value)) < 1000


def test_blocks_in_each_other_have_an_end():
    entry: dict[str, Any] = {"op": "activation", "kind": "relu"}
    for _ in range(6):
        entry = {"op": "residual", "layers": [entry]}
    with pytest.raises(InputError, match="expected at most 4 blocks in each other, got more; mend the card"):
        DeclaredEncoder({"crop_size": 16, "layers": [entry, *END]})


def test_a_file_of_other_tensors_is_refused(own, tmp_path):
    tensors = Unequal().tensors()
    with pytest.raises(InputError, match=r"tensors: expected the weights of mine: 1 missing \(layers.1.weight\)"):
        save_motion_encoder(
            tmp_path / "x", {n: t for n, t in tensors.items() if n != "layers.1.weight"}, declared(), {}
        )
    assert not (tmp_path / "x").exists()
    change_card(own, lambda card: card["config"]["layers"][-1].update(out=6), "motion")
    change_card(own, lambda card: card["encoder"].update(motion_width=6), "motion")
    with pytest.raises(InputError, match=r"the motion encoder mine: 2 of another shape \(layers.10.bias"):
        load_motion_encoder(own)


def test_a_crop_of_no_size_is_refused(own):
    change_card(own, lambda card: card["config"].update(crop_size=4096), "motion")
    with pytest.raises(InputError, match="crop_size: expected a whole number from 1 to 1024, got 4096"):
        load_motion_encoder(own)


def test_half_precision_keeps_what_a_graph_captures(own):
    """As serving makes it: the layers that multiply are rounded, and autocast runs them."""
    encoder = load_motion_encoder(own)
    crop = torch.rand(2, 3, 16, 16)
    whole = encoder(crop)
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert (encoder(crop).float() - whole).abs().max() < 0.1 * whole.abs().max()
