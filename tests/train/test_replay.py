"""What a step that was not finite leaves, and `triportrait train replay`, which runs it again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.fake_gpu.device import Generator
from tests.train import little
from tests.train.runs import stage_words
from triportrait import cli
from triportrait.train import run_one_stage
from triportrait.train.config import ReenactConfig, StageConfig, TrainConfig
from triportrait.train.data.pictures import PictureSet
from triportrait.train.evaluation.motion_response import Probe
from triportrait.train.evaluation.probe import probe
from triportrait.train.nonfinite_replay import BATCHES, Replayed, _random_numbers
from triportrait.train.objectives.adversary import DiscriminatorInput
from triportrait.train.presets import PRESETS, STAGE_PRESETS
from triportrait.train.runs.checkpoints import CARD, checkpoints_of
from triportrait.train.runs.diverged import KeptMicroBatch, keep_micro, read_micro
from triportrait.train.runs.flatten import flattened, rebuilt
from triportrait.train.stages import adversarial, common
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages import static as stage1


@pytest.fixture(scope="module")
def asked() -> Probe:
    """What a training of the set is asked on its way, photographed once for all of them."""
    return probe(little.config(cast=little.CAST))


@pytest.fixture(autouse=True)
def little_preset(monkeypatch, asked):
    """`tiny` is the smallest training here."""
    monkeypatch.setitem(STAGE_PRESETS, "tiny", little.adversarial)
    monkeypatch.setattr(run_one_stage, "probe", lambda config: asked)


def words(material: Path, stage: str, out: Path, *more: Any) -> list[str]:
    quick = ["--micro-batches", 2, "--images", 8, "--save-every", 4, "--sample-every", 10**6]
    return stage_words(material, stage, out, *quick, *more)


def refused(arguments: list[str], capsys) -> tuple[list[str], str]:
    """What a command that fails prints, and its sentence."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    (sentence,) = [line for line in said.err.splitlines() if line.startswith("triportrait: ")]
    return said.out.splitlines(), sentence


def replayed(run: Path, *more: str) -> list[str]:
    return ["train", "replay", str(run), *more]


def kept_of(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "diverged").iterdir())


@pytest.mark.parametrize("stage", [1, 2])
def test_a_batch_goes_through_a_file_and_back(stage, little_cast, tmp_path):
    batch: Any = stage1.draw([little_cast], StageConfig(batch=2), np.random.default_rng(0))
    if stage == 2:
        batch = stage2.draw(little_cast, ReenactConfig(batch=2), np.random.default_rng(0))
    plain, tensors = flattened(batch, "batch")
    save_file(tensors, tmp_path / "batch.safetensors")
    again = rebuilt(type(batch), json.loads(json.dumps(plain)), load_file(tmp_path / "batch.safetensors"), "batch")
    plain_again, tensors_again = flattened(again, "batch")
    assert plain_again == plain
    assert little.same(tensors_again, tensors)
    assert type(again) is type(batch)
    assert "batch.source.camera.world_from_camera" in tensors
    assert tensors["batch.source.image"].shape[0] == 2
    assert again.source.neck.box_side == batch.source.neck.box_side
    assert again.source.positions is None
    with pytest.raises((KeyError, TypeError)):
        rebuilt(type(batch), plain | {"source": {}}, tensors, "batch")


@pytest.mark.parametrize("preset", [*PRESETS.values(), *STAGE_PRESETS.values()])
def test_a_config_comes_back_from_its_file(preset):
    config = preset()
    assert rebuilt(TrainConfig, json.loads(json.dumps(config.to_dict())), {}, "config") == config


