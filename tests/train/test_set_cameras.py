"""From where heads are seen: every range by its numbers, the views of a set measured, and what a set says of itself."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train import little
from tests.train.painting import found_in
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import LookAtRange, sample_look_at
from triportrait.core.types import Camera
from triportrait.train.data.cameras import FILMED, NEAR_FRONT, PAPER, SET_CAMERAS, SetCameras, camera_preset_of
from triportrait.train.data.multiview import MultiviewSet, write_multiview
from triportrait.train.data.pictures import PictureSet, open_set
from triportrait.train.data.scene_sampling import cameras, filming_cameras
from triportrait.train.data.set_config import SetConfig
from triportrait.train.presets import PRESETS, STAGE_PRESETS
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages import static as stage1

TINY = SET_CAMERAS["tiny"]


def test_the_ranges_by_their_numbers():
    """Supplement A of the paper; where the demo's presets differ, their fields say it."""
    assert PAPER == LookAtRange() == LookAtRange(
        yaw=(-0.78, 0.78), pitch=(-0.25, 0.65), roll=(-0.25, 0.25), radius=(3.65, 4.45), pivot_x=(-0.03, 0.03),
        pivot_y=(-0.03, 0.03), pivot_z=(0.06, 0.12), elevation="asin",
    )  # fmt: skip
    assert dataclasses.replace(PAPER, yaw=(-0.5, 0.5), pitch=(-0.15, 0.35)) == NEAR_FRONT
    assert (
        dataclasses.replace(
            PAPER, yaw=(-0.3, 0.3), pitch=(-0.10, 0.22), roll=(-0.08, 0.08), radius=(3.9, 4.2), pivot_x=(-0.02, 0.02)
        )
        == FILMED
    )
    for name in ("paper", "published"):
        config = STAGE_PRESETS[name]()
        assert config.stage2.camera_p == config.stage2.camera_q == PAPER
        assert config.stage1.front_sources == config.stage2.front_sources == 0.0
        assert config.cast.cameras == SetCameras(PAPER, FILMED, False, {"paper": 0.0, "published": 0.5}[name])
    for config in (PRESETS["tiny"](), PRESETS["overfit"](), STAGE_PRESETS["tiny"]()):
        assert (config.stage2.camera_p, config.stage2.camera_q) == (NEAR_FRONT, PAPER)
        assert config.stage1.front_sources == config.motion.front_sources == config.stage2.front_sources == 0.7
        assert config.cast.cameras == TINY == SetCameras(first_filmed=True, filmed_share=0.0)


