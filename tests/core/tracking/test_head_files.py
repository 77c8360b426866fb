"""Head models from every kind of file: what is read, what is refused, which version it is."""

from __future__ import annotations

import io
import re
import struct
import zipfile

import numpy as np
import pytest
import torch

from tests.core import pickles
from tests.core.tracking import head_files as files
from tests.core.tracking.head_files import SPLIT
from triportrait.core.errors import InputError
from triportrait.core.published.array_files import read_arrays
from triportrait.core.published.flame_file import version_of
from triportrait.core.tracking.head_model import (
    check_same_model,
    load_head_model,
)

LAYOUTS = {
    "2017, pickle of Python 2, chumpy, csc": lambda c: {
        **c,
        "shapedirs": files.wrapped(c["shapedirs"]),
        "J_regressor": files.sparse(c["J_regressor"]),
        "kintree_table": (c["kintree_table"] % 2**32).astype(np.uint32),
        "bs_style": "lbs",
    },
    "2020, float32, csr": lambda c: {
        key: value.astype(np.float32) if value.dtype == np.float64 else value for key, value in c.items()
    } | {"J_regressor": files.sparse(c["J_regressor"], "csr")},
    "2023, coo, flat pose directions": lambda c: {
        **c,
        "J_regressor": files.sparse(c["J_regressor"], "coo"),
        "posedirs": c["posedirs"].reshape(-1, 36).T,
    },
    "pose directions [15069, 36], column-major": lambda c: {
        **c,
        "posedirs": np.asfortranarray(c["posedirs"].reshape(-1, 36)),
        "v_template": np.asfortranarray(c["v_template"]),
    },
    "expressions by themselves": lambda c: {
        **c, "shapedirs": c["shapedirs"][..., :30], "exprdirs": c["shapedirs"][..., 30:]
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kind", ["pickle", "npz"])
def test_every_layout_is_the_same_model(content, first, name, kind, tmp_path):
    changed = LAYOUTS[name](content)
    path = tmp_path / ("x.pkl" if kind == "pickle" else "x.npz")
    files.as_pickle(path, changed, "2017" in name) if kind == "pickle" else files.as_npz(path, changed)
    assets = tmp_path / "landmark_embedding.npy"
    assets.write_bytes(files.object_array(files.landmark_dictionary()))
    model = load_head_model(path, "2020", directions=SPLIT, assets=[assets])
    assert (model.num_shape, model.num_expression, model.num_eyelids) == (30, 10, 0)
    assert model.identity.is_same(first.identity)
    for table, value in first.flame.state_dict().items():
        torch.testing.assert_close(model.flame[table], value, atol=1e-6, rtol=1e-5)


def test_units_are_scaled_once_and_the_neck_is_the_origin(content, first):
    betas, still = torch.zeros(1, 40), torch.zeros(1, 3)
    _, joints = first.flame(betas, still, torch.tensor([[0.3, 0.0, 0.0]]), torch.zeros(1, 6))
    torch.testing.assert_close(joints[0, 1], torch.zeros(3), atol=1e-6, rtol=0)
    size = np.ptp(content["v_template"], axis=0)
    torch.testing.assert_close(
        first.flame["template"].max(0).values - first.flame["template"].min(0).values,
        torch.from_numpy(3 * size).float(),
    )


def test_splits_are_stated_or_refused(tmp_path):
    path = files.as_npz(tmp_path / "flame2020.npz", files.entries(100, 50))
    with pytest.raises(
        InputError, match=r"shapedirs: expected 300 .* got 150; say which they are by --flame-directions"
    ):
        load_head_model(path)
    with pytest.raises(InputError, match=r"flame-directions: expected numbers that the file has"):
        load_head_model(path, directions=(100, 60))
    model = load_head_model(path, directions=(100, 50))
    assert (model.num_shape, model.num_expression) == (100, 50)
    padded = model.padded_tables()["shape_directions"]
    torch.testing.assert_close(padded[..., 300:350], model.flame["shape_directions"][..., 100:])
    assert not padded[..., 100:300].any()
    whole = load_head_model(files.as_npz(tmp_path / "whole2020.npz", files.entries(300, 100)))
    check_same_model(model.identity, whole.identity, "x")  # the directions it has are those of the whole file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"v_template": np.zeros((10475, 3))}, "expected FLAME's 5,023 vertices, got 10,475, which are SMPL-X's"),
        ({"v_template": np.zeros((778, 3))}, "got 778, which are MANO's"),
        ({"v_template": np.zeros((5143, 3))}, "got 5,143; give a file of FLAME"),
        ({"kintree_table": np.zeros((2, 4), int)}, "kintree_table: expected"),
        ({"posedirs": np.zeros((5023, 3, 27))}, r"posedirs: expected \[5023, 3, 36\] or \[36, 15069\]"),
        ({"shapedirs": np.zeros((5023, 2, 40))}, r"shapedirs: expected \[5023, 3, K\]"),
        ({"f": np.full((9976, 3), 5023)}, "f: expected vertex numbers below 5023"),
        ({"J_regressor": {"a": 1}}, "J_regressor: expected an array, got none"),
        ({"weights": np.full((5023, 5), np.inf)}, "weights: expected finite numbers"),
    ],
)
def test_files_of_something_else_get_one_sentence(content, changes, words, tmp_path):
    path = files.as_npz(tmp_path / "flame2020.npz", {**content, **changes})
    with pytest.raises(InputError, match=words):
        load_head_model(path, directions=SPLIT)


