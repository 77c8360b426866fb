"""A whole training at the smallest size: weights at the end, the same however often it was stopped."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.train import little
from tests.train.little import same
from tests.train.runs import hashes, unclocked
from triportrait.core.checkpoint import load_motion_encoder, load_portrait
from triportrait.core.errors import InputError
from triportrait.core.motion.polynomial_neck import PolynomialNeck
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.source_commit import source_commit
from triportrait.train import loop
from triportrait.train.config import STAGES, LossConfig, OptimizerConfig, ReenactConfig, StageConfig
from triportrait.train.data.set_config import SetConfig
from triportrait.train.run_all_stages import AllStages
from triportrait.train.run_folder import Run
from triportrait.train.runs.checkpoints import CARD, checkpoints_of
from triportrait.train.stages import motion
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages import static as stage1
from triportrait.train.stages.initialize import reads_motion
from triportrait.train.stages.preview_grids import reenacted

MODULES = {"stage1": stage1, "motion": motion, "stage2": stage2}
NETWORK = {"stage1": "generator", "motion": "motion", "stage2": "generator"}
COMMAND = "triportrait train test --out run"


@pytest.fixture(autouse=True, scope="module")
def every_step_is_logged():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 1)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """A run from its start to its end."""
    training = Run(little.config(), tmp_path_factory.mktemp("whole") / "run", AllStages())
    training.train()
    training.export(COMMAND)
    return training


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A new run that has its pictures already."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copytree(whole.folder / "cast", folder / "cast")
    shutil.copy(whole.folder / "cast.necks", folder)
    return folder


def state_of(run: Path, stage: str) -> dict[str, dict[str, Tensor]]:
    """The tensors of a stage's last checkpoint, by kind and name."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(*checkpoints_of(run, stage)[-1].glob("*.safetensors")).items():
        kind, _, name = key.partition("/")
        state.setdefault(kind, {})[name] = value
    return state


def equal(one: Run, other: Run) -> bool:
    pairs = [(t.inputs.static, t.inputs.motion_encoder, t.inputs.portrait) for t in (one, other)]
    return all(same(a.state_dict(), b.state_dict()) for a, b in zip(*pairs, strict=True))


def interrupt(patch: pytest.MonkeyPatch, module: ModuleType, after: int) -> None:
    """Press Ctrl-C in a stage after so many steps."""
    original, steps = module.losses, [0]

    def losses(*arguments: Any) -> dict[str, Tensor]:
        if steps[0] == after:
            raise KeyboardInterrupt
        steps[0] += 1
        return original(*arguments)

    patch.setattr(module, "losses", losses)


def test_the_weights_folder_is_what_was_trained_in_half_precision(whole):
    folder = whole.folder / "weights"
    for kind, network in (("portrait", whole.inputs.portrait), ("motion", whole.inputs.motion_encoder)):
        stored = load_file(folder / f"{kind}.safetensors")
        assert {t.dtype for t in stored.values()} == {torch.float16}
        assert same(stored, {name: t.half() for name, t in network.state_dict().items()})
    portrait, encoder = load_portrait(folder), load_motion_encoder(folder)
    assert portrait.config == little.model()
    assert isinstance(portrait.neck, PolynomialNeck)
    assert isinstance(encoder, SmallMotionEncoder)
    assert encoder.to_dict() == whole.inputs.motion_encoder.to_dict()
    static = load_portrait(whole.folder / "static").state_dict()
    assert same(static, {name: t.half().float() for name, t in whole.inputs.static.state_dict().items()})


def test_the_weights_say_where_they_come_from(whole):
    for kind in ("portrait", "motion"):
        provenance = json.loads((whole.folder / "weights" / f"{kind}.json").read_text())["provenance"]
        assert provenance["command"] == COMMAND
        assert provenance["preset"] == "test"
        assert (provenance["seed"], provenance["commit"]) == (0, source_commit())
        assert provenance["licence"] == "Apache-2.0"
        assert provenance["made by"].startswith("triportrait ")
        assert provenance["cast"] == {"seed": 3, "count": 1}