def angles(camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Yaw and pitch, radians, and distance [B] of cameras."""
    position = camera.world_from_camera[:, :3, 3]
    radius = position.norm(dim=-1)
    x, y, z = position.unbind(-1)
    return torch.atan2(-x, z), y / radius * math.pi / 2, radius


def fills(camera: Camera, wanted: LookAtRange) -> None:
    """Cameras reach to both ends of a range, never beyond, and their mean is its middle (4 standard errors)."""
    for value, (low, high) in zip(angles(camera), (wanted.yaw, wanted.pitch, wanted.radius), strict=True):
        span = high - low
        assert low - 1e-4 <= value.min() < low + 0.03 * span
        assert high - 0.03 * span < value.max() <= high + 1e-4
        assert abs(value.mean() - (low + high) / 2) < 4 * span / (12 * len(value)) ** 0.5


def view(camera: Camera, number: int, views: int = 3) -> Camera:
    return camera.take(torch.arange(number, len(camera.world_from_camera), views))


def test_the_paper_s_set_privileges_no_view():
    seen = cameras(5, 100, 10, 3, SET_CAMERAS["paper"])
    for number in range(3):
        fills(view(seen, number), PAPER)


def test_tiny_s_set_is_the_one_that_the_demo_was_trained_on():
    """The first view as filmed, the others the paper's, as every set before sets could be otherwise."""
    seen, paper = cameras(5, 100, 10, 3), cameras(5, 100, 10, 3, SET_CAMERAS["paper"])
    fills(view(seen, 0), FILMED)
    assert torch.equal(view(seen, 0).world_from_camera, filming_cameras(5, 1000).world_from_camera)
    for number in (1, 2):
        assert torch.equal(view(seen, number).world_from_camera, view(paper, number).world_from_camera)


def test_the_published_set_is_half_sampled_and_half_filmed():
    seen, paper = (cameras(5, 100, 10, 3, SET_CAMERAS[name]) for name in ("published", "paper"))
    filmed = (seen.world_from_camera != paper.world_from_camera).any(-1).any(-1)
    for number in range(3):
        share = filmed[number::3].float().mean().item()
        assert share == pytest.approx(0.5, abs=4 * 0.5 / 1000**0.5), "a coin for each view"
    fills(seen.take(filmed), FILMED)
    fills(seen.take(~filmed), PAPER)
    shorter = cameras(5, 40, 10, 3, SET_CAMERAS["published"])
    assert torch.equal(shorter.world_from_camera, seen.world_from_camera[: 40 * 30]), "a larger set begins with it"


def test_an_elevation_is_the_published_one_unless_it_is_the_angle_itself():
    for elevation, wanted in (("asin", (-9.2, 24.4)), ("angle", (-14.3, 37.2))):
        ranges = LookAtRange(elevation=elevation)  # type: ignore[arg-type]
        seen = sample_look_at(4000, torch.Generator().manual_seed(0), ranges).world_from_camera[:, :3, 3]
        degrees = torch.rad2deg((seen[:, 1] / seen.norm(dim=-1)).asin())
        assert (degrees.min().item(), degrees.max().item()) == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
@pytest.mark.parametrize("preset, share", [("paper", 1 / 3), ("published", 1 / 3), ("tiny", 0.7 + 0.3 / 3)])
def test_how_many_sources_are_the_first_view(stage, preset, share, little_cast):
    """1,500 draws by a preset from a set of three views: in the paper each view has a third, and so have targets."""
    config, rng = dataclasses.replace(getattr(STAGE_PRESETS[preset](), stage), batch=500), np.random.default_rng(2)
    counts = torch.zeros(2, 3)
    for _ in range(3):
        if stage == "stage1":
            batch = stage1.draw([little_cast], config, rng)
            pair = batch.source, batch.target
        else:
            drawn = stage2.draw(little_cast, config, rng)
            pair = drawn.source, drawn.driving
        counts += torch.stack([torch.bincount(found_in(little_cast, p)[1], minlength=3) for p in pair])
    error = 4 * (share * (1 - share) / 1500) ** 0.5
    assert counts[0, 0] / 1500 == pytest.approx(share, abs=error)
    assert counts[1] / 1500 == pytest.approx([1 / 3] * 3, abs=4 * (2 / 9 / 1500) ** 0.5), "targets come from all sides"
    assert counts[0, 1:] / 1500 == pytest.approx([(1 - share) / 2] * 2, abs=error)


def test_a_target_of_the_paper_is_another_picture_than_the_source(little_cast):
    """Published training renders a camera of its own for each; of three views the source's own is one in three."""
    for preset, same in (("paper", 0.0), ("published", 0.0), ("tiny", 1 / 3)):
        config = dataclasses.replace(STAGE_PRESETS[preset]().stage1, batch=600)
        batch = stage1.draw([little_cast], config, np.random.default_rng(4))
        source, target = (found_in(little_cast, pictures) for pictures in (batch.source, batch.target))
        assert torch.equal(source[0], target[0]), "the same head with the same face"
        assert (source[1] == target[1]).double().mean() == pytest.approx(same, abs=4 * (same * (1 - same) / 600) ** 0.5)
    with pytest.raises(
        InputError, match=r"stage1\.views: expected up to 1, as one view of cast\.views=2 is the source"
    ):
        little.config(stage1=dataclasses.replace(little.config().stage1, own_view=False, views=2))
    both = stage1.draw([little_cast], dataclasses.replace(config, own_view=False, views=3), np.random.default_rng(4))
    assert len(both.target.image) == 2 * 600, "all the others, and no more than there are"


def write(folder: Path, habit: str) -> Path:
    write_multiview(folder, 3, 1, 2, 3, 64, 1, seen_from=SET_CAMERAS[habit])  # type: ignore[index]
    return folder


@pytest.mark.parametrize("habit", SET_CAMERAS)
def test_a_set_says_from_where_it_was_seen(habit, tmp_path):
    stored = MultiviewSet(write(tmp_path / "set", habit))
    assert stored.cameras == SET_CAMERAS[habit]
    assert camera_preset_of(stored.cameras) == habit
    own = np.concatenate([stored.head(0)["world_from_camera"].reshape(-1, 4, 4)])
    assert np.array_equal(own, cameras(3, 1, 2, 3, stored.cameras).world_from_camera.numpy())


def change_index(folder: Path, **changes: object) -> Path:
    index = json.loads((folder / "index.json").read_text())
    kept = {name: value for name, value in (index | changes).items() if value is not None}
    (folder / "index.json").write_text(json.dumps(kept))
    return folder


def test_a_set_of_before_is_one_of_tiny_s(tmp_path, little_folder):
    old = change_index(Path(shutil.copytree(little_folder, tmp_path / "old")), cameras=None)
    assert MultiviewSet(old).cameras == TINY
    assert len(open_set(old, little.CAST, little.model(), necks=False)) == 12, "and goes on as such"
    with pytest.raises(InputError, match="expected a set with cameras"):
        open_set(old, dataclasses.replace(little.CAST, cameras=SET_CAMERAS["paper"]), little.model(), necks=False)


@pytest.mark.parametrize(
    "cameras",
    [3, {}, [], {"sampled": 3}, {"sampled": {"yaw": [0, 1]}, "filmed": 1, "first_filmed": True, "filmed_share": 0}],
)
def test_cameras_that_are_none_are_refused(cameras, tmp_path, little_folder):
    spoilt = change_index(Path(shutil.copytree(little_folder, tmp_path / "spoilt")), cameras=cameras)
    with pytest.raises(InputError, match="expected ranges as cameras in its index, got others; make the folder again"):
        MultiviewSet(spoilt)


@pytest.mark.parametrize("change", [{"yaw": [1.0, 0.0]}, {"pitch": ["x", 1]}, {"radius": [-1, 1]}, {"elevation": "no"}])
def test_ranges_that_are_none_are_refused(change, tmp_path, little_folder):
    spoilt = Path(shutil.copytree(little_folder, tmp_path / "spoilt"))
    own = json.loads((spoilt / "index.json").read_text())["cameras"]
    change_index(spoilt, cameras=own | {"sampled": own["sampled"] | change})
    with pytest.raises(InputError, match=rf"cameras\.sampled\.{next(iter(change))}: expected "):
        MultiviewSet(spoilt)


def test_a_preset_with_a_range_that_is_none_is_refused():
    with pytest.raises(InputError, match=r"stage2\.camera_p\.yaw: expected two numbers, the smaller first"):
        little.config(stage2=dataclasses.replace(little.config().stage2, camera_p=LookAtRange(yaw=(1.0, -1.0))))
    with pytest.raises(InputError, match=r"stage1\.front_sources: expected 0, as no view of the set is near the front"):
        little.config(cast=SetConfig(size=64, expressions=3, views=2, cameras=SET_CAMERAS["paper"]))


@pytest.fixture
def little_preset(monkeypatch):
    """`tiny` is the smallest training here, without an adversary."""
    monkeypatch.setitem(STAGE_PRESETS, "tiny", little.config)


def train(data: Path, out: Path, *more: object) -> int:
    words = ["--data", data, "--out", out, "--images", 4, "--precision", "fp32", *more]
    return cli.main(["train", "stage1", *map(str, words)])


def test_stage_1_takes_sets_of_its_preset_s_cameras_or_of_those_that_are_named(little_preset, tmp_path, capsys):
    made = tmp_path / "paper"
    numbers = ["--count", "1", "--expressions", "3", "--views", "2", "--size", "64", "--antialias", "1"]
    assert cli.main(["prepare", "heads", "--out", str(made), "--cameras", "paper", *numbers]) == 0
    assert "all views yaw -0.78 to 0.78, pitch -0.25 to 0.65 (elevation -9.2 to 24.4 deg)" in capsys.readouterr().err
    assert train(made, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert (
        f"{made}: expected a set that is seen from tiny's cameras (the first view of each expression yaw -0.3" in said
    )
    assert "prepare heads --cameras tiny`, or say --cameras paper to train on this one" in said
    assert train(made, tmp_path / "run", "--cameras", "paper", "--front-sources", 0.5) == 2
    assert "stage1.front_sources: expected 0, as no view of the set is near the front" in capsys.readouterr().err
    assert train(made, tmp_path / "run", "--cameras", "paper") == 0
    told = json.loads((tmp_path / "run/config.json").read_text())
    assert told["cast"]["cameras"]["first_filmed"] is False
    assert told["stage1"]["front_sources"] == 0
    assert told["cast"]["cameras"]["sampled"]["yaw"] == [-0.78, 0.78]
    again = train(made, tmp_path / "run", "--cameras", "paper", "--images", 8)
    assert again == 2
    assert "begun with stage1.images 4, now it is 8" in capsys.readouterr().err


def test_ranges_are_compared_when_a_run_goes_on(little_preset, tmp_path, capsys, little_folder, monkeypatch):
    from tests.train import trained

    trained.write(tmp_path / "moving")
    trained.write_static(tmp_path / "static")
    given = ["--data", little_folder, "--out", tmp_path / "run", "--static", tmp_path / "static", "--images", 2]
    words = ["train", "stage2", *map(str, [*given, "--motion", tmp_path / "moving", "--precision", "fp32"])]
    assert cli.main(words) == 0
    told = json.loads((tmp_path / "run/config.json").read_text())["stage2"]
    assert told["camera_p"]["yaw"] == [-0.5, 0.5]
    assert told["camera_q"]["yaw"] == [-0.78, 0.78]
    capsys.readouterr()
    assert cli.main([*words, "--theta-p", "paper"]) == 2
    assert "this run was begun with stage2.camera_p.pitch [-0.15, 0.35], now it is [-0.25, 0.65]" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "stage, preset, said",
    [
        (
            "stage1",
            "paper",
            "views: all views yaw -0.78 to 0.78, pitch -0.25 to 0.65 (elevation -9.2 to 24.4",
        ),
        ("stage1", "published", "views: 50% of the views the cameras of the tables, the others yaw -0.78 to 0.78"),
        ("stage1", "tiny", "sources: of a set 70% the first view, the others any alike"),
        ("stage2", "paper", "θ_p: yaw -0.78 to 0.78, pitch -0.25 to 0.65"),
        ("stage2", "tiny", "θ_p: yaw -0.5 to 0.5, pitch -0.15 to 0.35"),
        ("stage2", "tiny", "sources: of a set 70% the first view, the others any alike; of clips any frame alike"),
        ("stage2", "tiny", "θ_q: yaw -0.78 to 0.78, pitch -0.25 to 0.65"),
    ],
)
def test_the_schedule_shows_the_cameras(stage, preset, said, capsys):
    assert cli.main(["train", stage, "--preset", preset, "--show-schedule"]) == 0
    assert said in capsys.readouterr().out


def test_a_set_of_the_paper_s_cameras_is_drawn_from(tmp_path):
    """From the maker to the batch: no source of the preset paper is nearer to the front for its place."""
    model = little.model()
    wanted = dataclasses.replace(little.CAST, count=2, cameras=SET_CAMERAS["paper"])
    drawn_from: PictureSet = open_set(tmp_path / "cast", wanted, model, necks=False)
    config = dataclasses.replace(STAGE_PRESETS["paper"]().stage1, batch=300)
    batch = stage1.draw([drawn_from], config, np.random.default_rng(0))
    assert {int(v) for v in found_in(drawn_from, batch.source)[1]} == {0, 1, 2}
    yaw = angles(batch.source.camera)[0].abs()
    assert yaw.max() > FILMED.yaw[1], "36 cameras of the whole range"
