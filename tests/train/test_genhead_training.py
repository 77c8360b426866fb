"""`triportrait train genhead`: five steps, ranks, resume, export, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train import little_gan
from tests.train.logs import agree
from tests.train.runs import lines_of, refused, unclocked
from triportrait import cli
from triportrait.core.checkpoint import read_card
from triportrait.core.config import genhead_tiny
from triportrait.core.genhead.mapping import MEAN_DECAY
from triportrait.core.genhead.weights import load_genhead, save_genhead
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.seeded_weights import rule_genhead
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train import loop
from triportrait.train.data.parameter_tables import write_tables
from triportrait.train.data.split import split_data
from triportrait.train.data.training_pictures import RealPictures, TrainingPictures
from triportrait.train.engines.build_engines import Engines
from triportrait.train.genhead_presets import GENHEAD_PRESETS
from triportrait.train.run_genhead import GenHeadInputs
from triportrait.train.runs.checkpoints import checkpoints_of, ema_weights, module_weights
from triportrait.train.runs.stopping import Stopper
from triportrait.train.stages.genhead import make_networks

ROOT = Path(__file__).parents[2]
TERMS = {
    "adversary", "face in eyes", "face in mouth", "distortion eyes", "distortion mouth", "light through eyes",
    "light through mouth", "D fake", "D real",
}  # fmt: skip


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("genhead")
    little_gan.write_store(folder / "store")
    return folder


def words(material: Path, out: Path, *more: Any) -> list[str]:
    return ["train", "genhead", *map(str, ["--data", material / "store", "--out", out, *more])]


@pytest.fixture(autouse=True)
def little_preset(monkeypatch):
    monkeypatch.setitem(GENHEAD_PRESETS, "tiny", little_gan.training)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


@pytest.fixture(scope="module")
def plain(material) -> Path:
    """A run of five steps on one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(GENHEAD_PRESETS, "tiny", little_gan.training)
        patch.setattr(loop, "LOG_EVERY", 1)
        assert cli.main(words(material, material / "plain")) == 0
    return material / "plain"


