"""`triportrait evaluate`: gates, tables, sheets, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train import little, trained
from triportrait import cli
from triportrait.core.checkpoint import load_portrait
from triportrait.core.errors import InputError
from triportrait.core.geometry import density
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.train.evaluation import methods, seen_surfaces
from triportrait.train.evaluation.geometry_measure import TRUTH_MEASURES, VIEW_MEASURES
from triportrait.train.evaluation.geometry_scene import MEAN_HEAD, STANDING, TRUTH, GeometrySpec
from triportrait.train.evaluation.measure import ANOTHER_HEAD, SAME_HEAD, GroupResult, Task, measure
from triportrait.train.evaluation.methods import OURS, SOURCE_EXPRESSION, STATIC
from triportrait.train.evaluation.protocol import CASES, CROSS, NEW_VIEWS, SELF, Group, Plan, SceneSpec, groups
from triportrait.train.evaluation.table import HEADINGS, Gate, gates, markdown
from triportrait.train.jobs import evaluate
from triportrait.train.runs.weights import Cast, open_trained

KNOWN = Cast(3, 2)
GROUP = Group("cast", 3, 2)


# tables


def numbers(ours: float, copy: float, jaw: tuple[float, float]) -> GroupResult:
    def cases(value: float) -> dict[str, dict[str, float | None]]:
        found: dict[str, dict[str, float | None]] = {
            case: dict.fromkeys(HEADINGS, 22.0) | {"depth error": 0.0123} for case in CASES
        }
        found[SELF] |= {"psnr": value, "ssim": 0.12345}
        found[CROSS] |= {"psnr face": value}
        return found

    answers = {axis: dict(zip(("correlation", "gain"), jaw, strict=True)) for axis in ("jaw", "blink")}
    found = {"ours": cases(ours), STATIC: cases(copy)}
    return GroupResult(GROUP, found, {"ours": 31.257}, {SAME_HEAD: answers, ANOTHER_HEAD: answers}, [], [])


def strangers(whole: float, face: float, jaw: tuple[float, float]) -> GroupResult:
    found = numbers(whole, 21, jaw)
    found.pictures[OURS][SELF]["psnr face"] = face
    return found


@pytest.mark.parametrize(
    "cast, met",
    [
        (numbers(25, 21, (0.7, 0.6)), [True] * 10),
        (numbers(23.9, 21, (0.6, 0.5)), [False, False] + [True] * 8),
        (numbers(24, 21, (0.59, 0.5)), [True, True] + [False, True] * 4),
        (numbers(24, 21, (0.6, 0.49)), [True, True] + [True, False] * 4),
    ],
)
@pytest.mark.parametrize(
    "held_out, also_met",
    [
        (strangers(21, 18, (0.6, 0.5)), [True] * 10),
        (strangers(20.9, 18, (0.59, 0.5)), [False, True] + [False, True] * 4),
        (strangers(21, 17.9, (0.6, 0.49)), [True, False] + [True, False] * 4),
    ],
)
def test_gates(cast, met, held_out, also_met):
    lines = gates(cast, held_out)
    assert [gate.met for gate in lines] == met + also_met
    assert all("held-out heads" in gate.name for gate in lines[-10:])
    assert len({gate.name for gate in lines}) == len(lines)
    for gate in lines:
        assert gate.line().startswith("met: " if gate.met else "missed: ")
        assert gate.to_dict()["met"] == gate.met
        assert gate.value is not None
        assert f" {gate.value:.2f}" in gate.line()
    assert "not measured" in Gate("x", 1, None).line()
    assert not Gate("x", 1, None).met


def test_a_baseline_that_is_missing_is_a_gate_that_is_not_passed():
    found = numbers(25, 21, (0.7, 0.6))
    found.pictures["copies"] = found.pictures.pop(STATIC)
    lines = {gate.name: gate for gate in gates(found, strangers(21, 18, (0.6, 0.5)))}
    gate = lines["PSNR inside the face, driven by another head, over 'static synthesizer'"]
    assert gate.value is None
    assert not gate.met
    assert len(lines) == 21
    assert "not measured, wanted 3 dB or more" in gate.line()


def test_the_table_says_the_numbers():
    found = numbers(25.126, 21, (0.7, -0.001))
    found.pictures["copies"] = found.pictures.pop(STATIC)
    found.pictures["copies"][SELF]["iou"] = None
    table = markdown([found], ["a note"])
    assert "**cast**, 2 heads of seed 3" in table
    assert table.endswith("a note\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert ["", "", "PSNR", "PSNR face", "SSIM", "SSIM face", "sharpness face", "opacity IoU", "depth error"] in rows
    assert ["self", "ours", "25.13", "22.00", "0.123", "22.000", "22.000", "22.000", "12.3"] in rows
    assert ["", "copies", "21.00", "22.00", "0.123", "22.000", "22.000", "–", "12.3"] in rows
    assert ["cross", "ours", "22.00", "25.13", "22.000", "22.000", "22.000", "22.000", "12.3"] in rows
    assert ["jaw", "0.70 / 0.00", "0.70 / 0.00"] in rows
    assert "driven by 4 heads that make the same face: 31.26 dB" in table


# the command


def run(weights: Path, out: Path, *options: str) -> int:
    heads = ("--heads", "1", "--axes-heads", "1", "--geometry-heads", "0")
    return cli.main(["evaluate", str(weights), "--out", str(out), *heads, *options])


@pytest.fixture(scope="module")
def done(weights, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("done") / "evaluation"
    assert run(weights, out, "--static", str(weights.with_name("static"))) == 0
    return out


def test_the_command_writes_tables_and_sheets(done):
    assert sorted(p.name for p in done.iterdir()) == ["axes.png", "index.json", "metrics.json", "sheet.png", "table.md"]
    found = json.loads((done / "metrics.json").read_text())
    assert found["provenance"] == {"made by": "a test", "cast": trained.CAST}
    assert found["cast"] == trained.CAST
    assert found["protocol"]["heads"] == 1
    assert [g["group"]["name"] for g in found["groups"]] == ["cast", "held out"]
    assert found["sha256"].keys() == {"motion.safetensors", "portrait.safetensors"}
    table = (done / "table.md").read_text()
    for group in found["groups"]:
        assert list(group["pictures"]) == [OURS, "copies the source", SOURCE_EXPRESSION, STATIC]
        for cases in group["pictures"].values():
            assert all(f"{cases[case]['psnr']:.2f}" in table for case in CASES)
        assert list(group["response"]["another head"]) == list(group["response"]["same head"])
    assert len(found["gates"]) == 1 + 3 + 8 + 2 + 8
    sheet, axes = (np.asarray(Image.open(done / name)) for name in ("sheet.png", "axes.png"))
    assert sheet.shape[1] > 8 * 128 and axes.shape[1] > 8 * 128, "64 px are shown at twice their size"


def only_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure surfaces alone, on few nodes and points; the other figures are made up."""

    def measured(work: Sequence[Task], *_: Any, **__: Any) -> list[GroupResult]:
        shapes = measure([task for task in work if isinstance(task.spec, GeometrySpec)])
        made_up = numbers(25, 21, (0.7, 0.6))
        known = [replace(made_up, group=g, geometry_heads=0) for g in groups(KNOWN, Plan(heads=1))]
        return [
            replace(one, geometry=s.geometry, geometry_heads=s.geometry_heads, surfaces=s.surfaces)
            for one, s in zip(known, shapes or known, strict=True)
        ]

    monkeypatch.setattr(methods, "GRID_NODES", 24)
    monkeypatch.setattr(density, "LEVEL_RAYS", 16)
    monkeypatch.setattr(seen_surfaces, "POINTS", 2_000)
    monkeypatch.setattr(evaluate, "measure", measured)
    for name in ("write_pictures_sheet", "write_axes_sheet"):
        monkeypatch.setattr(evaluate, name, lambda *_: None)


