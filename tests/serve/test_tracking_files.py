"""The published per-picture files: where they lie, what they say, what is wrong with them."""

from __future__ import annotations

import io
import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.serve.faces import landmarks, parameters
from tests.serve.making import as_a_stranger
from triportrait.core.checkpoint import load_motion_encoder, load_portrait
from triportrait.core.errors import InputError
from triportrait.core.tracking.head_model import PUBLISHED_MODEL, ModelIdentity, load_head_model
from triportrait.serve.network_on_device import NetworkOnDevice
from triportrait.serve.tracking_files import TrackedFolder, beside, read_landmarks, read_parameters


def test_the_437_numbers_in_their_order(tmp_path):
    values = np.arange(437, dtype=np.float32) / 100
    values[:25] = parameters()[:25]
    np.save(tmp_path / "p.npy", values)
    head = read_parameters(tmp_path / "p.npy")
    starts = {"shape": 25, "expression": 325, "neck": 425, "jaw": 428, "eyes": 431}
    for name, start in starts.items():
        assert getattr(head, name)[0, 0].item() == pytest.approx(start / 100)
    assert head.eyes.shape == (1, 6)
    assert head.camera.world_from_camera[0, :3, 3].tolist() == pytest.approx([0, 0.01, 4.2])


def camera_with(**changes):
    """The published camera with some numbers replaced: row_column of the pose (p03) or of the intrinsics (k11)."""
    camera = parameters()[:25].copy()
    for place, value in changes.items():
        row, column = int(place[1]), int(place[2])
        camera[4 * row + column if place[0] == "p" else 16 + 3 * row + column] = value
    return camera


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
    "the last row": (parameters(camera=camera_with(p30=0.5)), "last row to be 0 0 0 1, got 0.5 0 0 1"),
    "no last one": (parameters(camera=camera_with(p33=0)), "last row to be 0 0 0 1, got 0 0 0 0"),
    "far away": (parameters(camera=camera_with(p03=1e6)), "expected a camera within 100 units"),
    "one focal length": (parameters(camera=camera_with(k11=0)), "focal length in picture widths .* got 0"),
    "negative focal length": (parameters(camera=camera_with(k11=-4.7)), "focal length"),
    "cx": (parameters(camera=camera_with(k02=256)), "centre in picture widths .* got 256 0.5"),
    "cy": (parameters(camera=camera_with(k12=-256)), "centre in picture widths .* got 0.5 -256"),
    "the third row": (parameters(camera=camera_with(k20=1)), "expected intrinsics f 0 cx, 0 f cy, 0 0 1"),
    "scaled": (parameters(camera=camera_with(k22=0.5)), "expected intrinsics"),
    "turned": (parameters(camera=camera_with(k10=2)), "expected intrinsics"),
    "skewed": (parameters(camera=camera_with(k01=9)), "expected intrinsics"),
    "neck": (parameters(neck=(0, 7, 0)), "expected neck numbers within ±6.283, got 7"),
    "jaw": (parameters(jaw=np.array([-7, 0, 0])), "jaw numbers"),
    "eyes": (parameters(eyes=np.full(6, 7.0)), "eyes numbers"),
    "shape": (parameters(shape=np.full(300, -101.0)), "expected shape numbers within ±100, got 101"),
    "expression": (parameters(expression=np.full(100, 1e30)), "expected expression numbers within ±100, got 1e\\+30"),
    "finite only in double": (parameters(jaw=np.full(3, 1e300)), "numbers that are not finite"),
    "a whole clip": (np.zeros((300, 437)), "expected the numbers of one picture, got 131,100"),
    "text": (np.array(["a"] * 437), "expected an array of numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_parameters_are_refused(tmp_path, case):
    values, message = BAD[case]
    np.save(tmp_path / "p.npy", values)
    with pytest.raises(InputError, match=message):
        read_parameters(tmp_path / "p.npy")


def damaged_files():
    """Name -> bytes of what calls itself .npy."""

    def saved(array):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()

    whole = saved(parameters())
    huge = whole.replace(b"(437,)", b"(437000000000000,)").replace(b" " * 12 + b"\n", b"\n")
    assert len(huge) == len(whole)
    return {
        "pickled": saved(np.array([{"a": 1}], dtype=object)),
        "cut header": b"\x93NUMPY\x01",
        "cut": whole[:-4],
        "empty": b"",
        "zip": b"PK\x03\x04" + bytes(100),
        "pickle": b"\x80\x04K\x01.",
        "huge": huge,
        "no header": whole.replace(b"'descr'", b"'des'r'"),
        "unknown type": whole.replace(b"'<f4'", b"'<q9'"),
    }


@pytest.mark.parametrize("case", damaged_files())
@pytest.mark.parametrize("read", [read_parameters, read_landmarks])
def test_what_is_no_whole_array_is_refused_in_our_words(tmp_path, case, read):
    path = tmp_path / "x.npy"
    path.write_bytes(damaged_files()[case])
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: not a whole .npy file of numbers; make it again"


def test_nothing_is_allocated_for_what_a_header_promises(tmp_path):
    np.save(tmp_path / "x.npy", parameters())
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole.replace(b"(437,), }" + b" " * 6, b"(100000437,), }"))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="not a whole"):
            read_parameters(tmp_path / "x.npy")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_missing_and_forbidden_files_are_called_that(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_landmarks(tmp_path / "missing.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(InputError, match=r"folder.npy: it cannot be read \(is a directory\)"):
        read_landmarks(tmp_path / "folder.npy")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "secret.npy"
        os.chmod(folder, 0o755)
        np.save(path, landmarks())
        path.chmod(0)
        with as_a_stranger(), pytest.raises(InputError, match=r"secret.npy: it cannot be read \(permission denied\)"):
            read_landmarks(path)


@pytest.mark.parametrize("width", [2, 3])
def test_landmarks(tmp_path, width):
    np.save(tmp_path / "l.npy", np.pad(landmarks(), ((0, 0), (0, width - 2))))
    assert read_landmarks(tmp_path / "l.npy").shape == (1, 68, width)
    np.save(tmp_path / "l.npy", landmarks()[:51])
    with pytest.raises(InputError, match=r"expected landmarks \[68, 2\] or \[68, 3\], got \[51, 2\]"):
        read_landmarks(tmp_path / "l.npy")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (landmarks() + 4900, "landmarks within ±5000 px, got 5243"),
        (np.full((68, 2), 256.0), "lie in one point"),
        (np.zeros((68, 3)), "lie in one point"),
        (np.where(np.arange(68)[:, None] == 40, np.inf, landmarks()), "not finite"),
    ],
)
def test_landmarks_of_no_face_are_refused(tmp_path, points, message):
    np.save(tmp_path / "l.npy", points)
    with pytest.raises(InputError, match=message):
        read_landmarks(tmp_path / "l.npy")