def test_five_steps(plain):
    lines = [line for line in unclocked(plain) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert all(line.keys() >= TERMS for line in lines)
    assert ["density" in line for line in lines] == [True, False, False, False, True], "every fourth step"
    assert ["R1 image" in line for line in lines] == [True, False, False, False, True]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert len({line["adversary"] for line in lines}) == 5
    rates = {name: lines[0][f"lr {name}"] for name in ("generator", "discriminator")}
    assert rates == {"generator": pytest.approx(0.002), "discriminator": pytest.approx(0.002 * 16 / 17)}
    shown = lines_of(plain)[-1]
    assert {"opacity", "opacity eyes", "opacity mouth"} <= shown.keys()
    assert (plain / "samples/genhead_0000020.png").is_file()


def test_what_moves(plain):
    """Every weight but super-resolution's idle noise moves; the mean styles follow, and the EMA begins at the start."""
    folder = checkpoints_of(plain, "genhead")[-1]
    first, _ = make_networks(little_gan.training())
    start, last, ema = (
        dict(first.named_parameters()),
        module_weights(folder, "generator"),
        ema_weights(folder, "generator"),
    )
    still = {n for n, p in start.items() if torch.equal(p.detach().flatten(), last[n].flatten())}
    assert still == {n for n in start if n.startswith("superres.") and n.endswith("noise_strength")}
    assert not any(name.startswith("neck.") for name in last), "the head model is kept once"
    for mapping in ("mapping", "background_mapping"):
        mean = last[f"{mapping}.mean_style"]
        assert 0 < mean.abs().max() < 5 * 5 * (1 - MEAN_DECAY)
        assert torch.equal(mean, ema[f"{mapping}.mean_style"])


def test_two_ranks_lose_what_one_process_loses(plain, material):
    pytest.importorskip("deepspeed")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    done = subprocess.run(
        [sys.executable, *launcher, "tests.train.little_gan", *words(material, material / "two")],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert checkpoints_of(material / "two", "genhead"), done.stderr[-3000:]
    agree(unclocked(material / "two"), unclocked(plain))
    ours, theirs = (checkpoints_of(run, "genhead")[-1] for run in (material / "two", plain))
    mine, other = module_weights(ours, "generator"), module_weights(theirs, "generator")
    for name in ("mapping.mean_style", "background_mapping.mean_style"):
        torch.testing.assert_close(mine[name], other[name], rtol=1e-4, atol=1e-7)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(plain, material, tmp_path, monkeypatch):
    asked = []

    def asked_after_two(self: Stopper) -> bool:
        asked.append(1)
        return len(asked) > 2

    with monkeypatch.context() as patch:
        patch.setattr(Stopper, "asked", property(asked_after_two))
        assert cli.main(words(material, tmp_path / "run")) == 0
    assert checkpoints_of(tmp_path / "run", "genhead")[-1].name == "genhead_000000008"
    assert cli.main(words(material, tmp_path / "run")) == 0
    for network in ("generator", "discriminator"):
        ours, theirs = (
            checkpoints_of(run, "genhead")[-1] / f"{network}.safetensors" for run in (tmp_path / "run", plain)
        )
        assert ours.read_bytes() == theirs.read_bytes(), network
    assert unclocked(tmp_path / "run") == unclocked(plain)


@pytest.mark.parametrize("half", [False, True])
def test_an_export_is_a_generator_with_its_head_model(half, plain, tmp_path):
    more = ["--half"] if half else []
    assert cli.main(["train", "export", str(plain), str(tmp_path / "weights"), *more]) == 0
    card = read_card(tmp_path / "weights", "genhead")
    identity = load_head_model().identity
    assert card["provenance"]["head_model"] == identity.to_dict()
    assert card["provenance"]["config"]["losses"]["face_in_eyes"] == 10.0
    assert card["provenance"]["images seen"] == {"genhead": 20}
    assert card["config"] == json.loads(json.dumps(little_gan.generator().to_dict()))
    generator = load_genhead(tmp_path / "weights")
    assert generator.neck is not None and generator.neck.identity == identity
    ema = ema_weights(checkpoints_of(plain, "genhead")[-1], "generator")
    for name, value in generator.state_dict().items():
        if not name.startswith("neck."):
            torch.testing.assert_close(value.float(), ema[name].reshape(value.shape), atol=2e-3, rtol=2e-3)
    with torch.no_grad():
        view = generator(torch.zeros(1, 8), torch.zeros(1, 12), torch.zeros(1, 10), torch.zeros(1, 6),
                         torch.zeros(1, 6), fixed_camera())  # fmt: skip
    assert view.rendering.image.shape == (1, 3, 32, 32) and view.rendering.image.isfinite().all()


def test_a_run_begins_as_another_ended(plain, material, tmp_path):
    """At a rate of nearly nothing its weights are those that it began with, of both networks; nothing ramps up."""
    assert cli.main(["train", "export", str(plain), str(tmp_path / "weights")]) == 0
    more = ["--weights", tmp_path / "weights", "--discriminator", plain, "--images", 4, "--lr", 1e-9]
    assert cli.main(words(material, tmp_path / "run", *more, "--discriminator-lr", 1e-9)) == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["schedule"]["blur_sigma"], config["schedule"]["swapping_from"]) == (0.0, 0.5)
    assert config["optimizer"]["ema_rampup"] == 0.0
    before, after = (checkpoints_of(run, "genhead")[-1] for run in (plain, tmp_path / "run"))
    began = ema_weights(before, "generator")
    for name, value in module_weights(after, "generator").items():
        if not name.endswith("mean_style"):
            torch.testing.assert_close(value, began[name], atol=1e-6, rtol=0, msg=name)
    began = module_weights(before, "discriminator")
    for name, value in module_weights(after, "discriminator").items():
        torch.testing.assert_close(value, began[name], atol=1e-6, rtol=0, msg=name)


def test_the_people_that_are_held_out_are_not_seen(tmp_path):
    little_gan.write_store(tmp_path / "store")
    split_data(tmp_path / "store", 0.5)
    inputs = GenHeadInputs(tmp_path / "store")
    inputs.open_data(tmp_path, inputs.checked(little_gan.training()), Engines())
    split = json.loads((tmp_path / "store/split.json").read_text())
    seen = [n for n, who in enumerate(split["identities"].values()) if who not in split["held_out"]]
    assert 0 < len(seen) < 6
    assert inputs.pictures.entries.tolist() == seen


def test_the_preset_tiny_makes_a_step(tmp_path, monkeypatch):
    """At its own sizes: pictures of 128 px of a store of 160."""
    monkeypatch.undo()
    little_gan.write_store(tmp_path / "store", side=160)
    assert cli.main(words(tmp_path, tmp_path / "run", "--images", 2, "--batch", 2, "--micro-batches", 1)) == 0
    assert cli.main(["train", "export", str(tmp_path / "run"), str(tmp_path / "weights")]) == 0
    assert load_genhead(tmp_path / "weights").config.preset == "genhead_tiny"


def test_the_schedule_is_shown_without_data(capsys):
    assert cli.main(["train", "genhead", "--preset", "published", "--show-schedule"]) == 0
    said = capsys.readouterr().out
    for part in ("25,000,000 images of 512 px, batch 32", "10 px, 0 after 200,000", "100%, 50% after 1,000,000",
                 "density 0.25 every 4 steps", "every 16 steps", "Adam 0.0025 and 0.002"):  # fmt: skip
        assert part in said


def test_a_picture_that_is_not_finite_ends_a_run_and_is_found_again(material, tmp_path, monkeypatch, capsys):
    real = TrainingPictures.real

    def spoiled(self: TrainingPictures, entries: np.ndarray) -> RealPictures:
        pictures = real(self, entries)
        if len(entries) == 2:  # not the sample's
            pictures.image[0, 0, 3, 4] = torch.nan
        return pictures

    with monkeypatch.context() as patch:
        patch.setattr(TrainingPictures, "real", spoiled)
        said = refused(words(material, tmp_path / "run", "--not-finite", "end"), capsys)
    assert "D real of discriminator is not finite after 4 images" in said
    assert "store picture" in said
    assert f"`triportrait train replay {tmp_path / 'run'}` says where" in said
    assert cli.main(["train", "replay", str(tmp_path / "run")]) == 2
    replayed = capsys.readouterr()
    assert "genhead, discriminator, micro-batch 0 after 0 images, fp32" in replayed.out
    assert "batch.real.image: 1 of " in replayed.out
    assert "D real of discriminator, first discriminator" in replayed.err
    with monkeypatch.context() as patch:
        patch.setattr(TrainingPictures, "real", spoiled)
        assert cli.main(words(material, tmp_path / "on", "--images", 4)) == 0, "as published it goes on"


class TestRefused:
    def test_another_head_model(self, material, tmp_path, capsys):
        store = little_gan.write_store(tmp_path / "store")
        index = json.loads((store.folder / "index.json").read_text())
        index["head_model"] = {"name": "FLAME 2023", "fingerprint": "f" * 16}
        (store.folder / "index.json").write_text(json.dumps(index))
        said = refused(words(tmp_path, tmp_path / "run", "--flame", "open-head"), capsys)
        assert "expected parameters of open head" in said and "FLAME 2023" in said
        said = refused(words(tmp_path, tmp_path / "run"), capsys)
        assert "name by --flame the head model" in said
        assert not (tmp_path / "run").exists()

    def test_what_is_no_store(self, tmp_path, capsys):
        said = refused(words(tmp_path, tmp_path / "run"), capsys)
        assert "expected a picture store" in said
        assert not (tmp_path / "run").exists()

    def test_numbers_and_weights_that_do_not_fit(self, material, plain, tmp_path, capsys):
        said = refused(words(material, tmp_path / "run", "--prefetch", -1), capsys)
        assert said == "prefetch: expected 0 or more, got -1; choose another"
        save_genhead(tmp_path / "other", rule_genhead(genhead_tiny()), {})
        said = refused(words(material, tmp_path / "run", "--weights", tmp_path / "other"), capsys)
        assert "expected a GenHead of the sizes of little, 32 px, got another of genhead_tiny, 128 px" in said
        said = refused(words(material, tmp_path / "run", "--discriminator", tmp_path / "none"), capsys)
        assert "none" in said
        (tmp_path / "store/align_images").mkdir(parents=True)
        (tmp_path / "store/split.json").write_text("{}")
        write_tables([material / "store"], tmp_path / "tables")
        said = refused(words(tmp_path, tmp_path / "run", "--parameters", tmp_path / "tables"), capsys)
        assert "expected 6 pictures" in said
        assert not (tmp_path / "run").exists()

    def test_a_picture_that_is_damaged(self, tmp_path, capsys):
        store = little_gan.write_store(tmp_path / "store", 2)
        tar = store.folder / "shard_000000.tar"
        at, length = store.row(0)["place"][:2].tolist()
        content = bytearray(tar.read_bytes())
        content[at + 8 : at + length] = bytes(length - 8)
        tar.write_bytes(content)
        said = refused(words(tmp_path, tmp_path / "run"), capsys)
        assert f"{store.folder} picture 0" in said

    def test_other_numbers_than_the_run_was_begun_with(self, plain, material, capsys):
        said = refused(words(material, plain, "--no-flips"), capsys)
        assert "this run was begun with flips True" in said
        said = refused(words(material, plain, "--lr", 0.1), capsys)
        assert "optimizer.lr" in said

    def test_a_run_of_another_kind(self, plain, material, capsys):
        said = refused(["train", "stage1", "--data", material / "store", "--out", plain], capsys)
        assert said
        assert refused(["train", "genhead", "--out", plain], capsys).startswith("train: --data is missing")
