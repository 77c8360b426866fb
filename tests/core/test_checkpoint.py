"""Weights folders: what was saved comes back, and what is wrong is said."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.core.synthetic import flame_tables, mesh_tables
from tests.core.weights_folders import change_card, change_tensors
from triportrait.core import checkpoint
from triportrait.core.checkpoint import load_motion_encoder, load_portrait, save_weights
from triportrait.core.config import portrait4d_v2, tiny
from triportrait.core.errors import InputError


@pytest.fixture
def folder(tmp_path, tiny_portrait, motion_encoder):
    flame = flame_tables()
    tensors = dict(tiny_portrait.state_dict())
    tensors |= {f"neck.flame.{n}": t for n, t in flame.items()}
    tensors |= {f"neck.mesh.{n}": t for n, t in mesh_tables(flame).items()}
    save_weights(tmp_path / "w", "portrait", tensors, tiny(), {"file": "x.pkl"})
    motion = {n: t for n, t in motion_encoder.state_dict().items() if not n.endswith("num_batches_tracked")}
    save_weights(tmp_path / "w", "motion", motion, None, {})
    return tmp_path / "w"


def test_what_was_saved_comes_back(folder, tiny_portrait, motion_encoder):
    portrait = load_portrait(folder, "tiny")
    for name, tensor in tiny_portrait.state_dict().items():
        assert torch.equal(portrait.state_dict()[name], tensor), name
    assert portrait.config == tiny()
    assert not portrait.training
    assert portrait.neck is not None
    assert len(portrait.neck.mesh["coarse_faces"]) == len(flame_tables()["faces"])
    crop = torch.rand(1, 3, 224, 224)
    assert torch.equal(load_motion_encoder(folder)(crop), motion_encoder(crop))
    assert json.loads((folder / "portrait.json").read_text())["provenance"] == {"file": "x.pkl"}


def test_who_may_read_the_folder_may_read_the_weights(folder):
    modes = {p.stat().st_mode & 0o777 for p in folder.iterdir()}
    assert modes == {(folder / "portrait.json").stat().st_mode & 0o777}


def test_a_folder_may_be_given_as_text(folder):
    assert load_portrait(str(folder)).config == tiny()


def test_half_precision_weights_are_lifted(folder):
    change_tensors(folder, lambda t: t.update({n: x.half() for n, x in t.items() if not n.startswith("neck.")}))
    assert {p.dtype for p in load_portrait(folder).parameters()} == {torch.float32}


def test_without_flame_the_neck_stays_still_and_a_flame_file_brings_it_back(folder):
    flame = flame_tables()
    change_tensors(folder, lambda t: [t.pop(n) for n in list(t) if n.startswith("neck.")])
    assert load_portrait(folder).neck is None
    save_weights(folder, "flame", {**flame, "template": flame["template"] / 3}, None, {})
    neck = load_portrait(folder).neck
    assert neck is not None
    torch.testing.assert_close(neck.flame["template"], flame["template"], atol=1e-3, rtol=0)


def test_a_failed_save_leaves_nothing_and_loses_nothing(folder, monkeypatch):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError, match=r"could not be written .*No space left on device"):
        save_weights(folder, "portrait", {}, tiny(), {})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


BAD = {
    "no folder": (lambda f: shutil.rmtree(f), r"no such weights folder; make one with `triportrait convert"),
    "no portrait": (
        lambda f: (f / "portrait.json").unlink(),
        r"no such file in the weights folder, it holds motion.json, motion.safetensors, portrait.saf",
    ),
    "no tensors": (lambda f: (f / "portrait.safetensors").unlink(), r"portrait.safetensors: no such file"),
    "damaged json": (lambda f: (f / "portrait.json").write_text("[" * 100_000), r"portrait.json: not readable as JSON"),
    "truncated": (
        lambda f: (f / "portrait.safetensors").write_bytes((f / "portrait.safetensors").read_bytes()[:5000]),
        r"portrait.safetensors: not a whole safetensors file",
    ),
    "missing tensor": (
        lambda f: change_tensors(f, lambda t: t.pop("superres.style")),
        r"expected the weights of preset tiny: 1 missing \(superres.style\)",
    ),
    "unknown tensor": (
        lambda f: change_tensors(f, lambda t: t.update(extra=torch.zeros(1))),
        r"1 unknown \(extra\)",
    ),
    "misshapen tensor": (
        lambda f: change_tensors(f, lambda t: t.update({"superres.style": torch.zeros(3)})),
        r"1 of another shape \(superres.style \[3\] instead of \[64\]\)",
    ),
    "not finite": (
        lambda f: change_tensors(f, lambda t: t["superres.style"].fill_(torch.nan)),
        r"superres.style holds numbers that are not finite",
    ),
    "sizes under a preset's name": (
        lambda f: change_card(f, lambda card: card["config"].update(preset="portrait4d_v2")),
        r"expected the sizes of the preset portrait4d_v2, got others",
    ),
    "a size of zero": (
        lambda f: change_card(f, lambda card: card["config"]["transformer"].update(num_heads=0)),
        r"transformer.num_heads: expected positive numbers up to 65536, got 0",
    ),
    "faces that point nowhere": (
        lambda f: change_tensors(f, lambda t: t["neck.mesh.coarse_faces"].fill_(10_000)),
        r"coarse_faces: expected whole numbers from 0 to \d+, got 10000; convert the weights again",
    ),
    "a chain of joints that is none": (
        lambda f: change_tensors(f, lambda t: t["neck.flame.parents"].fill_(4)),
        r"FLAME parents: expected -1, then an earlier joint for each",
    ),
    "too few shape directions": (
        lambda f: change_tensors(
            f,
            lambda t: t.update({"neck.flame.shape_directions": t["neck.flame.shape_directions"][..., :4].contiguous()}),
        ),
        r"FLAME shape_directions: expected 300 of shape and 100 of expression, got 4",
    ),
    "sizes of another preset": (
        lambda f: (f / "portrait.json").write_text(
            json.dumps({"format": 1, "kind": "portrait", "config": portrait4d_v2().to_dict()})
        ),
        r"expected the weights of preset portrait4d_v2: .*of another shape",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said(folder, case):
    damage, message = BAD[case]
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        load_portrait(folder)
    assert "\n" not in str(caught.value)


def test_another_preset_is_refused_by_name(folder):
    with pytest.raises(InputError, match="expected weights of the preset portrait4d_v2, got tiny"):
        load_portrait(folder, "portrait4d_v2")


def test_a_motion_encoder_of_another_shape_is_refused(folder):
    change_tensors(folder, lambda t: t.update({"eyes.embed.bias": torch.zeros(7)}), "motion")
    with pytest.raises(InputError, match=r"the motion encoder: 1 of another shape \(eyes.embed.bias"):
        load_motion_encoder(folder)
