"""The product runs on a fake GPU, at its published sizes: what no GPU would run is red here.

The fake GPU wants processes of its own: `python -m tests.fake_gpu.report` and `python -m tests.fake_gpu.faults`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fake_gpu.conditions import NEEDS

pytestmark = NEEDS
EVERY = 6  # one program in so many is compiled here, all by `python -m tests.fake_gpu.report OUT.json --compile 1`
SERVED, STAGES = ("fp32", "bf16", "fp16"), ("stage1", "stage2")
FRAME_LAUNCHES, TURNED_LAUNCHES = 12, 13  # outside of graphs, of a captured frame
LARGEST_STEP_GB = 22.0  # of 4 images, every phase of a stage; libraries' own workspaces come on top
LARGEST_REFINEMENT_GB = 10.0  # of a step with pseudo views, in float32
SMALL_CONSTANTS = 3  # the face's place in a motion crop, once per crop, copied while the host waits
MOST_UPLOADED = 200  # bytes of a phase: constants of its losses, no random numbers
FAULTS = 9


@pytest.fixture(scope="module")
def report(ran) -> dict[str, Any]:
    """All runs, one after the other."""
    return ran("tests.fake_gpu.report", "--compile", str(EVERY))


@pytest.fixture(scope="module")
def rows(report) -> dict[str, dict[str, Any]]:
    """Counts by run and by what was done."""
    return {run: each["rows"] for run, each in report["runs"].items()}


def test_everything_runs_at_the_published_sizes(rows):
    for precision in SERVED:
        assert {"prepare", "captured frame", "live batch of 1"} <= rows[f"serve {precision}"].keys()
    assert "live batch of 8" in rows["serve bf16"]
    for stage in STAGES:
        for precision in ("fp32", "bf16"):
            assert {"main", "discriminator", "R1"} <= rows[f"{stage} {precision}"].keys()
    assert "main" in rows["motion fp32"]
    assert {"given", "step 2", "person"} <= rows["refine fp32"].keys()


def test_a_captured_frame_waits_for_its_pictures_alone(rows):
    for precision in SERVED:
        for neck, launches, replays in (("", FRAME_LAUNCHES, 2), (", neck turned", TURNED_LAUNCHES, 3)):
            frame = rows[f"serve {precision}"][f"captured frame{neck}"]
            assert frame["waits"] == {"event": 2}, "the picture, and whether it is finite"
            assert frame["replays"] == replays and frame["launches"] <= launches
            assert all(not copies["waiting"] for copies in frame["copies"].values())


def test_a_step_of_training_waits_for_no_copy_of_its_batch(rows):
    for run in (run for run in rows if run.startswith(("stage", "motion"))):
        copies = rows[run]["batch to the device"]["copies"]["host to device"]
        assert copies["bytes"] > 1e6
        assert copies["waiting"] == 0, (run, copies)


def test_a_phase_of_training_draws_its_random_numbers_on_the_device(rows):
    for run in (run for run in rows if run.startswith(("stage", "motion"))):
        for phase in rows[run].keys() - {"load", "batch to the device"}:
            copies = rows[run][phase]["copies"].get("host to device", {"bytes": 0, "waiting": 0})
            assert copies["bytes"] <= MOST_UPLOADED, (run, phase, copies)
            assert copies["waiting"] <= (SMALL_CONSTANTS if run.startswith("stage2") else 0), (run, phase, copies)
    assert {"rand", "randn"} <= rows["stage1 bf16"]["density"]["launched"].keys()
    assert rows["stage2 bf16"]["main"]["launched"]["rand"] == 2, "jitter and uniforms"


def test_a_step_of_four_images_has_room_in_40_GB(rows):
    peaks = {
        run: max(each["peak_GB"] for each in done.values()) for run, done in rows.items() if run.startswith("stage")
    }
    assert len(peaks) == 5
    assert min(peaks.values()) > 0 and max(peaks.values()) < LARGEST_STEP_GB, peaks


def test_a_step_of_a_refinement_waits_for_its_loss_alone(rows):
    """Its loss and the error behind its PSNR come back together, before the weights move; a camera of the pseudo views
    goes up, for which nobody waits; random numbers of rays are drawn on the device."""
    step = rows["refine fp32"]["step 2"]
    assert step["waits"] == {"device to host": 1}
    assert step["copies"]["device to host"] == {"count": 1, "bytes": 2 * 4, "waiting": 1}
    assert step["copies"]["host to device"] == {"count": 2, "bytes": 2 * (16 + 9) * 4, "waiting": 0}
    assert step["launched"]["rand"] == 4, "jitter and uniforms, of the picture and of the views"
    assert step["launched"]["march_forward.march"] == 3, "the picture, the views, and what the frozen network shows"
    assert {f"march_backward.{name}" for name in ("probe", "scan", "mlp", "splat")} <= step["launched"].keys()
    assert 0 < step["peak_GB"] < LARGEST_REFINEMENT_GB


def test_no_attention_writes_its_scores_down(report):
    backends = {
        run: {backend for backend, *_ in x["attention"]} for run, x in report["runs"].items() if run != "motion fp32"
    }
    assert all(backends.values())
    assert "torch math" not in set.union(*backends.values())


def test_wide_heads_in_half_precision_have_our_kernels(report):
    runs = {run for row in report["launches"] if row["launch"].startswith("attention.") for run in row["runs"]}
    assert runs == {
        "serve bf16", "serve fp16", "static bf16", "stage1 bf16", "stage2 bf16", "serve bf16, xFormers",
        "stage2 bf16, xFormers",
    }  # fmt: skip


def test_a_whole_library_is_used_for_narrow_heads(report):
    for run in ("serve bf16, xFormers", "stage2 bf16, xFormers"):
        backends = {backend for backend, dtype, *_ in report["runs"][run]["attention"] if dtype == "bfloat16"}
        assert backends == {"xformers"}


def test_what_was_launched_compiles(report):
    assert len(report["launches"]) > 50
    assert {row["chip"] for row in report["compiled"]} == {80, 90}
    assert not [row for row in report["compiled"] if row["fault"]]


def test_what_was_launched_stands_in_the_compile_table(report):
    """As it was launched: dtype of every pointer, constants, alignment. Only the trial of a device has no case."""
    missing = {row["launch"]: row for row in report["launches"] if row["case"] is None}
    assert missing.keys() == {"trial_launch.write_one"}, missing


@pytest.fixture(scope="module")
def ended(ran) -> dict[str, list[str | None]]:
    """How each fault's run ended, without it and with it."""
    return ran("tests.fake_gpu.faults")


def test_every_fault_that_is_planted_is_seen(ended):
    assert len(ended) == FAULTS
    for name, (without, planted, (kind, words)) in ended.items():
        assert without is None, (name, without)
        assert planted is not None and planted.startswith(f"{kind}: ") and words in planted, (name, planted)


def test_counts_go_into_a_table(rows, record_row):
    for run, done in rows.items():
        for name, counts in done.items():
            up, down = (counts["copies"].get(way, {}) for way in ("host to device", "device to host"))
            copies = [f"{x.get('count', 0)} of {x.get('bytes', 0) / 1e6:.2f} MB" for x in (up, down)]
            waits = sum(counts["waits"].values())
            cells = f"{counts['launches']} launches", *copies, f"{waits} waits", f"{counts['peak_GB']:.2f} GB"
            record_row("on a fake GPU: launches outside of graphs, copies up and down", (run, name, *cells))
