"""`--weights demo`: the weights inside the package, for every command that takes weights."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.train import little, trained
from triportrait import cli
from triportrait.core import weights as home
from triportrait.core.checkpoint import demo_weights, load_pair, weights_folder
from triportrait.core.errors import InputError
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.serve.jobs import doctor
from triportrait.serve.weight_loading import load_weights

FILES = ["motion.json", "motion.safetensors", "portrait.json", "portrait.safetensors"]


@pytest.fixture
def packed(tmp_path, monkeypatch) -> Path:
    """Weights where the package's own should be."""
    folder = trained.write(tmp_path / "packed", {"file": "made by a test"})
    for place in ("triportrait.core.checkpoint", "triportrait.serve.jobs.doctor"):
        monkeypatch.setattr(f"{place}.DEMO_FOLDER", folder)
    return folder


def test_the_folder_is_in_the_package():
    assert Path(home.__file__).parent / "demo" == home.DEMO_FOLDER
    assert home.DEMO_FOLDER.parent.name == "weights"


def test_demo_is_the_package_s_own_and_all_else_a_path(packed):
    assert demo_weights() == weights_folder("demo") == packed
    for mine in ("a/b", "/demo", "demo2", "./demo"):
        assert weights_folder(mine) == Path(mine)


def test_each_command_finds_them(packed):
    portrait, encoder = load_weights("demo")
    assert portrait.config == little.model()
    assert isinstance(encoder, SmallMotionEncoder)
    assert load_pair(packed)[0].config == portrait.config
    row = {finding.name: finding for finding in doctor.examine("demo")}["weights"]
    assert row.verdict == "ok"
    numbers = "9 numbers of crops of 32 px by the motion encoder small"
    assert row.detail == f"{packed}: motion, portrait; {numbers}"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name, packed):
    (packed / name).unlink()
    with pytest.raises(InputError, match=rf"^weights demo: .* lacks {re.escape(name)}; install triportrait"):
        demo_weights()


def test_where_there_are_none_every_command_says_so(packed, tmp_path, capsys):
    shutil.rmtree(packed)
    jobs = {
        "demo": ["demo", str(tmp_path / "out.mp4")],
        "evaluate": ["evaluate", "demo", "--out", str(tmp_path / "out")],
        "reenact": ["reenact", "docs/demo/portrait.jpg", "docs/demo/driving.mp4", str(tmp_path / "out.mp4"),
                    "--weights", "demo"],
    }  # fmt: skip
    for job in jobs.values():
        assert cli.main(job) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("triportrait: weights demo: expected the package's own weights, "), lines
    assert list(tmp_path.iterdir()) == []
    row = {finding.name: finding for finding in doctor.examine("demo")}["weights"]
    assert row.verdict == "broken"
    assert row.detail == lines[-1].removeprefix("triportrait: ")


def test_a_photo_is_strange_to_them_and_reenact_says_so(packed, tmp_path, capsys, monkeypatch):
    root = Path(__file__).parents[2]
    job = ["reenact", str(root / "docs/demo/portrait.jpg"), str(root / "docs/demo/driving.mp4")]
    assert cli.main([*job, str(tmp_path / "out.png"), "--weights", "demo", "--frames", "1"]) == 0
    assert "trained on procedural heads alone" in capsys.readouterr().err
    assert (tmp_path / "out.png").is_file()


def test_no_weights_at_all_are_these(monkeypatch):
    monkeypatch.delenv("TRIPORTRAIT_WEIGHTS", raising=False)
    assert load_weights(None)[0].config.image_size == 128
