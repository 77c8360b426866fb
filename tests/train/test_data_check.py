"""What is not finite, of another shape or does not decode is found in data before it is trained on, and by its name."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.train import little, tracked
from tests.train.spoiling import HEAD, altered, changed, spoil, spoilt
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.train.data import check
from triportrait.train.data.arrays import check_finite
from triportrait.train.data.clip_store.store import check_table
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.pictures import PictureSet
from triportrait.train.runs.weights import read_tensor_file

WRONG = {
    "landmarks": (spoilt("landmarks"), "landmarks is not finite (1 of 2448 numbers)"),
    "infinite": (spoilt("landmarks", np.inf), "landmarks is not finite"),
    "pose": (spoilt("world_from_camera"), "world_from_camera is not finite"),
    "intrinsics": (spoilt("intrinsics"), "intrinsics is not finite"),
    "no focal length": (spoilt("intrinsics", 0.0), "a camera of intrinsics has no positive focal length"),
    "no rotation": (spoilt("world_from_camera", 2.0), "the camera of picture 0 is no rotation"),
    "expression": (spoilt("expression"), "expression is not finite"),
    "neck": (spoilt("neck"), "neck is not finite"),
    "far": (spoilt("neck", 1e20), "neck reaches 1e+20, more than 10, which is of no face"),
    "identity": (spoilt("identity.shape"), "identity.shape is not finite"),
    "depth of another type": (lambda a: a | {"depth": a["depth"] * np.float32(1)}, "depth holds float32, expected"),
    "image of another type": (lambda a: a | {"image": a["image"] / np.float32(9)}, "image holds float32, expected"),
    "views": (lambda a: a | {"landmarks": a["landmarks"][:, :2]}, "landmarks has the shape [6, 2, 68, 2], expected"),
    "size": (lambda a: a | {"image": a["image"][..., :32, :]}, "image has the shape [6, 3, 64, 32, 3], expected"),
    "gone": (lambda a: {n: v for n, v in a.items() if n != "neck"}, "expected an array neck, it holds none"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_head_that_cannot_be_trained_on_is_named_with_its_array(case, little_folder, tmp_path, capsys):
    change, said = WRONG[case]
    if case == "identity":
        with np.load(little_folder / HEAD) as file:
            name = next(n for n in file.files if n.startswith("identity.") and file[n].dtype.kind == "f")
        change, said = spoilt(name), f"{name} is not finite"
    data = altered(little_folder, tmp_path / "cast", change)
    MultiviewSet(data, contents=True)
    with pytest.raises(InputError) as refused:
        PictureSet(data, little.model())
    assert str(refused.value).startswith(f"{data / HEAD}: {said}")
    assert str(refused.value).endswith("make the folder again")
    assert cli.main(["prepare", "check", str(data)]) == 2
    assert f"1 of 2 heads cannot be used ({HEAD}: {said}" in capsys.readouterr().err


def test_a_whole_set_is_said_to_be(little_folder, capsys):
    assert cli.main(["prepare", "check", str(little_folder)]) == 0
    told = capsys.readouterr()
    assert told.out == "2 heads, 36 pictures of 64 px: whole\n"
    assert "finite numbers and cameras" in told.err


def test_neck_poses_that_were_kept_and_are_none_are_made_again(little_folder, tmp_path):
    cache = tmp_path / "necks"
    PictureSet(little_folder, little.model(), cache=cache)
    good = cache.read_bytes()
    for change in (lambda t: t * np.nan, lambda t: t[:1]):
        with safe_open(cache, "pt") as file:
            told = file.metadata()
        tensors = load_file(cache)
        save_file(tensors | {"neck_fine": change(tensors["neck_fine"]).contiguous()}, cache, told)
        made = PictureSet(little_folder, little.model(), cache=cache)
        assert bool(made.take(*[torch.tensor([0])] * 2).neck.fine.isfinite().all())
        assert cache.read_bytes() == good


def test_pictures_know_where_they_come_from(little_folder):
    taken = PictureSet(little_folder, little.model(), necks=False).take(torch.tensor([7, 0]), torch.tensor([0, 1]))
    assert taken.origin == (str(little_folder / HEAD), str(little_folder / "head_000000.npz"))
    assert taken.to("cpu").origin == taken.origin


@pytest.mark.parametrize(
    "kind, said",
    [("no video", "does not decode"), ("camera", "is no rotation"), ("column", "its table has no points")],
)
def test_a_store_is_whole_only_where_it_decodes_and_its_tables_can_be_used(kind, said, little_clips, tmp_path, capsys):
    folder = tmp_path / "clips"
    shutil.copytree(little_clips, folder)
    spoil(folder, kind, "clip_000002")
    assert cli.main(["prepare", "check", str(folder)]) == 2
    told = capsys.readouterr()
    assert "1 of 5 clips cannot be used (clip_000002: " in told.err
    assert said in told.err
    assert not told.out


def test_a_table_that_is_not_finite_is_not_whole(little_clips, tmp_path, capsys):
    folder = changed(
        little_clips, tmp_path / "clips", lambda t: t | {"points": t["points"] * np.float32(np.nan)}, "clip_000001"
    )
    assert cli.main(["prepare", "check", str(folder)]) == 2
    assert (
        "1 of 5 clips cannot be used (clip_000001: points is not finite (816 of 816 numbers))"
        in capsys.readouterr().err
    )


def test_a_frame_in_the_middle_is_found_by_deep(little_clips, tmp_path, capsys, monkeypatch):
    """Of what is decoded is told, so that nobody takes a glance for a look."""
    asked: list[list[int]] = []
    original = check.decode
    monkeypatch.setattr(check, "decode", lambda path, rows: asked.append(list(rows)) or original(path, rows))
    assert cli.main(["prepare", "check", str(little_clips)]) == 0
    assert asked == [[0, 3]] * 5
    assert "the first and the last frame of each decoded, where --deep" in capsys.readouterr().err
    asked.clear()
    assert cli.main(["prepare", "check", str(little_clips), "--deep"]) == 0
    assert asked == [[0, 1, 2, 3]] * 5
    assert "every frame decoded" in capsys.readouterr().err


TABLES = {
    "motion": (lambda t: t | {"motion": t["motion"] * np.float32(np.inf)}, "motion is not finite"),
    "type": (lambda t: t | {"motion": t["motion"].astype(np.float64)}, "motion holds float64, expected float32"),
    "words": (lambda t: t | {"motion": t["motion"].astype(str)}, "motion holds <U32, expected float32"),
    "mask": (lambda t: t | {"mask": t["mask"] / np.float32(1)}, "mask holds float32, expected uint8"),
    "shape": (lambda t: t | {"shape": t["shape"] * np.float32(1e30)}, "shape reaches .* which is of no face"),
    "features": (lambda t: t | {"motion": t["motion"][:, :, None]}, r"motion has rows of \(9, 1\), expected N"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_of_tracked_faces_hold_numbers_of_faces(case):
    change, said = TABLES[case]
    check_table(table := tracked.table(0, 4), 4)
    with pytest.raises(ValueError, match=said):
        check_table(change(table), 4)


def test_objects_are_no_numbers():
    with pytest.raises(ValueError, match="x holds complex64, expected numbers"):
        check_finite({"x": np.zeros(2, np.complex64)})


def test_a_frozen_network_s_file_that_is_not_finite_is_named(tmp_path):
    save_file({"conv1.weight": torch.full((2,), torch.nan)}, tmp_path / "arcface.safetensors")
    with pytest.raises(InputError, match=r"arcface\.safetensors: conv1\.weight holds numbers that are not finite"):
        read_tensor_file(tmp_path / "arcface.safetensors")
