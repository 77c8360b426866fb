"""Portrait4D on 4D data: what its losses read, five steps on real generated heads, and two of row G by its weights."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.train import little, little_genhead, tracked, trained
from tests.train.ranks_worker import StopsAt
from tests.train.runs import refused, unclocked
from triportrait import cli
from triportrait.core.checkpoint import load_motion_encoder, load_portrait
from triportrait.core.errors import InputError
from triportrait.core.tracking.head_model import load_head_model
from triportrait.core.types import Driving
from triportrait.train import loop
from triportrait.train.config import LossConfig, StageConfig
from triportrait.train.data.generated.online import OnlineHeads
from triportrait.train.data.generated.source import GeneratedBatch
from triportrait.train.data.pictures import PictureSet
from triportrait.train.generated_data import GeneratedData
from triportrait.train.networks import InitFrom
from triportrait.train.objectives.perceptual import Gradients
from triportrait.train.portrait4d_presets import (
    PORTRAIT4D_PRESETS,
    paper_portrait4d,
    published_portrait4d,
    tiny_portrait4d,
)
from triportrait.train.presets import STAGE_PRESETS
from triportrait.train.run_folder import Run
from triportrait.train.run_portrait4d import DynamicOnGenerated
from triportrait.train.runs.checkpoints import checkpoints_of
from triportrait.train.runs.stopping import Stopped
from triportrait.train.stages import portrait4d
from triportrait.train.stages.initialize import reads_motion
from triportrait.train.stages.portrait4d import DynamicModels, reenacted_heads

OPEN = load_head_model().identity
SMALL = ["--batch", 2, "--micro-batches", 1, "--images", 10]  # five steps of a static head and one that moves


@pytest.fixture(autouse=True)
def little_presets(monkeypatch):
    monkeypatch.setitem(PORTRAIT4D_PRESETS, "tiny", little.portrait4d)
    monkeypatch.setitem(STAGE_PRESETS, "tiny", little.adversarial)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


def batch_of(cast: PictureSet, is_static: list[bool]) -> GeneratedBatch:
    """Two faces of as many heads as there are bits, by procedural heads: for what losses read alone."""
    count = len(is_static)
    head, view = torch.arange(count) % cast.heads, torch.arange(count) % cast.views
    faces = [cast.take(head * cast.poses_each + face, (view + face) % cast.views) for face in (0, 1, 1)]
    return GeneratedBatch(faces[0], faces[2], faces[1], torch.tensor(is_static))


def models(**changes: Any) -> DynamicModels:
    portrait = little.portrait(motion=True)
    with torch.no_grad():  # so that what motion changes is seen
        portrait.reconstructor.plane_decoder.out.weight.mul_(trained.LOUD)
    used = {"portrait": portrait, "motion_encoder": little.encoder(), "perceptual": Gradients()}
    return DynamicModels(**(used | changes))


def test_the_motion_of_static_heads_is_off_and_that_of_others_is_read_off_pictures(little_cast):
    batch, asked = batch_of(little_cast, [True, False]), models()
    planes = reenacted_heads(batch, asked).planes
    portrait, encoder = asked.portrait, asked.motion_encoder
    still = portrait.reenact(portrait.prepare(batch.source.image, None), Driving(None))
    v_s, v_d = (portrait4d.motion_of(p, encoder) for p in (batch.source, batch.motion))  # type: ignore[arg-type]
    moved = portrait.reenact(portrait.prepare(batch.source.image, v_s), Driving(v_d))
    assert torch.allclose(planes[0], still.planes[0], atol=1e-5)
    assert torch.allclose(planes[1], moved.planes[1], atol=1e-5)
    assert not torch.allclose(planes[1], still.planes[1], atol=1e-3), "motion changes planes"
    swapped = dataclasses.replace(batch, motion=batch.source)
    assert not torch.allclose(reenacted_heads(swapped, asked).planes[1], planes[1], atol=1e-3)


def test_layers_that_read_motion_learn_from_heads_that_move_alone(little_cast):
    for is_static in (True, False):
        asked = models()
        terms = portrait4d.losses(
            batch_of(little_cast, [is_static] * 2), asked, LossConfig(), torch.Generator().manual_seed(1)
        )
        assert set(terms) == {"l1", "raw", "perceptual", "opacity", "depth"}, "procedural heads have no planes"
        sum(terms.values()).backward()  # type: ignore[union-attr]
        grads = {name: p.grad for name, p in asked.portrait.named_parameters() if reads_motion(name)}
        assert all(grad is not None for grad in grads.values()), "every rank has the same gradients"
        assert any(bool(grad.any()) for grad in grads.values()) != is_static


def test_the_presets_are_stage_1_with_motion():
    for name, made in (("paper", paper_portrait4d), ("published", published_portrait4d)):
        own, static = made().portrait4d, STAGE_PRESETS[name]().stage1
        assert own is not None
        assert (own.images, own.static_share, own.optimizer.motion_lr_factor) == (15_000_000, 0.5, 1.0)
        fields = [f.name for f in dataclasses.fields(StageConfig)]
        changed = {field for field in fields if getattr(own, field) != getattr(static, field)}
        assert changed <= {"images"}, "all else is stage 1's"
    small = tiny_portrait4d().portrait4d
    assert small is not None
    assert (small.images, small.static_share) == (21_000, 0.5)
    assert (small.losses.distill_planes, small.schedule.renderer_frozen_until) == (0.1, 1_400)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A generator with its tables, a motion encoder, a static synthesizer, and clips of the generator's head model."""
    folder = tmp_path_factory.mktemp("portrait4d")
    little_genhead.write(folder / "genhead")
    little_genhead.write_tables(folder / "tables")
    trained.write(folder / "trained")
    trained.write_static(folder / "static", noted={"network": "static synthesizer", "images seen": {"stage1": 12}})
    store = tracked.write_store(folder / "clips")
    index = json.loads((store / "index.json").read_text())
    (store / "index.json").write_text(json.dumps(index | {"head_model": OPEN.to_dict()}))
    return folder