def test_geometry_stands_in_tables_and_numbers(weights, tmp_path, monkeypatch):
    only_geometry(monkeypatch)
    out = tmp_path / "out"
    assert run(weights, out, "--geometry-heads", "1", "--static", str(weights.with_name("static"))) == 0
    found, table = json.loads((out / "metrics.json").read_text()), (out / "table.md").read_text()
    assert found["protocol"]["geometry_heads"] == 1
    for group in found["groups"]:
        shapes = group["geometry"]
        assert list(shapes)[:3] == [OURS, SOURCE_EXPRESSION, STATIC], "what copies a picture has no surface"
        for measure_of in TRUTH_MEASURES:
            for name in (OURS, MEAN_HEAD, TRUTH):
                assert shapes[name][measure_of.name] is not None, (name, measure_of.name)
        assert all(shapes[STANDING][each.name] is not None for each in VIEW_MEASURES)
        assert shapes[TRUTH]["chamfer_mm"] < 0.1 < 1 < shapes[MEAN_HEAD]["chamfer_mm"]
        title = f"**{group['group']['name']}**, 1 head: the surface against the truth"
        rows = [line.strip("|").split("|") for line in table[table.index(title) :].splitlines()[2:]]
        assert len(rows[0]) == 1 + len(TRUTH_MEASURES)
        cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[2:10] if len(row) > 1}
        assert cells[MEAN_HEAD][2] == f"{shapes[MEAN_HEAD]['chamfer_mm']:.2f}"
        assert cells[STANDING][2] == "–"
    assert "**held out**, 1 head: views against each other" in table
    sheet = np.asarray(Image.open(out / "geometry.png"))
    assert sheet.shape[1] > 11 * 128
    assert len(np.unique(sheet[50:, -140:].reshape(-1, 3), axis=0)) > 100, "distances are in colours"


