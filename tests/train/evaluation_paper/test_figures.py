"""The figures `self` and `views`: which pictures, what they measure, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train import little, trained
from triportrait import cli
from triportrait.core.render.cameras import fixed_camera
from triportrait.train.evaluation.image_metrics import psnr
from triportrait.train.evaluation.methods import Prediction
from triportrait.train.evaluation.motion_response import face_mask
from triportrait.train.evaluation.paper.figures import COLUMNS, GROUPS, self_block, views_block
from triportrait.train.evaluation.protocol import Group, Sitter, unseen

GROUP = Group("cast", 3, 2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("figures") / "weights"
    trained.write_static(folder.with_name("static"))
    return trained.write(folder)


def run(*words: object) -> int:
    return cli.main(["evaluate", "figure", *map(str, words)])


class Answers:
    """A method that paints one grey and notes what it was asked."""

    def __init__(self, grey: float) -> None:
        self.grey, self.asked = grey, []

    def __call__(self, source, driving, cameras):
        self.asked.append((source, driving, list(cameras)))
        return [Prediction(torch.full_like(source.image, self.grey)) for _ in cameras]


def test_self_drives_each_head_by_itself_and_measures_both_networks():
    static, dynamic, drawn = Answers(0.5), Answers(-0.5), []
    block = self_block("w", GROUP, little.model(), static, dynamic, lambda: drawn.append(1))
    assert len(block.rows) == len(drawn) == 2
    values = {name: [] for name in ("static", "dynamic")}
    for method, name in ((static, "static"), (dynamic, "dynamic")):
        for head, (source, driving, cameras) in enumerate(method.asked):
            assert source is driving and len(cameras) == 3
            face, camera = unseen(GROUP.seed, head)
            truth = Sitter.of(GROUP.seed, head).photograph(face, camera, little.model())
            assert torch.equal(source.image, truth.image)
            values[name].append(psnr(torch.full_like(truth.image, method.grey), truth.image, face_mask(truth)))
    for name in values:
        assert block.means[name] == pytest.approx(torch.cat(values[name]).mean().item(), abs=1e-4)
    assert block.of_columns[0] is block.of_columns[3] is block.of_columns[6] is None, "the truth has no error"
    sides = block.of_columns[4], block.of_columns[7]
    assert sum(sides) / 2 == pytest.approx(block.means["static from the sides"], abs=1e-4)
    assert block.of_columns[2] == pytest.approx(block.means["dynamic"])
    pictures = block.rows[0][1]
    assert len(pictures) == len(COLUMNS["self"]) == sum(count for _, count in GROUPS["self"]) == 9
    greys = [None if p.std() > 0.01 else round(p.mean().item(), 2) for p in pictures]
    assert greys == [None, 0.5, -0.5] * 3, "truth, static, dynamic, as the columns say"
    assert len({p.sum().item() for p in pictures[0::3]}) == 3, "three views of the truth"


def test_views_shows_one_face_made_by_two_heads_from_the_front():
    dynamic = Answers(0.0)
    block = views_block("w", Group("cast", 3, 1), little.model(), dynamic, lambda: None)
    (source, one, cameras), (again, other, more) = dynamic.asked
    assert source is again
    for (camera,) in (cameras, more):
        assert torch.equal(camera.world_from_camera, fixed_camera().world_from_camera)
    assert torch.equal(one.motion, other.motion) and one.motion.abs().max() > 0.1, "one face"
    assert not torch.equal(one.camera.world_from_camera, other.camera.world_from_camera)
    assert one.neck is other.neck is not None and not torch.equal(one.image, other.image)
    assert block.means["between the two results"] == pytest.approx(100.0), "the same grey"
    pictures = block.rows[0][1]
    assert len(pictures) == len(COLUMNS["views"]) == sum(count for _, count in GROUPS["views"]) == 7
    assert [value is None for value in block.of_columns] == [True, True, False, True, False, False, True]
    assert block.of_columns[5] == pytest.approx(100.0)
    assert pictures[5].eq(-1).all(), "no difference is black"


def test_the_difference_of_two_results_is_shown_and_measured():
    class Moves(Answers):
        def __call__(self, source, driving, cameras):
            self.grey += 0.1
            return super().__call__(source, driving, cameras)

    block = views_block("w", Group("cast", 3, 1), little.model(), Moves(0.0), lambda: None)
    assert block.rows[0][1][5].mean().item() == pytest.approx(4 * 0.1 - 1)
    assert block.means["between the two results"] == pytest.approx(-20 * np.log10(0.05), abs=1e-3)
    assert block.headline().startswith("w · inside the face: to the truth ")
    assert block.headline().endswith("between the two results 26.0 dB")


def test_the_command_draws_both(weights, tmp_path, capsys):
    assert run("self", weights, "--static", weights.with_name("static"), "--heads", 1, "--out", tmp_path / "s.png") == 0
    assert run("views", weights, weights, "--heads", 1, "--out", tmp_path / "v.png") == 0
    lines = capsys.readouterr().out.splitlines()
    names = [f"{weights} beside static {weights.with_name('static')}", weights, weights]
    assert [line.partition(" · ")[0] for line in lines] == [
        f"{name}, heads that training {word}" for name in names for word in ("saw", "never saw")
    ]
    one, two = (Image.open(tmp_path / name).size for name in ("s.png", "v.png"))
    assert one[0] > 9 * 128 and two[0] > 7 * 128, "64 px are shown at twice their size"
    assert two[1] > 4 * 128


BAD = {
    "no static": (["self"], "--static: expected the weights of a static synthesizer"),
    "a static": (["views", "--static", "x"], "--static: expected nothing for the figure views"),
    "no heads": (["views", "--heads", "0"], "--heads: expected 1 to 12, got 0"),
    "many heads": (["views", "--heads", "13"], "--heads: expected 1 to 12, got 13"),
    "an ending": (["views", "--out", "x.jpg"], "the ending .png is wanted"),
    "another figure": (["sides"], "expected one of self, views, got 'sides'"),
    "nowhere": (["views", "nowhere"], "nowhere: no such weights folder"),
    "many weights": (["views", *["demo"] * 9], "WEIGHTS: expected 1 to 8 folders, got 9"),
    "other sizes": (["views", "demo", "WEIGHTS"], "expected a network of 128 px as demo, got 64 px"),
}


def test_the_network_of_the_other_stage_is_refused(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noted = {"network": "static synthesizer", "cast": trained.CAST}
    static = trained.write_static(tmp_path / "of_stage_1", noted=noted)
    dynamic = trained.write(tmp_path / "of_stage_2", {"network": "reenactment", "cast": trained.CAST})
    shown = "expected a reenactment network (stage 2), got a static synthesizer (stage 1); name what stage 2 made"
    wanted = "expected a static synthesizer (stage 1), got a reenactment network (stage 2); name RUN/static"
    for words, said in (
        (["self", static, "--static", static], shown),
        (["views", static], shown),
        (["self", dynamic, "--static", dynamic], wanted),
        (["self", "demo", "--static", "demo"], f"--static demo: {wanted}"),
    ):
        assert run(*words, "--out", "x.png") == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and said in lines[0], lines
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_any_work(case, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("triportrait.train.jobs.evaluate_figure.Figure._blocks", lambda *_: pytest.fail("drawn"))
    words, said = BAD[case]
    assert run(*(weights if word == "WEIGHTS" else word for word in words)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0], lines
    assert list(tmp_path.iterdir()) == []
