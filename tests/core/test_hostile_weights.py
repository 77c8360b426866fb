"""Weights folders that were made to do harm: one short printable sentence, at once, before any work."""

from __future__ import annotations

import os
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch

from tests.core.synthetic import flame_tables, mesh_tables
from tests.core.weights_folders import change_card, change_tensors
from triportrait.core.checkpoint import load_pair, save_weights
from triportrait.core.config import ModelConfig, tiny
from triportrait.core.errors import InputError
from triportrait.core.motion.neck import NeckField
from triportrait.core.published.unpickle import read_pickle
from triportrait.core.weights import DEMO_FOLDER

LONGEST, SECONDS = 1000, 2.0


@pytest.fixture
def folder(tmp_path):
    """A copy of the package's own weights, that may be altered."""
    for path in DEMO_FOLDER.glob("*.*"):
        if path.suffix in (".json", ".safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def refusal(folder: Path) -> str:
    began = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load_pair(folder)
    assert time.perf_counter() - began < SECONDS
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) <= LONGEST, message
    return message


@pytest.mark.parametrize("kind", ["portrait", "motion"])
@pytest.mark.parametrize("name", ["\x1b[2J\x1b[1;31mok\ntriportrait: done", "\u202efdp", "x" * 3_000_000, "\x9b" * 500])
def test_names_of_tensors_are_shown_escaped_and_cut(folder, kind, name):
    change_tensors(folder, lambda t: t.update({name: torch.zeros(1)}), kind)
    message = refusal(folder)
    assert f"{kind}.safetensors: expected the weights of" in message
    assert "1 unknown (" in message
    assert message.endswith("); convert the right file")


def test_a_name_of_90_mb_is_not_even_parsed(folder):
    path = folder / "portrait.safetensors"
    text = b'{"' + b"x" * 90_000_000 + b'": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert "its header has 90,000,060 bytes, 8,388,608 at most" in refusal(folder)


def test_a_tensor_named_twice_is_refused(folder):
    path = folder / "portrait.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    text = data[8 : 8 + length].rstrip()
    text = text[:-1] + b', "superres.style": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    assert "superres.style stands twice in one object" in refusal(folder)


CARDS = {
    "a number of 400 digits": (
        lambda c: c["config"]["render"].update(num_coarse=10**400),
        "num_coarse is a number of about 401 digits",
    ),
    "a truth for a format": (lambda c: c.update(format=True), "expected format 1 and kind portrait, got True"),
    "a real format": (lambda c: c.update(format=1.0), "expected format 1 and kind portrait, got 1.0"),
    "codes for a kind": (lambda c: c.update(kind="\x1b[2J"), r"got 1 and '\x1b[2J'"),
    "a field that nobody knows": (lambda c: c.update({"x\x1b": 1}), r"got x\x1b beside them"),
    "provenance that is none": (lambda c: c.update(provenance=["x"] * 9), "provenance: expected an object"),
    "60 MB of provenance": (lambda c: c.update(provenance={"text": "x" * 60_000_000}), "expected at most 4,194,304"),
    "a truth for a number": (lambda c: c["config"]["render"].update(num_fine=True), "num_fine: expected int, got True"),
    "a real for a whole number": (lambda c: c["config"]["render"].update(num_fine=8.0), "expected int, got 8.0"),
    "a preset of codes": (lambda c: c["config"].update(preset="\x1b" * 9), "preset: expected a name of up to 80"),
    "a long preset": (lambda c: c["config"].update(preset="x" * 99999), "preset: expected a name of up to 80 letters"),
    "an unknown field": (lambda c: c["config"].update({"y" * 9999: 1}), "fields missing or unknown in ModelConfig"),
    "a negative size": (lambda c: c["config"].update(image_size=-128), "image_size: expected positive numbers"),
    "a negative width": (lambda c: c["config"]["encoder"].update(detail_widths=[-1, 2, 3]), "detail_widths: expected"),
    "a long list": (lambda c: c["config"]["encoder"].update(detail_widths=[1] * 99), "detail_widths: expected 1 to 16"),
    "no list": (lambda c: c["config"]["encoder"].update(detail_widths=[]), "encoder.detail_widths: expected positive"),
    "nothing": (lambda c: c.update(config=None), "config: expected an object with the fields of ModelConfig"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), CARDS.values(), ids=CARDS)
def test_a_card_is_read_strictly(folder, edit, message):
    change_card(folder, edit)
    assert message in refusal(folder)


def test_a_name_that_stands_twice_in_a_card_is_refused(folder):
    path = folder / "portrait.json"
    path.write_text(path.read_text().replace('"kind": "portrait"', '"kind": "portrait", "kind": "motion"'))
    assert "kind stands twice in one object" in refusal(folder)