def words(work: Path, out: Path, *more: Any) -> list[str]:
    options = ["--data", f"genhead:{work / 'genhead'}", "--parameters", work / "tables", "--motion", work / "trained"]
    options += ["--out", out, "--precision", "fp32", *SMALL, "--save-every", 4]
    return ["train", "portrait4d", *map(str, [*options, *more])]


def row_g(work: Path, out: Path, teacher: Path, *more: Any) -> list[str]:
    options = ["--ablation", "G", "--static", work / "static", "--teacher", teacher, "--motion", work / "trained"]
    options += ["--data", work / "clips", "--out", out, "--flame", "open-head", "--precision", "fp32"]
    options += ["--batch", 4, "--micro-batches", 2, "--images", 8, "--clips", 0]
    return ["train", "stage2", *map(str, [*options, *more])]


@pytest.fixture(scope="module")
def run(work) -> Path:
    """Five steps, from fresh weights and the generator's renderer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PORTRAIT4D_PRESETS, "tiny", little.portrait4d)
        patch.setattr(loop, "LOG_EVERY", 1)
        assert cli.main(words(work, work / "run")) == 0
        assert cli.main(["train", "export", str(work / "run"), str(work / "teacher")]) == 0
    return work / "run"


def test_five_steps_teach_motion_and_are_exported_as_what_they_are(run, work):
    lines = [line for line in unclocked(run) if "l1" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert {"l1", "perceptual", "opacity", "depth", "planes", "density", "R1 image", "D fake"} <= set().union(*lines)
    assert any({"psnr", "psnr static"} <= line.keys() for line in unclocked(run)), "heads that move, and static ones"
    card = json.loads((work / "teacher/portrait.json").read_text())["provenance"]
    assert card["network"] == "reenactment"
    assert card["trained as"] == "Portrait4D, on 4D data of GenHead"
    assert card["images seen"] == {"portrait4d": 10}
    assert card["motion"] == "pictures"
    assert card["head_model"] == OPEN.to_dict()
    assert len(card["generator"]) >= 8
    assert load_portrait(work / "teacher").neck.identity == OPEN  # type: ignore[union-attr]
    asked = load_motion_encoder(work / "trained").state_dict()
    assert little.same(load_motion_encoder(work / "teacher").state_dict(), asked)
    fresh, now = little.portrait(0, motion=True).state_dict(), load_file(work / "teacher/portrait.safetensors")
    assert any(reads_motion(name) and not torch.equal(value, now[name]) for name, value in fresh.items())


def test_a_run_that_was_stopped_ends_as_one_that_was_not(run, work, tmp_path):
    again, whole_config = tmp_path / "run", little.portrait4d()
    assert whole_config.portrait4d is not None
    small = dataclasses.replace(whole_config.portrait4d, batch=2, micro_batches=1, images=10)
    config = dataclasses.replace(whole_config, portrait4d=small, save_every=4)
    for steps in (3, 0):
        heads = GeneratedData(Path(f"genhead:{work / 'genhead'}"), work / "tables")
        inputs = DynamicOnGenerated(heads, InitFrom(motion=str(work / "trained")))
        with suppress(Stopped):
            Run(config, again, inputs, changes_allowed=False).train(StopsAt(steps) if steps else None)
    assert [line["step"] for line in unclocked(again) if "l1" in line] == [1, 2, 3, 4, 5]
    whole, both = (checkpoints_of(folder, "portrait4d")[-1] for folder in (run, again))
    for network in ("generator", "discriminator"):
        assert little.same(*(load_file(folder / f"{network}.safetensors") for folder in (whole, both)))


def test_row_g_takes_its_weights_and_shows_who_they_are(run, work, tmp_path, capsys):
    assert cli.main(row_g(work, tmp_path / "g", work / "teacher")) == 0
    capsys.readouterr()
    assert cli.main(row_g(work, tmp_path / "g", work / "teacher", "--show-schedule")) == 0
    said = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "static synthesizer, 10,000,000 images" in said["start"]
    assert "static: static synthesizer, 12 images" in said["start"]
    teacher = said["teacher's data"]
    assert "4D data of GenHead; published code: 15,000,000 images, 50% of them static" in teacher
    assert "Portrait4D, on 4D data of GenHead, generator " in teacher
    assert teacher.endswith("open head, 10 images")
    assert "as static synthesizer, E_mot, 5,000,000 images" in said["student"]
    assert said["student"].endswith("8 images")


def test_row_g_refuses_it_on_clips_of_another_head_model(run, work, tmp_path, capsys):
    other, flame = tracked.write_store(tmp_path / "lmdb"), tmp_path / "flame"
    tracked.write_static(flame)
    said = refused(row_g(work, tmp_path / "g", work / "teacher", "--data", other, "--flame", flame), capsys)
    assert f"expected parameters of open head ({OPEN.fingerprint}), the head model of --teacher" in said
    assert not (tmp_path / "g").exists()


def test_row_g_refuses_it_where_another_encoder_moves_it(run, work, tmp_path, capsys):
    other = trained.write(tmp_path / "other", seed=9)
    said = refused(row_g(work, tmp_path / "g", work / "teacher", "--motion", other), capsys)
    assert "its own encoder is another" in said
    assert not (tmp_path / "g").exists()


def test_it_begins_as_a_static_synthesizer_but_for_what_reads_motion(work, tmp_path, monkeypatch):
    begun = []

    def take(config, heads, models, engines):
        begun.append(models.portrait)
        raise InputError("enough")

    monkeypatch.setattr("triportrait.train.run_portrait4d.portrait4d_stage", take)
    assert cli.main(words(work, tmp_path / "run", "--static", work / "static")) == 2
    found, static = begun[0].state_dict(), load_portrait(work / "static").state_dict()
    assert all(torch.equal(found[name], static[name]) for name in static if not reads_motion(name))
    fresh = little.portrait(0, motion=True).state_dict()
    assert all(torch.equal(found[name], fresh[name]) for name in static if reads_motion(name))


def test_a_step_that_is_not_finite_is_kept_and_replayed(work, tmp_path, monkeypatch, capsys):
    made, original = [], OnlineHeads.batch

    def spoiled(self, drawn):
        made.append(original(self, drawn))
        if len(made) == 2:  # the second step
            made[-1].source.image[1, 0, 0, 0] = torch.nan
        return made[-1]

    monkeypatch.setattr(OnlineHeads, "batch", spoiled)
    run = tmp_path / "run"
    assert "training diverged" in (said := refused(words(work, run), capsys))
    assert "generated head 3" in said
    assert cli.main(["train", "replay", str(run)]) == 2
    told = capsys.readouterr()
    assert "portrait4d, main, micro-batch 0 after 2 images" in told.out
    assert "batch.source.image: 1 of 24576 numbers are not finite" in told.out
    assert "not finite again" in told.err


def test_it_learns_from_a_store_of_two_faces_and_refuses_one_of_one(work, tmp_path, capsys):
    for name, more in (("two", ["--dynamic"]), ("one", [])):
        given = ["--weights", work / "genhead", "--parameters", work / "tables", "--count", 4, "--workers", 1, *more]
        assert cli.main(["prepare", "genhead", *map(str, [tmp_path / name, *given])]) == 0
    said = refused(of_store(work, tmp_path, "one"), capsys)
    assert "expected one face in a share of 0.5 of the heads and two in the others, got a store with one in 1.0" in said
    assert cli.main(of_store(work, tmp_path, "two")) == 0
    card = json.loads((tmp_path / "run/config.json").read_text())
    assert card["run"]["source"] == "genhead"
    assert len([line for line in unclocked(tmp_path / "run") if "planes" in line]) == 2


def of_store(work: Path, folder: Path, name: str) -> list[str]:
    """A training of two steps on a store."""
    options = ["--data", folder / name, "--out", folder / "run", "--motion", work / "trained", *SMALL]
    options += ["--genhead", work / "genhead", "--precision", "fp32", "--images", 4]
    return ["train", "portrait4d", *map(str, options)]


REFUSED = {
    "data of no generator": (["--data", "cast"], "cast: expected 4D data"),
    "no tables": (["--parameters", "none"], "--parameters none: expected tables of parameters"),
    "two beginnings": (["--weights", "trained", "--static", "static"], "expected none beside --weights"),
    "a static network as weights": (["--weights", "static"], "expected a reenactment network (stage 2), got a static"),
    "two renderers": (["--genhead", "genhead", "--static", "static"], "expected none beside --static"),
    "a share that is none": (["--static-share", "2"], "portrait4d.static_share: expected a share from 0 to 1, got 2"),
}


def test_a_static_synthesizer_of_another_generator_is_refused(work, tmp_path, capsys):
    other = trained.write_static(tmp_path / "other", noted={"network": "static synthesizer", "generator": "0" * 16})
    said = refused(words(work, tmp_path / "run", "--static", other), capsys)
    assert "expected a network that learned the planes of the generator of genhead:genhead" in said
    assert said.endswith(
        "got one of another (0000000000000000); name other weights or heads, or say --distill-planes 0"
    )


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_learn_from_is_refused(case, work, tmp_path, capsys):
    options, said = REFUSED[case]
    options = [str(work / word) if (work / word).exists() else word for word in options]
    assert said in refused(words(work, tmp_path / "run", *options), capsys)
    assert not (tmp_path / "run").exists()


def test_its_schedule_is_shown_without_data(capsys):
    assert cli.main(["train", "portrait4d", "--preset", "paper", "--show-schedule"]) == 0
    said = capsys.readouterr().out
    assert "portrait4d: 15,000,000 images in steps of 32" in said
    assert "static heads: 50%, with motion off" in said
    assert "GenHead's planes" in said