def test_geometry_can_be_left_out(weights, tmp_path, monkeypatch):
    only_geometry(monkeypatch)
    assert run(weights, tmp_path / "out") == 0
    assert "surface against the truth" not in (tmp_path / "out" / "table.md").read_text()
    assert not (tmp_path / "out" / "geometry.png").exists()


def test_geometry_asks_for_its_packages_before_any_work(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "fault", lambda name: "is not installed")
    monkeypatch.setattr(evaluate, "measure", lambda *_: pytest.fail("measured"))
    assert run(weights, tmp_path / "out", "--geometry-heads", "1") == 2
    said = capsys.readouterr().err.strip()
    assert "surfaces need the package scipy, it is not installed; `pip install" in said
    assert said.endswith("or leave them out by --geometry-heads 0")
    assert not list(tmp_path.iterdir())


def test_the_sheet_shows_the_pictures_of_each_group_pixel_by_pixel(done):
    sheet = np.asarray(Image.open(done / "sheet.png")).astype(int)
    for group in groups(KNOWN, Plan(heads=1)):
        shown = SceneSpec(group, 0, 0, little.model()).render()
        drives, view = shown.shots[1].driving, shown.shots[1].truths[NEW_VIEWS][1]
        for column, pictures in ((0, shown.source), (1, drives), (7, view)):
            wanted = ((pictures.image[0].permute(1, 2, 0) + 1) * 127.5).round().numpy().repeat(2, 0).repeat(2, 1)
            left = 12 + column * 132
            block = sheet[:, left : left + 128]
            tops = [top for top in range(len(sheet) - 127) if np.abs(block[top : top + 128] - wanted).max() <= 1]
            assert len(tops) == 1, (group.name, column)


def test_the_same_again_gives_the_same(weights, done, tmp_path, capsys):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run(weights, tmp_path / "again", "--static", str(weights.with_name("static"))) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for name in ("metrics.json", "table.md", "sheet.png", "axes.png"):
        assert (tmp_path / "again" / name).read_bytes() == (done / name).read_bytes(), name
    said = capsys.readouterr().out
    assert said.startswith((done / "table.md").read_text())
    gated = [line for line in said.splitlines() if line.startswith(("met: ", "missed: "))]
    assert len(gated) == 22
    assert said.strip().endswith(gated[-1])