LIMITS = {
    "render": {"num_coarse": 65536, "num_fine": 257, "box_side": 1e6, "superres_widths": [1] * 5},
    "neck": {"fine_size": 65, "coarse_size": 512, "near_squared_distance": 1e4, "num_shape": 60000},
    "encoder": {"pyramid_dilations": [3, 6, 65000], "trunk_blocks": [1, 1, 1, 60000]},
    "transformer": {"num_neutral_blocks": 60000, "num_motion_tokens": 60000},
    "decoder": {"num_blocks": 60000, "kv_reduction": 4096},
}


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in LIMITS.items() for name in names])
def test_what_no_tensor_bounds_is_bounded_by_its_field(folder, part, name):
    change_card(
        folder, lambda c: (c["config"].update(preset="custom"), c["config"][part].update({name: LIMITS[part][name]}))
    )
    assert f"portrait.json config.{part}.{name}: expected" in refusal(folder)


def test_the_work_of_a_frame_is_bounded():
    plain = tiny().to_dict()
    plain["preset"] = "custom"
    plain["render"].update(num_coarse=256, num_fine=256)
    assert ModelConfig.from_dict(plain).render.num_coarse == 256
    plain["render"].update(neural_size=256, superres_widths=[32], plane_size=256)
    plain["image_size"] = 512
    with pytest.raises(InputError, match=r"expected at most 8,388,608 samples a frame, .* got 33,554,432"):
        ModelConfig.from_dict(plain)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64])
def test_tensors_of_a_kind_that_no_network_has_are_refused(folder, dtype):
    change_tensors(folder, lambda t: t.update({"superres.style": t["superres.style"].to(dtype)}))
    assert "superres.style: expected floating point of 16 to 64 bits or whole numbers, got" in refusal(folder)


def test_whole_numbers_are_no_weights(folder):
    change_tensors(folder, lambda t: t.update({"superres.style": t["superres.style"].to(torch.int64)}))
    assert "1 not of real numbers (superres.style int64)" in refusal(folder)


def test_numbers_that_are_finite_in_the_file_alone_are_refused(folder):
    change_tensors(folder, lambda t: t.update({"superres.style": torch.full((64,), 1e300, dtype=torch.float64)}))
    assert "superres.style holds numbers that are not finite" in refusal(folder)


@pytest.mark.parametrize("file", ["portrait.json", "portrait.safetensors", "motion.json", "motion.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "link to a device", "folder"])
def test_what_is_no_file_is_refused_at_once(folder, file, kind):
    path = folder / file
    path.unlink()
    {"pipe": os.mkfifo, "link to a device": lambda p: p.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)
    expected = "directory" if kind == "folder" else f"expected a file, this is a {kind.split()[-1]}"
    assert f"{file}: " in (message := refusal(folder))
    assert expected in message


def test_a_neck_that_is_no_file_is_not_taken_for_none(folder):
    (folder / "neck.safetensors").unlink()
    os.mkfifo(folder / "neck.safetensors")
    assert "neck.safetensors: expected a file, this is a pipe" in refusal(folder)


TABLES = {
    "of whole numbers": lambda t: t.to(torch.int64) if t.is_floating_point() else t.float(),
    "of truths": lambda t: t.bool(),
    "one number": lambda t: t.flatten()[0].clone(),
    "nothing": lambda t: t[:0],
}


@pytest.mark.parametrize("name", [*flame_tables(), "coarse_vertices", "coarse_barycentrics", "coarse_faces"])
@pytest.mark.parametrize("change_of", TABLES.values(), ids=TABLES)
def test_tables_of_another_kind_are_refused_before_they_are_used(name, change_of):
    flame = flame_tables()
    mesh = mesh_tables(flame)
    tables = flame if name in flame else mesh
    tables[name] = change_of(tables[name])
    with pytest.raises(InputError) as caught:
        NeckField(tiny().neck, 1.3, flame, mesh)
    assert str(caught.value).isprintable()


def test_a_mesh_without_faces_is_refused_in_a_sentence():
    flame = flame_tables()
    mesh = mesh_tables(flame)
    mesh["coarse_faces"] = mesh["coarse_faces"][:0]
    with pytest.raises(InputError, match=r"coarse_faces: expected whole numbers from .* got an empty table"):
        NeckField(tiny().neck, 1.3, flame, mesh)


@pytest.mark.parametrize("name", ["a.b", "", "forward", "\x1b[2J"])
def test_tables_of_odd_names_are_refused(folder, name):
    tables = {f"neck.flame.{key}": table for key, table in flame_tables().items()}
    change_tensors(folder, lambda t: t.update(tables | {f"neck.flame.{name}": torch.zeros(1)}))
    assert "expected the name of a table, got another" in refusal(folder)


@pytest.mark.parametrize("name", ["template", "shape_directions", "pose_directions"])
def test_a_flame_file_that_lacks_a_table_is_refused(folder, name):
    tables = flame_tables()
    del tables[name]
    save_weights(folder, "flame", tables, None, {})
    assert f"missing {name}" in refusal(folder)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_parts_of_one_name_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(3)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data/0", b"\0" * 12)
    with pytest.raises(InputError, match="has two parts of one name"):
        read_pickle(path)
