"""`triportrait train stage1|stage2|export`: one stage on one process, from data to weights that reenact."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.train import little
from tests.train.runs import lines_of, refused, stage_words, unclocked
from triportrait import cli
from triportrait.core.checkpoint import load_motion_encoder, load_portrait
from triportrait.core.errors import InputError
from triportrait.serve.reenactor import Reenactor
from triportrait.train import loop
from triportrait.train.data.pictures import PictureSet
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.recompute import recompute
from triportrait.train.evaluation.probe import probe
from triportrait.train.jobs.train import Stage1
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.perceptual import Gradients
from triportrait.train.presets import STAGE_PRESETS
from triportrait.train.runs.checkpoints import FOLDER, checkpoints_of, module_weights
from triportrait.train.runs.claim import claim
from triportrait.train.runs.draw_grids import GAP_PX, LABEL_PX
from triportrait.train.stages import adversarial
from triportrait.train.stages import reenact as stage2

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def little_preset():
    """`tiny` is the smallest training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGE_PRESETS, "tiny", little.adversarial)
        yield


def words(material: Path, stage: str, out: Path, *more: Any) -> list[str]:
    return stage_words(material, stage, out, "--images", 16, "--save-every", 8, "--sample-every", 16, *more)


@pytest.fixture(scope="module")
def runs(material, tmp_path_factory) -> dict[str, Path]:
    """A run of each stage, from its start to its end."""
    made = {stage: tmp_path_factory.mktemp(stage) / "run" for stage in ("stage1", "stage2")}
    for stage, run in made.items():
        assert cli.main(words(material, stage, run, "--adversarial-from", 8)) == 0
    return made


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_run_leaves_checkpoints_and_samples(stage, runs):
    run = runs[stage]
    assert [p.name for p in checkpoints_of(run, stage)] == [f"{stage}_000000016"]
    assert (run / "samples" / f"{stage}_0000016.png").is_file()
    assert any((run / "tensorboard" / stage).iterdir())


def test_samples_show_the_result_from_the_side_beside_the_pseudo_view(runs):
    from PIL import Image

    axes = len(probe(little.adversarial()).ends)
    columns = 1 + 2 * axes + 3
    with Image.open(runs["stage2"] / "samples/stage2_0000016.png") as sheet:
        assert sheet.width == columns * (64 + GAP_PX) + GAP_PX
        shown = np.asarray(sheet.convert("RGB")).astype(int)
    below = shown[LABEL_PX + GAP_PX : LABEL_PX + GAP_PX + 64]
    tiles = [below[:, GAP_PX + n * (64 + GAP_PX) :][:, :64] for n in range(columns - 3, columns)]
    assert all(tile.std() > 1 for tile in tiles), "nothing is shown"
    assert np.abs(tiles[0] - tiles[1]).mean() > 1, "the static synthesizer's view is not the result's"


def test_a_line_fits_a_terminal_and_begins_with_what_matters():
    means = {"l1": 0.12345, "D fake": 1.0, "loss": 2.5}
    rates = {"generator": 1e-3, "discriminator": 2.5e-4}
    whole = "loss 2.500 GPU 3.1 GB data 3% lr 0.001/0.00025 l1 0.123 D fake 1.000"
    assert loop._progress_text(means, rates, 0.031, {"gpu_gb": 3.14}, 200) == whole
    assert loop._progress_text(means, rates, 0.031, {"gpu_gb": 3.14}, 30) == "loss 2.500 GPU 3.1 GB data 3%"
    from tqdm import tqdm

    for total, name in ((160, "stage2"), (10_000_000, "stage1")):  # of a demo, of the paper
        line = tqdm.format_meter(
            total // 2, total, 400_000, ncols=80, unit="img", prefix=name, bar_format=loop.PROGRESS, rate=44.3,
            postfix=loop._progress_text(means, rates, 0.031, {"gpu_gb": 63.1}, 80 - loop.BEFORE_POSTFIX),
        )  # fmt: skip
        assert len(line) <= 80, line
        assert "44.30img/s" in line, line
        assert "loss 2.500" in line, line
        assert " left" in line, line