def test_the_commit_is_that_of_the_sources():
    root = Path(__file__).parents[2]
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    assert found.stdout.startswith(source_commit().removesuffix("+"))
    assert bool(source_commit()) == (found.returncode == 0)


def test_a_run_tells_how_it_went(whole):
    names = set(hashes(whole.folder))
    assert {"config.json", "log.jsonl"} < names
    assert [checkpoints_of(whole.folder, name)[0].name for name in STAGES] == [
        "stage1_000000008", "motion_000000012", "stage2_000000008"
    ]  # fmt: skip
    lines = unclocked(whole.folder)
    assert [s for s in dict.fromkeys(line["stage"] for line in lines)] == list(STAGES)
    means = {name: [line for line in lines if line["stage"] == name and "lr" in line] for name in STAGES}
    assert {name: len(found) for name, found in means.items()} == {"stage1": 4, "motion": 3, "stage2": 4}
    assert {"l1", "raw", "perceptual", "opacity", "depth"} < set(means["stage1"][0])
    assert "pseudo" in means["stage2"][0]
    last = {name: [line for line in lines if line["stage"] == name and "lr" not in line][-1] for name in STAGES}
    assert 0 < last["stage1"]["psnr"] < 60
    assert -1 <= last["motion"]["jaw"] <= 1
    for axis in ("jaw", "blink", "gaze x"):
        assert -1 <= last["stage2"][f"correlation {axis}"] <= 1
        assert 0 < last["stage2"][f"psnr {axis}"] < 60
        assert f"gain {axis}" in last["stage2"]
    for name, columns in (("stage1_0000008.png", 5), ("stage2_0000008.png", 10)):
        width, _ = Image.open(whole.folder / "samples" / name).size
        assert width == columns * 66 + 2
    assert json.loads((whole.folder / "config.json").read_text()) == json.loads(json.dumps(little.config().to_dict()))


def test_each_stage_hands_on_its_averaged_weights(whole):
    states = {name: state_of(whole.folder, name) for name in STAGES}
    for name, network in (
        ("stage1", whole.inputs.static),
        ("motion", whole.inputs.motion_encoder),
        ("stage2", whole.inputs.portrait),
    ):
        averages = states[name]["ema"]
        parameters = dict(network.named_parameters())
        assert averages.keys() == parameters.keys()
        assert all(torch.equal(averages[key], parameters[key]) for key in averages), name
        assert any(not torch.equal(averages[key], states[name]["module"][key]) for key in averages)
    static, portrait = whole.inputs.static.state_dict(), whole.inputs.portrait.state_dict()
    moved = [name for name in static if not torch.equal(static[name], portrait[name])]
    assert any(reads_motion(name) for name in moved)
    assert any(not reads_motion(name) for name in moved)


def test_stage_2_asks_the_static_synthesizer_and_the_encoder_and_freezes_them(whole, tmp_path, monkeypatch):
    run, asked = tmp_path / "run", []
    shutil.copytree(whole.folder, run)
    shutil.rmtree(checkpoints_of(run, "stage2")[-1])
    original = stage2.losses
    monkeypatch.setattr(stage2, "losses", lambda *given: asked.append(given[1]) or original(*given))
    training = Run(little.config(), run, AllStages())
    training.train()
    assert len(asked) == 4
    for models in asked:
        assert models.portrait is training.inputs.portrait
        assert models.static is training.inputs.static
        assert models.motion_encoder is training.inputs.motion_encoder
        assert models.perceptual is training.inputs.perceptual
    frozen = [*training.inputs.static.parameters(), *training.inputs.motion_encoder.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in frozen)
    assert equal(training, whole)


