"""The time of a training step: all ways lose the same, each part has its time, and a CPU's times are no performance."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from tests.train import little
from triportrait import cli
from triportrait.core.torch_threads import one_thread
from triportrait.profiling.step import timing
from triportrait.profiling.step.inputs import make_inputs, with_batch
from triportrait.train import presets
from triportrait.train.config import LossConfig, ReenactConfig, ScheduleConfig, StageConfig, TrainConfig

B = 4
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def small_operations():
    with one_thread():
        yield


def config() -> TrainConfig:
    """Every second step has R1 and the density's phase; half of the targets, a fourth of v_d is real."""
    losses = LossConfig(adversarial=0.1, density=0.1)
    schedule = ScheduleConfig(r1_every=2, density_every=2)
    return little.config(
        stage1=StageConfig(images=100, batch=B, views=2, losses=losses, schedule=schedule),
        stage2=ReenactConfig(
            images=100, batch=B, losses=losses, schedule=schedule, real_driving=0.25, real_target=0.5
        ),
        discriminator_base=512, discriminator_widest=16,
    )  # fmt: skip


@pytest.mark.parametrize("stage, phase", [("stage1", "density"), ("stage2", "R1")])
def test_every_way_has_the_time_of_each_part(stage, phase):
    inputs = make_inputs(stage, config(), CPU)
    assert {"main", "discriminator", "R1", phase} == {each.name for each in inputs.phases}
    rows = timing.bench(config(), stage, CPU)
    assert [row["way"] for row in rows] == list(timing.WAYS)
    for row in rows:
        assert "red" not in row, row
        assert row["step_ms"] == pytest.approx(sum(row["parts_ms"].values()))
        busy = {part for part, ms in row["parts_ms"].items() if ms}
        assert busy == set(timing.PARTS) - ({timing.TEACHER} if stage == "stage1" else set()), "stage 1 has no teacher"
    assert timing.table(rows).count("\n| ") == 5
    assert "Wanted: 3 times eager fp32" in timing.table(rows)


def test_substitutions_keep_to_their_shares_of_the_batch():
    batch = make_inputs("stage2", config(), CPU).micro_batch().batch
    assert batch.real_driving.tolist() == [True, False, False, False]
    assert batch.real_target.tolist() == [True, True, False, False]
    assert batch.driving.neck is not None


def test_a_part_inside_another_interrupts_it(monkeypatch):
    moments = iter([0.0, 1.0, 3.0, 7.0, 12.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(moments))
    clock = timing._Clock(CPU)
    with clock.part(timing.FORWARD), clock.part(timing.TEACHER):
        pass
    clock.share = 0.5
    with clock.part(timing.CRITIC):
        pass
    clock.stop()
    milliseconds = {part: ms for part, ms in clock.milliseconds().items() if ms}
    assert milliseconds == {timing.FORWARD: 1000 + 4000, timing.TEACHER: 2000, timing.CRITIC: 2500}


def test_a_gpu_is_timed_by_events_of_its_stream(monkeypatch):
    class Event:
        moments = iter([0.0, 2.0, 5.0])

        def __init__(self, enable_timing: bool) -> None:
            self.ms = -1.0

        def record(self) -> None:
            self.ms = next(self.moments)

        def elapsed_time(self, end: Event) -> float:
            return end.ms - self.ms

    synchronized: list[bool] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: synchronized.append(True))
    clock = timing._Clock(torch.device("cuda"))
    with clock.part(timing.DATA):
        pass
    with clock.part(timing.OPTIMISER):
        pass
    clock.stop()
    milliseconds = clock.milliseconds()
    assert synchronized == [True]
    assert (milliseconds[timing.DATA], milliseconds[timing.OPTIMISER]) == (2.0, 3.0)


def test_a_way_that_loses_something_else_has_no_time(monkeypatch):
    monkeypatch.setattr(timing, "MAX_DIFFERENCE", -1.0)
    monkeypatch.setattr(timing, "WAYS", (timing.EAGER_FP32, timing.OURS))
    rows = timing.bench(config(), "stage1", CPU)
    for row in rows:
        assert "expected the loss of eager fp32" in row["red"]
        assert "step_ms" not in row
    assert timing.table(rows).count("no figure: ") == 2


def test_the_command_says_that_a_cpu_s_times_are_none(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(presets.STAGE_PRESETS, "tiny", config)
    monkeypatch.setattr(timing, "WAYS", (timing.EAGER_FP32, timing.OURS))
    file = tmp_path / "step.json"
    assert cli.main(["profile", "step", "--stage", "stage2", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "they are no performance" in printed
    assert "command triportrait profile step --stage stage2 --preset tiny --batch 4" in printed
    assert "| eager fp32 | " in printed
    figures: dict[str, Any] = json.loads(file.read_text())
    assert [row["way"] for row in figures["time"]] == ["eager fp32", "ours"]
    assert figures["machine"]["note"]


@pytest.mark.gpu
@pytest.mark.full
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_step_at_the_published_sizes_on_a_gpu(stage):
    """Batch 4: a third of the time of eager PyTorch, and memory for a card of 40 GB."""
    changed = with_batch(dataclasses.replace(presets.STAGE_PRESETS["paper"](), perceptual="gradients"), stage, 4)
    rows = {row["way"]: row for row in timing.bench(changed, stage, torch.device("cuda"))}
    ours = rows[timing.OURS]
    assert "red" not in ours, ours
    assert ours["peak_GB"] < 40
    if "red" not in rows[timing.EAGER_FP32]:
        assert rows[timing.EAGER_FP32]["step_ms"] > timing.WANTED * ours["step_ms"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--batch", "3"], "stage1.batch: expected micro-batches of a multiple of 2"),
        (["--batch", "0"], "batch: expected at least 1, got 0"),
        (["--preset", "huge"], "--preset: expected one of "),
        (["--json", "nowhere/step.json"], "json: expected a file in a folder that exists"),
    ],
)
def test_bad_options_are_one_sentence(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(presets.STAGE_PRESETS, "tiny", config)
    assert cli.main(["profile", "step", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the paper's numbers are timed")
def test_the_paper_s_numbers_want_a_gpu(capsys):
    assert cli.main(["profile", "step", "--preset", "paper"]) == 2
    assert "preset: expected tiny where there is no GPU, got paper" in capsys.readouterr().err
