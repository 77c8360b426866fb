"""`track --start` and `--method`: the reconstructor's start reaches the fit, and the quick estimate is written."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from tests.serve.tracked import FRAMES, write_pictures
from triportrait.cli import main
from triportrait.core.checkpoint import save_weights
from triportrait.core.metrics.recon3d import FaceReconstructor
from triportrait.core.motion.flame import Flame
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.tracking.head_model import load_head_model
from triportrait.core.tracking.reconstructor_start import FlameMapper
from triportrait.serve.jobs import track as job


@pytest.fixture
def weights(tmp_path):
    """Both networks with drawn weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {"recon3d": FaceReconstructor(), "flame_mapper": FlameMapper()}
    for name, network in networks.items():
        tensors = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
        save_weights(tmp_path / "start", name, tensors, None, {})
    return tmp_path / "start"


@pytest.fixture
def flame(monkeypatch):
    """A model of FLAME 2020's name and sizes is loaded: the open head, padded."""
    model = load_head_model()
    padded = dataclasses.replace(
        model, flame=Flame(model.padded_tables()), num_shape=300, identity=ModelIdentity("FLAME 2020", "")
    )
    monkeypatch.setattr(job, "load_head_model", lambda name: padded)


@pytest.fixture
def track(capsys, tmp_path):
    pictures = write_pictures(tmp_path / "head")

    def call(name, *options):
        arguments = ["track", pictures, tmp_path / name, "--params", pictures, "--no-overlay", "--size", 64]
        code = main([*map(str, arguments), "--device", "cpu", *map(str, options)])
        return code, capsys.readouterr().err

    return call


def records(folder, kind="flame_optim_params"):
    return np.stack([np.load(path) for path in sorted((folder / kind).iterdir())])


def test_a_start_reaches_the_fit_and_the_quick_estimate_is_written(track, weights, flame, tmp_path):
    code, said = track("out", "--frames", 3)
    assert code == 0, said
    assert "the fit begins at the mean face" in said
    plain = records(tmp_path / "out")
    assert len(plain) == 3 and not (tmp_path / "out" / "bfm2flame_params_simplified").exists()
    code, said = track("out", "--frames", 2, "--start", weights, "--overwrite")
    assert code == 0, said
    assert f"the fit begins at the reconstructor's in {weights}" in said
    quick, begun = records(tmp_path / "out", "bfm2flame_params_simplified"), records(tmp_path / "out")
    assert quick.shape == (2, 437) and np.isfinite(quick).all()
    assert len(begun) == 2 and not np.allclose(plain[:2, 25:425], begun[:, 25:425], atol=1e-3)
    assert json.loads((tmp_path / "out" / "track.json").read_text())["start"] == "recon3d"


def test_another_head_model_takes_no_start(track, weights, tmp_path):
    code, said = track("out", "--start", weights)
    assert code == 2
    assert "start: expected FLAME 2020" in said and "got open head" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_without_the_networks_is_refused(track, flame, tmp_path):
    code, said = track("out", "--start", tmp_path / "nowhere")
    assert code == 2
    assert "recon3d" in said and "Traceback" not in said


def test_the_method_is_handed_on(track, monkeypatch, tmp_path):
    handed = []
    fit = job.fit_film
    monkeypatch.setattr(
        job, "fit_film", lambda *a, **k: handed.append(k["method"]) or fit(*a, **{**k, "method": "solve"})
    )
    assert track("out", "--method", "published")[0] == 0
    assert handed == ["published"]
    assert json.loads((tmp_path / "out" / "track.json").read_text())["tracked"] == FRAMES
    code, said = track("other", "--method", "published", "--one-person")
    assert code == 2 and "--one-person: expected with --method solve" in said