def test_a_run_that_is_there_is_refused_where_none_is_wanted(material, runs, capsys):
    said = refused(words(material, "stage1", runs["stage1"], "--adversarial-from", 8, "--resume", "never"), capsys)
    assert "expected no run there, there is one; name another folder or --resume auto" in said


def test_the_same_command_again_does_nothing(material, runs, monkeypatch):
    monkeypatch.setattr(stage2, "losses", lambda *a: pytest.fail("another step"))
    assert cli.main(words(material, "stage2", runs["stage2"], "--adversarial-from", 8)) == 0


def test_other_numbers_are_refused_or_allowed(material, runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs["stage1"], run)
    longer = words(material, "stage1", run, "--adversarial-from", 8, "--images", 20)
    said = refused(longer, capsys)
    assert "begun with stage1.images 16, now it is 20; name another folder or say --allow-change" in said
    assert cli.main([*longer, "--allow-change"]) == 0
    assert "stage1.images was 16, now it is 20" in capsys.readouterr().err
    assert [p.name for p in checkpoints_of(run, "stage1")] == ["stage1_000000020"]


def test_the_adversary_begins_when_it_should(material, tmp_path, monkeypatch):
    seen: list[tuple[int, set[str]]] = []
    original = stage2.losses

    def losses(*given: Any) -> dict[str, torch.Tensor]:
        terms = original(*given)
        seen.append((len(seen), set(terms)))
        return terms

    monkeypatch.setattr(stage2, "losses", losses)
    assert cli.main(words(material, "stage2", tmp_path / "run", "--adversarial-from", 8)) == 0
    assert ["adversary" in terms for _, terms in seen] == [False, False, True, True]


def test_the_discriminator_s_rate_follows_its_own_images(material, tmp_path, monkeypatch):
    discriminator = dataclasses.replace(little.adversarial().stage2.discriminator, lr=1.0, warmup=11, reg_interval=0)
    rare = dataclasses.replace(little.adversarial().stage2.schedule, r1_every=100)
    stage = dataclasses.replace(little.adversarial().stage2, discriminator=discriminator, schedule=rare)
    monkeypatch.setitem(STAGE_PRESETS, "tiny", lambda: dataclasses.replace(little.adversarial(), stage2=stage))
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    assert cli.main(words(material, "stage2", tmp_path / "run", "--adversarial-from", 4)) == 0
    rates = [line.get("lr discriminator") for line in lines_of(tmp_path / "run") if "l1" in line]
    assert rates == [None, pytest.approx(1 / 12), pytest.approx(5 / 12), pytest.approx(9 / 12)]


def test_a_later_phase_that_is_not_finite_is_named_and_the_networks_are_kept(material, tmp_path, monkeypatch, capsys):
    def infinite(*given: Any) -> dict[str, torch.Tensor]:
        return {name: value * torch.nan for name, value in original(*given).items()}

    original = adversarial.r1_terms
    monkeypatch.setattr(adversarial, "r1_terms", infinite)
    said = refused(words(material, "stage2", tmp_path / "run", "--adversarial-from", 8), capsys)
    assert "R1 image, R1 positions, R1 mask of R1 is not finite after 12 images, what it began from is in" in said
    (kept,) = checkpoints_of(tmp_path / "run" / "diverged", "stage2")
    assert kept.name == "stage2_000000012"
    assert len(list(kept.iterdir())) == 3


def test_a_disk_that_fails_is_one_sentence(material, tmp_path, monkeypatch, capsys):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("triportrait.train.stages.preview_grids.write_grid", full)
    said = refused(words(material, "stage2", tmp_path / "run"), capsys)
    assert "the run could not be written or read (no space left on device); free some space" in said