def test_a_network_reenacts_and_answers_to_who_drives(whole):
    source, before, after = whole.inputs.probe.source, *whole.inputs.probe.ends["jaw"]
    reenact = partial(reenacted, whole.inputs.portrait, whole.inputs.motion_encoder)
    one, again = reenact(source, before), reenact(source, before)
    assert one.shape == (6, 3, 64, 64)
    assert torch.equal(one, again)
    assert not one.requires_grad
    cameras = whole.inputs.probe.source.camera.world_from_camera
    assert len(torch.unique(cameras, dim=0)) == 6, "few heads are seen from several sides"
    assert not torch.equal(one, reenact(source, after))


def test_a_run_can_be_made_stage_by_stage(whole, run, caplog):
    caplog.set_level(logging.INFO, "triportrait")
    for name in STAGES:
        torch.manual_seed(len(caplog.messages))  # whatever came before
        training = Run(little.config(), run, AllStages())
        training.train(until=name)
        assert checkpoints_of(run, name)
        assert not any(checkpoints_of(run, later) for later in STAGES[STAGES.index(name) + 1 :])
    done = [line for line in caplog.messages if "done" in line]
    assert done[-3:] == ["stage1: done, 8 images", "motion: done, 12 images", "stage2: done, 8 images"]
    assert any(
        line.startswith("stage1: ") and line.endswith("22 are wanted before stage 2") for line in caplog.messages
    )
    assert equal(training, whole)
    assert unclocked(run) == unclocked(whole.folder)


@pytest.mark.parametrize("name", STAGES)
def test_a_run_that_was_stopped_in_a_stage_ends_as_one_that_was_not(name, whole, run, monkeypatch):
    """Stopped after its second step; the states of stages 1 and 2 are saved each second, so one step is lost."""
    with monkeypatch.context() as patch:
        interrupt(patch, MODULES[name], 3 if name != "motion" else 2)
        with pytest.raises(KeyboardInterrupt):
            Run(little.config(), run, AllStages()).train()
    assert json.loads((checkpoints_of(run, name)[-1] / CARD).read_text())["engines"][NETWORK[name]]["steps"] == 2
    torch.manual_seed(7)
    training = Run(little.config(), run, AllStages())
    training.train()
    assert equal(training, whole)
    last = [{(line["stage"], line["step"], "lr" in line): line for line in unclocked(f)} for f in (run, whole.folder)]
    assert last[0] == last[1]
    samples = [hashes(folder / "samples") for folder in (run, whole.folder)]
    assert samples[0] == samples[1]


def test_a_complete_run_does_no_more_steps(whole, monkeypatch):
    before = hashes(whole.folder)
    for module in MODULES.values():
        interrupt(monkeypatch, module, 0)
    training = Run(little.config(), whole.folder, AllStages())
    training.train()
    assert equal(training, whole)
    assert hashes(whole.folder) == before
    training.train()
    assert equal(training, whole), "also twice"


def test_the_seed_decides_where_a_run_starts(run, tmp_path):
    shutil.copytree(run, tmp_path / "other")
    starts = []
    for noise, seed, folder in ((1, 0, run), (2, 0, run), (1, 5, tmp_path / "other")):
        torch.manual_seed(noise)
        training = Run(little.config(seed=seed), folder, AllStages())
        starts.append((training.inputs.static.state_dict(), training.inputs.motion_encoder.state_dict()))
    assert all(same(a, b) for a, b in zip(starts[0], starts[1], strict=True)), "what was drawn before decides, too"
    assert not any(same(a, b) for a, b in zip(starts[0], starts[2], strict=True))


def test_with_strangers_half_precision_and_random_features(tmp_path):
    """The other branches: two steps of each stage."""
    quick = little.config().stage1.optimizer
    stage = {"images": 4, "batch": 2, "optimizer": quick}
    config = little.config(
        precision="bf16",
        perceptual="random_features",
        strangers=little.STRANGERS,
        stage1=StageConfig(**stage, strangers=0.5),
        motion=StageConfig(**(stage | {"batch": 4, "images": 8}), strangers=0.5),
        stage2=ReenactConfig(**stage),
    )
    training = Run(config, tmp_path / "run", AllStages())
    training.train()
    lines = [line for line in unclocked(tmp_path / "run") if "lr" in line]
    assert [line["stage"] for line in lines] == [name for name in STAGES for _ in range(2)]
    assert {p.dtype for p in training.inputs.portrait.parameters()} == {torch.float32}
    assert all(bool(p.isfinite().all()) for p in training.inputs.portrait.parameters())
    assert load_portrait(training.export(COMMAND)).config == little.model()


