"""The tables of stage 1, from picture stores, clip stores and published per-frame files, and what is never mixed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.train import written_pictures
from tests.train.written_clips import labels, store, tracked
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.core.motion.head_identity import PUBLISHED_MODEL, ModelIdentity
from triportrait.train.data import folders
from triportrait.train.data.parameter_tables import read_tables, write_tables

MODEL = written_pictures.MODEL
OTHER = {"name": "FLAME 2020", "fingerprint": "f" * 16}


def per_frame(folder: Path, seed: int, count: int, head_model: dict[str, str] | None = None) -> Path:
    inside = folder / "flame_optim_params"
    inside.mkdir(parents=True)
    for k, row in enumerate(labels(seed, count)):
        np.save(inside / f"{k + 1}.npy", row)
    if head_model is not None:
        (folder / "head_model.json").write_text(json.dumps(head_model))
    return folder


def halves(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows[:, :325], rows[:, 325:]


def test_stills_and_clips_become_the_published_tables(tmp_path, capsys):
    written_pictures.write(tmp_path / "pictures")
    per_frame(tmp_path / "stills", 5, 12, MODEL)
    tracked(tmp_path / "clips")
    out = tmp_path / "tables"
    places = [str(tmp_path / name) for name in ("pictures", "clips", "stills")]
    assert cli.main(["prepare", "parameters", *places, str(out)]) == 2
    assert "got 6 and 7 frames; say --frames 6" in capsys.readouterr().err
    assert not out.exists()
    assert cli.main(["prepare", "parameters", *places, str(out), "--frames", "7", "--mapper"]) == 0
    stills = np.concatenate([*(labels(number, 1) for number in (0, 2, 3, 8)), labels(5, 12)])
    of_clips = np.stack([labels(1, 7), labels(2, 8)[:7]])
    plain = {path.name: np.load(path) for path in out.glob("*.npy")}
    assert {name: (table.shape, table.dtype) for name, table in plain.items()} == {
        "ffhq_all_shape_n_c_params.npy": ((16, 325), np.float32),
        "ffhq_all_motion_params.npy": ((16, 112), np.float32),
        "ffhq_all_shape_n_motion_params.npy": ((16, 403), np.float32),
        "vfhq_all_shape_n_c_params.npy": ((14, 325), np.float32),
        "vfhq_all_motion_params.npy": ((2, 7, 112), np.float32),
    }
    found = read_tables(out)
    assert found.head_model.to_dict() == MODEL
    for table, expected in zip((found.camera_shape, found.motion), halves(stills), strict=True):
        assert np.array_equal(table, expected)
    mapped = np.concatenate([stills[:, 25:425], stills[:, 428:431]], 1)
    assert np.array_equal(plain["ffhq_all_shape_n_motion_params.npy"], mapped), "shape, expression, jaw"
    found = read_tables(out, "clips")
    assert np.array_equal(found.camera_shape, of_clips.reshape(14, 437)[:, :325])
    assert np.array_equal(found.motion, of_clips[..., 325:])
    index = json.loads((out / "index.json").read_text())
    assert (index["stills"], index["clips"], index["frames"], index["head_model"]) == (16, 2, 7, MODEL)


def test_a_folder_of_published_folders_has_clips_in_the_order_of_people(tmp_path):
    for k in (10, 2):
        per_frame(tmp_path / "set" / f"clip{k}", k, 11)
    write_tables([tmp_path / "set"], tmp_path / "tables", head_model=ModelIdentity(**OTHER))
    found = read_tables(tmp_path / "tables", "clips")
    assert found.head_model.to_dict() == OTHER
    assert np.array_equal(found.motion, np.stack([labels(2, 11), labels(10, 11)])[..., 325:]), "2 before 10, twice"


def test_head_models_are_never_mixed(tmp_path, capsys):
    written_pictures.write(tmp_path / "pictures")
    per_frame(tmp_path / "other", 1, 3, OTHER)
    per_frame(tmp_path / "silent", 2, 3)
    out = str(tmp_path / "tables")
    assert cli.main(["prepare", "parameters", str(tmp_path / "pictures"), str(tmp_path / "other"), out]) == 2
    assert "expected parameters of open head (0123456789abcdef), the head model of" in capsys.readouterr().err
    assert cli.main(["prepare", "parameters", str(tmp_path / "pictures"), str(tmp_path / "silent"), out]) == 2
    assert "got those of FLAME 2020 (no fingerprint)" in capsys.readouterr().err
    per_frame(tmp_path / "set" / "a", 1, 3, OTHER)
    per_frame(tmp_path / "set" / "b", 1, 3, MODEL)
    with pytest.raises(InputError, match="got those of open head"):
        write_tables([tmp_path / "set"], tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


BAD = {
    "nan": lambda row: np.where(np.arange(437) == 30, np.float32(np.nan), row),
    "rotation": lambda row: row * np.float32(2),
    "short": lambda row: row[:-1],
    "objects": lambda row: np.array([{"id": 1}], object),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_file_is_named_and_nothing_is_left(case, tmp_path, capsys):
    folder = per_frame(tmp_path / "stills", 0, 3)
    path = folder / "flame_optim_params" / "2.npy"
    np.save(path, BAD[case](labels(0, 3)[1]), allow_pickle=True)
    assert cli.main(["prepare", "parameters", str(folder), str(tmp_path / "tables")]) == 2
    assert f"{path}: expected 437 numbers of a face" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["stills"]


def test_what_holds_no_parameters_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    per_frame(tmp_path / "none" / "a", 0, 0)
    store(tmp_path / "heads")
    for name, said in (
        ("empty", "expected a picture store, a clip store, or flame_optim_params/ in it"),
        ("missing", "nothing is there"),
        ("none", "expected .npy files of 437 numbers, got none"),
        ("heads", "their tables have no expression"),
    ):
        assert cli.main(["prepare", "parameters", str(tmp_path / name), str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["prepare", "parameters", str(tmp_path / "empty")]) == 2
    assert "expected a store or more and the folder to make" in capsys.readouterr().err
    tracked(tmp_path / "clips")
    assert cli.main(["prepare", "parameters", str(tmp_path / "clips"), str(tmp_path / "out"), "--frames", "99"]) == 2
    assert "no clip has 99 frames" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    per_frame(tmp_path / "stills", 0, 3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "put_folder", full)
    with pytest.raises(InputError, match="no space left on device"):
        write_tables([tmp_path / "stills"], tmp_path / "tables")
    assert [path.name for path in tmp_path.iterdir()] == ["stills"]


def test_tables_are_checked_where_they_are_read(tmp_path):
    rows = labels(0, 6)
    np.save(tmp_path / "ffhq_all_shape_n_c_params.npy", rows[:, :325].reshape(2, 3, 325))
    np.save(tmp_path / "ffhq_all_motion_params.npy", rows[:, 325:].reshape(2, 3, 112))
    found = read_tables(tmp_path)
    assert found.head_model == PUBLISHED_MODEL, "published tables do not say it"
    assert (found.camera_shape.shape, found.motion.shape) == ((6, 325), (6, 112))
    assert isinstance(found.motion.base if found.motion.base is not None else found.motion, np.memmap)
    cameras, motions = "ffhq_all_shape_n_c_params.npy", "ffhq_all_motion_params.npy"
    for name, table, said in (
        (motions, rows[:4, 325:], "got 4 and 6"),
        (motions, rows[:, 325:] * 1e9, "which is of no face"),
        (motions, rows[:, 326:], "rows of 112 numbers"),
        (cameras, 2 * rows[:, :325], "no rotation"),
        (cameras, rows[:, :324], "rows of 325 numbers"),
    ):
        whole = (tmp_path / name).read_bytes()
        np.save(tmp_path / name, table)
        with pytest.raises(InputError, match=f"{name}: .*{said}" if "got" not in said else said):
            read_tables(tmp_path)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / motions).unlink()
    with pytest.raises(InputError, match=f"{motions}: .*it is missing"):
        read_tables(tmp_path)
    with pytest.raises(InputError, match="vfhq_all_shape_n_c_params"):
        read_tables(tmp_path, "clips")