def test_an_evaluation_is_replaced_when_told_and_nothing_else_is(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("triportrait.train.jobs.evaluate.measure", lambda *_: pytest.fail("measured"))
    out = tmp_path / "evaluation"
    out.mkdir()
    (out / "thesis.txt").write_text("years")
    assert run(weights, out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(weights, out, "--overwrite") == 2
    assert "no index.json" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation"]


def test_nothing_is_left_when_it_is_interrupted(weights, tmp_path, monkeypatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("triportrait.train.jobs.evaluate.measure", interrupted)
    assert run(weights, tmp_path / "out") == 130
    assert list(tmp_path.iterdir()) == []


BAD = {
    "no heads": (["--heads", "0"], "--heads: expected a whole number from 1 to 1000, got 0"),
    "no axes": (["--axes-heads", "0"], "--axes-heads: expected a whole number from 1 to 1000, got 0"),
    "no geometry": (["--geometry-heads", "-1"], "--geometry-heads: expected a whole number from 0 to 1000, got -1"),
    "seed": (["--seed", "-1"], "--seed: expected a whole number from 0 to 9999, got -1"),
    "cast": (["--cast-count", "0"], "count: expected 1 to"),
    "no static": (["--static", "nowhere"], "nowhere: no such weights folder"),
    "no place": (["--out", f"{__file__}/out"], "is a file, and no folder can be made in it"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_any_work(case, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("triportrait.train.jobs.evaluate.measure", lambda *_: pytest.fail("measured"))
    options, said = BAD[case]
    assert cli.main(["evaluate", str(weights), *options]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert said in lines[0], lines
    assert list(tmp_path.iterdir()) == []


def test_a_static_network_of_other_sizes_is_refused(weights, tmp_path, capsys, monkeypatch):
    from triportrait.core.checkpoint import save_weights
    from triportrait.core.config import tiny
    from triportrait.core.portrait import Portrait4D

    save_weights(tmp_path / "static", "portrait", Portrait4D(tiny()).state_dict(), tiny(), {})
    assert run(weights, tmp_path / "out", "--static", str(tmp_path / "static")) == 2
    assert "expected a network of the sizes of" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["static"]


def test_the_reenactment_network_is_no_static_synthesizer(weights, tmp_path, capsys):
    same = trained.write(tmp_path / "same", {"network": "reenactment"})
    assert run(weights, tmp_path / "out", "--static", str(same)) == 2
    said = capsys.readouterr().err
    assert f"--static {same}: expected a static synthesizer (stage 1), got a reenactment network (stage 2)" in said
    assert "name RUN/static of its training" in said


def test_the_folder_of_a_run_is_not_that_of_its_weights(weights, tmp_path, capsys):
    assert run(weights.parent, tmp_path / "out") == 2
    assert f"{weights.parent}: this is the folder of a run; name {weights}" in capsys.readouterr().err


@pytest.mark.parametrize("noted", [{}, {"cast": 3}, {"cast": {"seed": "0", "count": 4}}, {"cast": {"seed": 0}}])
def test_a_card_that_names_no_cast_asks_for_it(noted, tmp_path, capsys):
    folder = trained.write(tmp_path / "w", noted)
    assert cli.main(["evaluate", str(folder), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "expected on its card the cast that it was trained on" in said
    assert "--cast-seed and --cast-count" in said
    assert open_trained(str(folder), 5, 6).cast == Cast(5, 6)


def test_what_is_asked_for_wins_over_the_card(weights):
    assert open_trained(str(weights)).cast == KNOWN
    assert open_trained(str(weights), cast_count=1).cast == Cast(3, 1)
    assert open_trained(str(weights)).provenance["made by"] == "a test"


def test_an_encoder_of_photographs_is_refused(weights, monkeypatch):
    with torch.device("meta"):
        encoder = PDFGC()
    monkeypatch.setattr("triportrait.train.runs.weights.load_pair", lambda folder: (load_portrait(folder), encoder))
    with pytest.raises(InputError, match="a motion encoder for photographs, which knows no procedural heads"):
        open_trained(str(weights))