def test_a_published_pseudo_view_is_a_phase_of_its_own(material, tmp_path, monkeypatch):
    config = little.adversarial()
    own = dataclasses.replace(
        config.stage2, real_target=1.0, schedule=dataclasses.replace(config.stage2.schedule, pseudo_every=2)
    )
    monkeypatch.setitem(STAGE_PRESETS, "tiny", lambda: dataclasses.replace(config, stage2=own))
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    assert cli.main(words(material, "stage2", tmp_path / "run")) == 0
    lines = [line for line in lines_of(tmp_path / "run") if "l1" in line]
    assert ["pseudo view" in line for line in lines] == [True, False, True, False]
    assert all(line["pseudo"] == 0 for line in lines)
    assert lines[0]["pseudo view"] > 0


def test_a_published_pseudo_view_is_driven_by_pseudo_views(material):
    """v_d comes off the views from θ_p there, too, and the real picture of the driving face is not read for it."""
    cast = PictureSet(material / "cast", little.model())
    config = dataclasses.replace(little.config().stage2, batch=4, real_driving=0.0, real_target=1.0)
    batch = stage2.draw(cast, config, np.random.default_rng(3))
    portrait, static = little.portrait(motion=True), little.portrait(1).eval()
    models = stage2.ReenactModels(portrait, static, little.encoder(), Gradients())
    values = []
    for real in (False, True):
        given = dataclasses.replace(batch, real_driving=torch.full((4,), real))
        values.append(stage2.pseudo_view_loss(given, models, torch.Generator().manual_seed(0)))
    assert (values[0] != values[1]).all()


def test_a_discriminator_can_be_begun_from(material, runs, tmp_path, monkeypatch, capsys):
    seen: dict[str, torch.Tensor] = {}

    def take(config, chosen, models, *more):
        seen.update(little.copied(models.discriminator))
        raise InputError("enough")

    monkeypatch.setattr("triportrait.train.run_one_stage.reenact_stage", take)
    refused(words(material, "stage2", tmp_path / "run", "--discriminator", runs["stage2"]), capsys)
    wanted = module_weights(checkpoints_of(runs["stage2"], "stage2")[-1], "discriminator")
    assert little.same(seen, wanted)
    said = refused(words(material, "stage2", tmp_path / "run", "--discriminator", tmp_path), capsys)
    assert "expected a whole checkpoint of discriminator" in said


def test_a_frozen_renderer_comes_from_somewhere(material, tmp_path, capsys):
    frozen = words(material, "stage1", tmp_path / "run", "--renderer-frozen-until", 8, "--seed", 5)
    said = refused(frozen, capsys)
    assert "renderer: expected a trained one, as it does not move for the first 8 images, got a fresh one" in said


def test_a_preset_keeps_its_own_pace_of_saving():
    asked = Stage1(data=Path("data"), out=Path("run"), preset="paper").config(Ranks())
    assert (asked.save_every, asked.sample_every, asked.precision) == (100_000, 50_000, "bf16")
    asked = Stage1(data=Path("data"), out=Path("run"), save_every=7, precision="fp32").config(Ranks())
    assert (asked.save_every, asked.precision) == (7, "fp32")