def test_a_weight_that_is_infinite_is_found_again(material, tmp_path, capsys):
    """A checkpoint is damaged in the way that no checksum sees: by the training that wrote it."""
    run, weight = tmp_path / "run", "module/reconstructor.plane_decoder.out.weight"
    assert cli.main(words(material, "stage1", run, "--adversarial", 0)) == 0
    (folder,) = checkpoints_of(run, "stage1")
    path, card = folder / "generator.safetensors", json.loads((folder / CARD).read_text())
    tensors = load_file(path)
    tensors[weight][0, 0, 0, 0] = torch.inf
    save_file(tensors, path)
    card["files"][path.name] = {
        "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }  # fmt: skip
    (folder / CARD).write_text(json.dumps(card))
    more = words(material, "stage1", run, "--adversarial", 0, "--images", 12, "--allow-change")
    _, said = refused(more, capsys)
    assert f"is not finite after 8 images, what it began from is in {run / 'diverged'}" in said
    assert f"`triportrait train replay {run}` says where" in said
    assert kept_of(run) == ["begin.json", "checkpoints", "micro_0.safetensors"]
    for asked in ([], ["--precision", "bf16"]):
        told, said = refused(replayed(run, *asked), capsys)
        text = "\n".join(told)
        assert "generator reconstructor.plane_decoder.out.weight: 1 of 1728 numbers are not finite" in text
        first = "generator reconstructor.plane_decoder.out (Conv2d), from weights that are not"
        assert f"  first output that is not finite: {first}" in told
        assert f"first {first}" in said
        assert f"stage1, main, micro-batch 0 after 8 images, {'bf16' if asked else 'fp32'}" in told
        assert "l1" in said
        assert "not finite again" in said
        assert any(line.split()[:1] == ["opacity"] for line in told)


def test_a_picture_that_is_not_finite_is_found_in_its_batch(material, tmp_path, monkeypatch, capsys):
    run, take = tmp_path / "run", PictureSet.take
    calls: list[int] = []

    def spoiled(self: PictureSet, *rows: Tensor) -> Any:
        pictures = take(self, *rows)
        calls.append(len(calls))
        if len(calls) == 6:  # source and driving pictures of the second micro-batch of the second step
            pictures.image[1, 2, 3, 4] = torch.nan
        return pictures

    assert cli.main(words(material, "stage2", run, "--images", 4)) == 0
    monkeypatch.setattr(PictureSet, "take", spoiled)
    calls.extend([0, 0])
    _, said = refused(words(material, "stage2", run, "--allow-change"), capsys)
    assert "is not finite after 4 images" in said
    assert "micro_1.safetensors" in kept_of(run)
    monkeypatch.setattr(PictureSet, "take", lambda *given: pytest.fail("the batch is read"))
    told, said = refused(replayed(run), capsys)
    assert any(line.startswith("  batch.driving.image: 1 of ") for line in told)
    assert any("from inputs that are not" in line for line in told)
    assert "not finite again" in said
    assert not any(line.startswith("  generator ") for line in told), "all weights are finite"


def test_a_batch_that_is_finite_now_gives_the_terms_of_then(material, tmp_path, monkeypatch, capsys):
    """R1 reads what an earlier phase of its step left, and the generator has moved since."""
    run, original, seen = tmp_path / "run", adversarial.r1_terms, []

    def infinite(*given: Any) -> dict[str, Tensor]:
        seen.append({name: value.item() for name, value in original(*given).items()})
        return {name: value.detach() * torch.nan for name, value in original(*given).items()}

    with monkeypatch.context() as patch:
        patch.setattr(adversarial, "r1_terms", infinite)
        refused(words(material, "stage2", run), capsys)
    assert kept_of(run) == ["begin.json", "checkpoints", "micro_0.safetensors"]
    assert cli.main(replayed(run)) == 0
    told = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert told[0] == ["stage2, R1, micro-batch 0 after 0 images,", "fp32"]
    found_again = {name.strip(): float(value) for name, value in told[1:]}
    assert {n: np.float32(v) for n, v in found_again.items()} == {n: np.float32(v) for n, v in seen[0].items()}
    assert all(value > 0 for value in found_again.values())


def test_the_random_numbers_of_a_phase_are_those_of_then(material, tmp_path, monkeypatch, capsys):
    """Density smoothness draws its points after the rays of the main phase."""
    config = little.adversarial()
    losses = dataclasses.replace(config.stage1.losses, density=1.0)
    dense = dataclasses.replace(config, stage1=dataclasses.replace(config.stage1, losses=losses))
    monkeypatch.setitem(STAGE_PRESETS, "tiny", lambda: dense)
    run, original, seen = tmp_path / "run", stage1.density_smoothness, []

    def infinite(*given: Any) -> Tensor:
        value = original(*given)
        seen.append(value.mean().item())
        return value * torch.inf

    with monkeypatch.context() as patch:
        patch.setattr(stage1, "density_smoothness", infinite)
        _, said = refused(words(material, "stage1", run, "--adversarial", 0), capsys)
    assert "density of density is not finite after 4 images" in said
    assert cli.main(replayed(run)) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  density")]
    assert np.float32(line.split()[1]) == np.float32(seen[0])


def test_a_gpu_draws_its_random_numbers_again_and_a_cpu_says_that_it_cannot(monkeypatch):
    monkeypatch.setattr(torch, "Generator", Generator)
    then = torch.Generator("cuda").manual_seed(7)
    micro, replayed = KeptMicroBatch(0, "stage1", "main", 0, None, {}, then.get_state(), "cuda"), Replayed()
    again = _random_numbers(micro, torch.device("cuda"), replayed)
    assert (again.device.type, again.initial_seed(), replayed.lines) == ("cuda", 7, [])
    assert _random_numbers(micro, torch.device("cpu"), replayed).device.type == "cpu"
    assert replayed.lines == ["  random numbers: not those of then, which a GPU drew; replay it on one for these"]
    of_host = torch.Generator().manual_seed(7)
    micro = KeptMicroBatch(0, "stage1", "main", 0, None, {}, of_host.get_state())
    again = _random_numbers(micro, torch.device("cuda"), Replayed())
    assert torch.equal(torch.rand(3, generator=again), torch.rand(3, generator=of_host)), "as runs of 0.1 kept them"


def test_where_random_numbers_were_drawn_is_kept(material, tmp_path, monkeypatch, capsys):
    run, original = tmp_path / "run", common.opacity_loss
    monkeypatch.setattr(common, "opacity_loss", lambda *given: original(*given) * torch.nan)
    refused(words(material, "stage1", run, "--adversarial", 0), capsys)
    path = run / "diverged" / "micro_0.safetensors"
    micro = read_micro(path, BATCHES, DiscriminatorInput)
    assert micro.drawn_on == "cpu"
    keep_micro(run, dataclasses.replace(micro, drawn_on="cuda", rng=torch.zeros(16, dtype=torch.uint8)))
    told, _ = refused(replayed(run), capsys)
    assert "  random numbers: not those of then, which a GPU drew; replay it on one for these" in told
    keep_micro(run, dataclasses.replace(micro, drawn_on="moon"))
    assert "expected a micro-batch that a run kept, it is damaged" in refused(replayed(run), capsys)[1]


def test_a_gradient_that_is_not_finite_is_kept_and_named(material, tmp_path, monkeypatch, capsys):
    """A square root of nothing: a finite loss with a slope that is not, and no gradients are cleaned."""
    run, original = tmp_path / "run", common.opacity_loss

    def steep(opacity: Tensor, target: Tensor) -> Tensor:
        return original(opacity, target) + (opacity - opacity.detach()).abs().sum((1, 2, 3)).sqrt()

    monkeypatch.setattr(common, "opacity_loss", steep)
    _, said = refused(words(material, "stage1", run, "--adversarial", 0), capsys)
    assert "a gradient is nan after 0 images, what it began from is in" in said
    assert kept_of(run) == ["begin.json", "checkpoints", "micro_0.safetensors", "micro_1.safetensors"]
    told, said = refused(replayed(run), capsys)
    assert "not finite again: the gradient of " in said
    assert any("  gradient of " in line for line in told)
    assert not any(line.endswith(("nan", "inf")) for line in told)
    monkeypatch.setattr(common, "opacity_loss", original)
    assert cli.main(replayed(run)) == 0


def test_what_cannot_be_replayed_is_one_sentence(material, tmp_path, monkeypatch, capsys):
    run, original = tmp_path / "run", common.opacity_loss
    monkeypatch.setattr(common, "opacity_loss", lambda *given: original(*given) * torch.nan)
    assert "diverged holds no batch of one; name another" in refused(replayed(tmp_path), capsys)[1]
    refused(words(material, "stage1", run, "--adversarial", 0), capsys)
    micro = run / "diverged" / "micro_0.safetensors"
    for path, said in (
        (micro, "expected a micro-batch that a run kept, it is damaged"),
        (run / "diverged" / "begin.json", "expected what a run of one stage began from"),
        (run / "config.json", "it is no config of a run of one stage"),
    ):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert said in refused(replayed(run), capsys)[1]
        path.write_bytes(whole)
    assert "not finite again: opacity of main, first outside of the networks" in refused(replayed(run), capsys)[1]