def npy(descr: bytes, shape: bytes, data: bytes, pad: int = 0) -> bytes:
    header = b"{'descr': " + descr + b", 'fortran_order': False, 'shape': " + shape + b", }" + b" " * pad + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + data


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v_template.npy", npy(b"'<f8'", b"(20000000,)", bytes(160_000_000)))
    return file.getvalue()


def twice() -> bytes:
    file = io.BytesIO()
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "w") as archive:
        archive.writestr("v_template.npy", npy(b"'<f8'", b"(1,)", bytes(8)))
        archive.writestr("v_template.npy", npy(b"'<f8'", b"(1,)", bytes(8)))
    return file.getvalue()


HOSTILE = {
    "an object that runs": (
        lambda: npy(b"'|O'", b"()", pickles.finish(pickles.call("os", "system", pickles.text("touch marker")))),
        "names the global os.system, which no weights file needs",
    ),
    "a header of megabytes": (lambda: npy(b"'<f8'", b"(1,)", bytes(8), 5_000_000), "has an array with a header of 5,0"),
    "a header that is code": (lambda: npy(b"__import__('os')", b"(1,)", bytes(8)), "has a header that cannot be read"),
    "a shape beyond the file": (lambda: npy(b"'<f8'", b"(10**9,)", bytes(8)), "has a header that cannot be read"),
    "more numbers than bytes": (
        lambda: npy(b"'<f8'", b"(1000000000,)", bytes(8)),
        "to have 1,000,000,000 numbers, got 8",
    ),
    "a zip bomb": (bomb, "asks for more than 4 times its own size in memory"),
    "two of one name": (twice, "two of one name"),
    "a torn zip": (lambda: bomb()[:-30], "expected a weights file, got"),
    "a dictionary nowhere": (lambda: npy(b"'|O'", b"()", b"\x80\x04K\x01."), "is to be an array of objects, got a int"),
    **{
        f"numbers {descr} that NumPy does not know": (
            lambda descr=descr: npy(b"'%s'" % descr.encode(), b"(1,)", bytes(8)),
            f"expected a weights file, .* has numbers of a kind that NumPy does not know, {re.escape(descr)}",
        )
        for descr in ("<f3", "i77", "<<f4", "|c3", "u0", ">bool")
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_get_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, words = HOSTILE[name]
    path = tmp_path / "flame2020.npz"
    path.write_bytes(make())
    with pytest.raises(InputError, match=words) as refusal:
        load_head_model(path)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "marker").exists()


def test_an_array_of_texts_is_left_alone(tmp_path):
    path = files.as_npz(tmp_path / "x.npz", {"bs_style": "lbs", "a": np.arange(3)})
    assert read_arrays(path)["bs_style"] is None
    np.testing.assert_array_equal(read_arrays(path)["a"], np.arange(3))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("FLAME2020/generic_model.pkl", "2020"),
        ("FLAME2017/female_model.pkl", "2017"),
        ("flame2023.pkl", "2023"),
        ("FLAME2020/flame2023_no_jaw.npz", "2023-no-jaw"),
        ("flame2023_Open.pkl", "2023-open"),
    ],
)
def test_the_version_is_what_the_name_tells(name, version, tmp_path):
    assert version_of(tmp_path / name) == version
    assert version_of(tmp_path / name, "2019") == "2019", "what the user says counts more"


@pytest.mark.parametrize("name", ["generic_model.pkl", "flame_2020_or_2023.pkl", "model12020.pkl"])
def test_no_version_is_guessed(name, tmp_path):
    with pytest.raises(InputError, match=r"expected a name that tells FLAME's version, .* say --flame-version 2017 or"):
        version_of(tmp_path / "models" / name)
    with pytest.raises(InputError, match=r"flame-version: expected one of 2017, 2019, 2020, .* got 2021"):
        version_of(tmp_path / name, "2021")