def test_names_count_like_people_and_hidden_files_are_none(tmp_path):
    for folder in ("flame_optim_params", "3dldmks_align"):
        (tmp_path / folder).mkdir()
        for i in range(12):
            np.save(tmp_path / folder / f"{i}.npy", parameters() if folder[0] == "f" else landmarks())
        (tmp_path / folder / "._0.npy").write_bytes(b"of another system")
    tracked = TrackedFolder(tmp_path)
    assert tracked.names == [str(i) for i in range(12)]
    tracked.check(tracked.names)
    (tmp_path / "3dldmks_align" / "7.npy").unlink()
    with pytest.raises(InputError, match=r"3dldmks_align/7.npy: no such file"):
        tracked.check(tracked.names)
    tracked.check(tracked.names[:7])


def test_files_are_found_beside_an_aligned_picture(clip_folder):
    folder = beside(clip_folder / "align_images" / "00001.png")
    assert folder is not None
    assert folder.names == ["00000", "00001", "00002"]
    tracking = folder.at("00001")
    assert tracking.parameters is not None
    assert tracking.parameters.neck[0, 1].item() == pytest.approx(0.25)
    assert tracking.landmarks is not None
    assert torch.equal(tracking.landmarks[0, 36], torch.tensor([204.0, 226.0]))
    assert beside(clip_folder / "elsewhere" / "x.png") is None


def test_the_optimised_parameters_win_over_the_quick_ones(clip_folder):
    quick = clip_folder / "bfm2flame_params_simplified"
    quick.mkdir()
    np.save(quick / "00001.npy", parameters(neck=(2.0, 0, 0)))
    assert TrackedFolder(clip_folder).at("00001").parameters.neck[0, 0].item() == 0
    for file in (clip_folder / "flame_optim_params").iterdir():
        file.unlink()
    (clip_folder / "flame_optim_params").rmdir()
    assert TrackedFolder(clip_folder).at("00001").parameters.neck[0, 0].item() == 2


def test_a_picture_without_its_file_is_said(clip_folder):
    (clip_folder / "flame_optim_params" / "00002.npy").unlink()
    with pytest.raises(InputError, match=r"00002.npy: no such file; every picture of a tracked folder needs one"):
        TrackedFolder(clip_folder).at("00002")


def test_a_folder_without_tracking_is_said(tmp_path):
    with pytest.raises(InputError, match="found none of them"):
        TrackedFolder(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        TrackedFolder(tmp_path / "x")


def test_a_folder_says_whose_parameters_it_holds(clip_folder):
    assert TrackedFolder(clip_folder).at("00001").parameters.head_model == PUBLISHED_MODEL, "published folders say none"
    (clip_folder / "head_model.json").write_text('{"name": "open head", "fingerprint": "0123456789abcdef"}')
    expected = ModelIdentity("open head", "0123456789abcdef")
    assert TrackedFolder(clip_folder).at("00001").parameters.head_model == expected
    for damaged in ("{", '{"name": "open head"}', "[1]"):
        (clip_folder / "head_model.json").write_text(damaged)
        with pytest.raises(InputError, match=r"head_model.json: expected the head model"):
            TrackedFolder(clip_folder)


def test_parameters_of_another_model_than_the_weights_are_refused(clip_folder, run, tmp_path):
    pictures, out = clip_folder / "align_images", tmp_path / "out.mp4"
    (clip_folder / "head_model.json").write_text('{"name": "FLAME 2023", "fingerprint": "0123456789abcdef"}')
    code, error = run(pictures / "00000.png", pictures, out, "--driving-params", clip_folder)
    assert code == 2
    assert "expected parameters of FLAME 2020" in error
    assert "got those of FLAME 2023 (0123456789abcdef)" in error
    assert not out.exists()


def test_the_open_head_rests_upright_and_flame_does_not(tiny_weights):
    reenactor = NetworkOnDevice(load_portrait(tiny_weights), load_motion_encoder(tiny_weights))
    assert reenactor.has_flame_neck
    reenactor.check_head_model(None, "x")  # the turn of a head alone is of no model
    open_head = load_head_model()
    reenactor.portrait.neck = open_head.neck_field()
    assert not reenactor.has_flame_neck
    reenactor.check_head_model(open_head.identity, "x")
    with pytest.raises(InputError, match="x: expected parameters of open head"):
        reenactor.check_head_model(PUBLISHED_MODEL, "x")