def test_a_folder_that_knows_no_locks_is_trained_in(tmp_path, monkeypatch):
    def locked(number: int) -> None:
        def lockf(*given: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("fcntl.lockf", lockf)

    locked(errno.ENOLCK)
    claim(tmp_path).close()
    locked(errno.EAGAIN)
    with pytest.raises(InputError, match="another process trains"):
        claim(tmp_path)


def test_weights_are_exported_and_can_be_begun_from(material, runs, tmp_path, capsys):
    out = tmp_path / "weights"
    assert cli.main(["train", "export", str(runs["stage2"]), str(out)]) == 0
    stored = load_file(checkpoints_of(runs["stage2"], "stage2")[-1] / "generator.safetensors")
    portrait, encoder = load_portrait(out), load_motion_encoder(out)
    for name, parameter in portrait.named_parameters():
        assert torch.equal(parameter, stored[f"ema/{name}"]), name
    assert encoder.motion_width == 9
    assert Reenactor(portrait, encoder).can_turn_neck, "heads know how they turn"
    provenance = json.loads((out / "portrait.json").read_text())["provenance"]
    assert provenance["network"] == "reenactment"
    assert provenance["cast"] == {"seed": 3, "count": 2}
    assert "exists" in refused(["train", "export", str(runs["stage2"]), str(out)], capsys)
    assert str(material) not in (runs["stage2"] / "config.json").read_text() + (out / "portrait.json").read_text()
    static = tmp_path / "static"
    assert cli.main(["train", "export", str(checkpoints_of(runs["stage1"], "stage1")[-1]), str(static), "--half"]) == 0
    assert {t.dtype for t in load_file(static / "portrait.safetensors").values()} == {torch.float16}
    more = ["--static", static, "--weights", out, "--adversarial", 0]
    again = words(material, "stage2", tmp_path / "again", *more)
    assert cli.main(again) == 0
    assert len(lines_of(tmp_path / "again")) == 1
    assert not list(checkpoints_of(tmp_path / "again", "stage2")[-1].glob("discriminator*")), (
        "no adversary, no discriminator"
    )


def test_who_learns_from_real_frames_alone_needs_nobody_to_draw_pseudo_views(material, tmp_path, capsys):
    given = ["train", "stage2", "--data", material / "cast", "--motion", material / "trained", "--weights"]
    given += [material / "trained", "--batch", 4, "--micro-batches", 1, "--precision", "fp32", "--images", 4]
    real = [*given, "--real-driving", 1, "--adversarial", 0]
    said = refused([*real, "--real-target", 0.5, "--out", tmp_path / "run"], capsys)
    assert said.startswith("static: expected the weights of the static synthesizer for stage 2, got none")
    seen = []
    for out, more in ((tmp_path / "without", []), (tmp_path / "with", ["--static", material / "static"])):
        assert cli.main([*map(str, [*real, "--real-target", 1, "--sample-every", 4, "--out", out, *more])]) == 0
        assert list((out / "samples").iterdir())
        seen.append(unclocked(out))
    assert seen[0] == seen[1]
    widths = [Image.open(next((tmp_path / out / "samples").iterdir())).width for out in ("without", "with")]
    assert widths[0] < widths[1], "the pseudo view is left out"


REFUSED = {
    "no data": (["--data", "nothing"], "nothing"),
    "no images": (["--images", "0"], "stage2.images: expected a positive number, got 0"),
    "no static": (["--static", "nothing"], "nothing"),
    "odd micro-batches": (["--batch", "6", "--micro-batches", "2"], "expected micro-batches of a multiple of 2"),
    "no micro-batches": (["--micro-batches", "0"], "stage2.micro_batches: expected a positive number, got 0"),
    "zero": (["--zero", "4"], "zero: expected a stage from 0 to 3, got 4"),
    "no vgg": (["--perceptual", "lpips"], "lpips: expected the file of VGG-16's weights, got none; name it by --vgg"),
    "no such vgg": (["--perceptual", "lpips", "--vgg", "no.pth"], "no.pth: expected torchvision's VGG-16"),
    "no identity": (["--identity-weight", "1"], "identity: expected the converted file of ArcFace's r18"),
    "a damaged identity": (["--identity-weight", "1", "--identity", __file__], "expected a safetensors file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_one_sentence(case, material, tmp_path, capsys):
    options, wanted = REFUSED[case]
    said = refused(words(material, "stage2", tmp_path / "run", *options), capsys)
    assert wanted in said
    assert not checkpoints_of(tmp_path / "run", "stage2")


def test_planes_of_procedural_heads_are_not_known(material, tmp_path, capsys):
    run = tmp_path / "run"
    for option in ("--distill-planes", "--distill-feature"):
        said = refused(words(material, "stage1", run, option, 0.1), capsys)
        assert "expected heads of GenHead (--data genhead:FOLDER --parameters TABLES, or a store of" in said
        assert said.endswith("name those, or say --distill-planes 0 --distill-feature 0")
    said = refused(words(material, "stage1", run, "--teacher", material / "static"), capsys)
    assert "--teacher is no option, as GenHead itself teaches (--data genhead:FOLDER --parameters TABLES), now" in said
    assert not run.exists()


def test_what_has_no_run_in_it_is_refused(tmp_path, capsys):
    assert "it has no config.json of one" in refused(["train", "export", str(tmp_path), str(tmp_path / "out")], capsys)


def test_lpips_and_identity_with_random_weights(material, tmp_path, monkeypatch):
    """Real networks, random numbers: the files that nobody can download here have these names and shapes."""
    lpips = pytest.importorskip("lpips")
    from triportrait.core.metrics.torchvision_ops import declare

    declare()
    vgg = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).net
    tensors = {f"features.{name.split('.', 1)[1]}": p.detach() for name, p in vgg.named_parameters()}
    torch.save(tensors, tmp_path / "vgg16.pth")
    identity = {n: t for n, t in FaceIdentity().state_dict().items() if "num_batches" not in n}
    save_file(identity, tmp_path / "arcface.safetensors")
    more = ["--perceptual", "lpips", "--vgg", tmp_path / "vgg16.pth", "--images", 4]
    more += ["--identity-weight", 1, "--identity", tmp_path / "arcface.safetensors"]
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    assert cli.main(words(material, "stage2", tmp_path / "run", *more)) == 0
    (line,) = [line for line in lines_of(tmp_path / "run") if "l1" in line]
    assert line["perceptual"] > 0
    assert line["identity"] > 0


def test_recomputing_changes_no_loss(material, tmp_path):
    logs = []
    for name, more in (("kept", []), ("recomputed", ["--recompute"])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "LOG_EVERY", 1)
            assert cli.main(words(material, "stage2", tmp_path / name, *more)) == 0
        logs.append([{k: v for k, v in line.items() if k != "images_per_s" and not k.startswith("data_")}
                     for line in lines_of(tmp_path / name)])  # fmt: skip
    assert logs[0] == logs[1]
    assert recompute(little.portrait()) == 4, "two blocks of the transformer, one of the decoder, the renderer"


SLOW = """
import sys, time
from tests.train import little
from triportrait.train.stages import reenact as stage2
from triportrait.train.evaluation import probe
from triportrait.train.presets import STAGE_PRESETS
from triportrait import cli
STAGE_PRESETS["tiny"] = little.adversarial
probe.ROWS = 1
original = stage2.losses
def losses(*given):
    print("step", flush=True)
    return original(*given)
stage2.losses = losses
sys.exit(cli.main(sys.argv[1:]))
"""


def test_sigterm_saves_and_the_run_ends_as_one_that_was_not_stopped(material, tmp_path):
    """What a scheduler sends before it takes the machine back."""
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    more = ["--images", 32, "--save-every", 10**6, "--sample-every", 10**6]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SLOW, *words(material, "stage2", stopped, *more)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0
    assert time.monotonic() - begun < 60
    (checkpoint,) = checkpoints_of(stopped, "stage2")
    images = int(checkpoint.name.split("_")[-1])
    assert 4 <= images < 32
    assert f"stopped after {images} images; the same command goes on" in said
    assert not [p for p in (stopped / FOLDER).iterdir() if p.name.startswith(".")]
    for run in (stopped, whole):
        assert cli.main(words(material, "stage2", run, *more)) == 0
    for network in ("generator", "discriminator"):
        one, other = (
            load_file(checkpoints_of(run, "stage2")[-1] / f"{network}.safetensors") for run in (stopped, whole)
        )
        assert little.same(one, other), network
