"""The published per-picture files: where they lie, what they say, what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.serve.faces import landmarks, parameters
from triportrait.core.errors import InputError
from triportrait.serve.parameters import TrackedFolder, beside, read_landmarks, read_parameters


def test_the_437_numbers_in_their_order(tmp_path):
    values = np.arange(437, dtype=np.float32)
    values[:25] = parameters()[:25]
    np.save(tmp_path / "p.npy", values)
    head = read_parameters(tmp_path / "p.npy")
    starts = {"shape": 25, "expression": 325, "neck": 425, "jaw": 428, "eyes": 431}
    for name, start in starts.items():
        assert getattr(head, name)[0, 0].item() == start
    assert head.eyes.shape == (1, 6)
    assert head.camera.world_from_camera[0, :3, 3].tolist() == pytest.approx([0, 0.01, 4.2])


def turned_camera(angle):
    camera = parameters()[:25].copy()
    camera[:16] = np.array(
        [[np.cos(angle), 0, np.sin(angle), 0], [0, 1, 0, 0], [-np.sin(angle), 0, np.cos(angle), 4], [0, 0, 0, 1]]
    ).ravel()
    return camera


BAD = {
    "short": (parameters()[:400], "expected 437 numbers, got 400"),
    "not finite": (parameters(jaw=np.array([np.nan, 0, 0], np.float32)), "numbers that are not finite"),
    "mirrored": (parameters(camera=turned_camera(0.0) * np.r_[-1, np.ones(24)]), "are no rotation"),
    "pixels": (parameters(camera=np.r_[turned_camera(0.1)[:16], 2436, 0, 256, 0, 2436, 256, 0, 0, 1]), "focal length"),
    "text": (np.array(["a"] * 437), "expected an array of numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_parameters_are_refused(tmp_path, case):
    values, message = BAD[case]
    np.save(tmp_path / "p.npy", values)
    with pytest.raises(InputError, match=message):
        read_parameters(tmp_path / "p.npy")


def test_pickled_and_truncated_arrays_are_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "t.npy").write_bytes(b"\x93NUMPY\x01")
    (tmp_path / "e.npy").write_bytes(b"")
    for name in ("o", "t", "e"):
        with pytest.raises(InputError, match=f"{name}.npy: not a whole .npy file"):
            read_parameters(tmp_path / f"{name}.npy")
    with pytest.raises(InputError, match="no such file"):
        read_landmarks(tmp_path / "missing.npy")


@pytest.mark.parametrize("width", [2, 3])
def test_landmarks(tmp_path, width):
    np.save(tmp_path / "l.npy", np.pad(landmarks(), ((0, 0), (0, width - 2))))
    assert read_landmarks(tmp_path / "l.npy").shape == (1, 68, width)
    np.save(tmp_path / "l.npy", landmarks()[:51])
    with pytest.raises(InputError, match=r"expected landmarks \[68, 2\] or \[68, 3\], got \[51, 2\]"):
        read_landmarks(tmp_path / "l.npy")


def test_files_are_found_beside_an_aligned_picture(clip_folder):
    folder = beside(clip_folder / "align_images" / "00001.png")
    assert folder is not None and folder.names == ["00000", "00001", "00002"]
    tracking = folder.at("00001")
    assert tracking.parameters is not None and tracking.parameters.neck[0, 1].item() == pytest.approx(0.25)
    assert tracking.landmarks is not None and torch.equal(tracking.landmarks[0, 36], torch.tensor([204.0, 226.0]))
    assert beside(clip_folder / "elsewhere" / "x.png") is None


def test_the_optimised_parameters_win_over_the_quick_ones(clip_folder):
    quick = clip_folder / "bfm2flame_params_simplified"
    quick.mkdir()
    np.save(quick / "00001.npy", parameters(neck=(9.0, 0, 0)))
    assert TrackedFolder(clip_folder).at("00001").parameters.neck[0, 0].item() == 0
    for file in (clip_folder / "flame_optim_params").iterdir():
        file.unlink()
    (clip_folder / "flame_optim_params").rmdir()
    assert TrackedFolder(clip_folder).at("00001").parameters.neck[0, 0].item() == 9


def test_a_picture_without_its_file_is_said(clip_folder):
    (clip_folder / "flame_optim_params" / "00002.npy").unlink()
    with pytest.raises(InputError, match=r"00002.npy: no such file; every picture of a tracked folder needs one"):
        TrackedFolder(clip_folder).at("00002")


def test_a_folder_without_tracking_is_said(tmp_path):
    with pytest.raises(InputError, match="found none of them"):
        TrackedFolder(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        TrackedFolder(tmp_path / "x")