def test_a_damaged_set_is_refused_before_another_is_drawn(tmp_path, little_folder):
    """Drawing takes long: what can be known before is said before."""
    run = tmp_path / "run"
    (run / "strangers").mkdir(parents=True)
    (run / "strangers" / "index.json").write_text("{")
    with pytest.raises(InputError, match=r"strangers.index\.json: it cannot be read as JSON"):
        Run(little.config(strangers=little.STRANGERS), run, AllStages())
    assert not (run / "cast").exists()


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "pictures of another size": ({"cast": SetConfig(size=128)}, "cast.size: expected the model's 64 px"),
    "strangers of another size": (
        {"strangers": SetConfig(seed=8, count=1, expressions=1, size=32)},
        "strangers.size: expected the model's 64 px",
    ),
    "one expression": (
        {"cast": SetConfig(size=64, expressions=1)},
        "cast.expressions: expected at least 2, .*got 1",
    ),
    "no strangers": ({"motion": StageConfig(strangers=0.5)}, "motion.strangers: expected 0 as there is no set"),
    "more views than there are": ({"stage1": StageConfig(views=3)}, "stage1.views: expected up to cast.views=2"),
    "more views than of strangers": (
        {
            "strangers": SetConfig(seed=8, count=1, expressions=1, views=1, size=64),
            "stage1": StageConfig(views=2, strangers=0.5),
        },
        "stage1.views: expected up to strangers.views=1",
    ),
    "no rate": (
        {"stage1": StageConfig(optimizer=OptimizerConfig(lr=0.0))},
        "stage1.optimizer.lr: expected a positive number, got 0.0",
    ),
    "a rate that is none": (
        {"stage1": StageConfig(optimizer=OptimizerConfig(lr=float("nan")))},
        "stage1.optimizer.lr: expected a positive number, got nan",
    ),
    "a share above one": (
        {"stage2": ReenactConfig(real_target=1.5)},
        "stage2.real_target: expected a share from 0 to 1, got 1.5",
    ),
    "a negative weight": (
        {"stage1": StageConfig(losses=LossConfig(depth=-1.0))},
        "stage1.losses.depth: expected 0 or more, got -1.0",
    ),
    "betas": (
        {"stage1": StageConfig(optimizer=OptimizerConfig(betas=(0.9, 1.5)))},
        "stage1.optimizer.betas: expected",
    ),
    "a precision": ({"precision": "fp8"}, "precision: expected one of fp32, bf16, got 'fp8'"),
    "a perceptual distance": (
        {"perceptual": "l2"},
        "perceptual: expected one of gradients, random_features, lpips, got 'l2'",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_numbers_that_cannot_be_are_refused_with_their_name(case):
    changes, said = CONFIGS[case]
    with pytest.raises(InputError, match=said) as found:
        little.config(**changes)
    assert "\n" not in str(found.value)


def test_numbers_at_their_edges_are_taken():
    few = SetConfig(seed=8, count=1, expressions=1, views=1, size=64)
    off = OptimizerConfig(warmup=0, weight_decay=0.0, final_lr_ratio=0.0, ema_decay=1.0, betas=(0.0, 0.0))
    taken = little.config(
        strangers=few,  # of whom stage 1 draws none, however few views they have
        stage1=StageConfig(views=2, strangers=0.0, front_sources=1.0, optimizer=off, losses=LossConfig(depth=0.0)),
        motion=StageConfig(views=1, strangers=1.0),
        stage2=ReenactConfig(real_driving=0.0, real_target=1.0),
    )
    assert taken.stage1.optimizer.ema_decay == 1.0
    assert taken.to_dict()["strangers"]["views"] == 1
