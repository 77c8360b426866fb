"""GenHead on a fake GPU: the parts of a head are found, decoded and composited by kernels there."""

from __future__ import annotations

from tests.fake_gpu.conditions import NEEDS

pytestmark = NEEDS
KERNELS = (
    "nearest_face.nearest", "field.decode", "importance.importance", "importance.order", "composite.forward",
    "grid.forward", "bias_act.forward", "fir.filter",
)  # fmt: skip


def test_heads_are_drawn_and_learnt_from_on_the_device(ran):
    rows = ran("tests.fake_gpu.genhead")
    for name in ("view 64", "view 80", "gradient", "batch"):
        row = rows[name]
        missing = [kernel for kernel in KERNELS if kernel not in row["launched"]]
        assert not missing, (name, missing, sorted(row["launched"]))
        assert any(kernel.startswith("rasterize") for kernel in row["launched"])
        assert not row["copies"].get("device to host")
        counts = {"view 64": 2, "view 80": 4, "gradient": 2, "batch": 6}[
            name
        ]  # a number for each chunk of rays, read together
        assert row["waits"].get("_local_scalar_dense", 0) == counts
    assert rows["gradient"]["launched"]["composite.backward"] >= 1
    assert rows["view 80"]["peak_GB"] < 6, "rays are taken in chunks"


def test_a_step_of_its_own_training_runs_on_the_device(ran):
    rows = ran("tests.fake_gpu.genhead_training")
    assert list(rows) == ["load", "main", "density", "discriminator", "R1"]
    for name, kernels in (
        ("main", (*KERNELS, "composite.backward")),
        ("density", ("nearest_face.nearest", "field.decode", "bias_act.forward", "fir.filter")),
        ("discriminator", ("bias_act.forward", "fir.filter")),
        ("R1", ("bias_act.forward", "fir.filter")),
    ):
        missing = [kernel for kernel in kernels if kernel not in rows[name]["launched"]]
        assert not missing, (name, missing, sorted(rows[name]["launched"]))
        assert not rows[name]["copies"].get("device to host"), name
