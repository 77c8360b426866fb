"""Every number of the paper's sections 3 to 5 and supplement A that training or evaluation takes: its value and home.

A name begins with the section; `code` marks what the published code says where the paper does not. Where the preset
paper is otherwise, docs/train/deviations.md says so. Tables 1 to 3 are compared in
`evaluation_paper/test_published.py`, the rows of Table 3 as trainings in `test_ablations.py`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from triportrait.core.config import genhead_ffhq512
from triportrait.core.types import PUBLISHED_FOCAL
from triportrait.train.ablations import ALL_CLIPS, TABLE, WHOLE
from triportrait.train.config import REAL_DRIVING, REAL_TARGET, LossConfig, StageConfig
from triportrait.train.data.cameras import PAPER, SET_CAMERAS
from triportrait.train.data.generated.draws import GeneratedConfig
from triportrait.train.engines.schedule import ema_decay_at
from triportrait.train.evaluation.paper.published import TableName, cost, user_study
from triportrait.train.evaluation.protocols.presets import DRIVERS, PRESETS, PresetName
from triportrait.train.generated_data import drawn_as
from triportrait.train.jobs.prepare import Clips
from triportrait.train.objectives.losses import DENSITY_POINTS, DENSITY_STEP
from triportrait.train.portrait4d_presets import paper_portrait4d
from triportrait.train.presets import STAGE_PRESETS

WHOLE_PAPER, CODE = STAGE_PRESETS["paper"](), STAGE_PRESETS["published"]()
MODEL, ONE, TWO = WHOLE_PAPER.model, WHOLE_PAPER.stage1, WHOLE_PAPER.stage2
DYNAMIC_STAGE: Any = paper_portrait4d().portrait4d
ADAM = ("lr", "betas", "eps")
PAIRS = ("raw", "raw_perceptual", "foreground", "background")
DOCS = Path(__file__).parents[2] / "docs"

NUMBERS: dict[str, tuple[Any, Callable[[], Any]]] = {
    # the network
    "3.1 side of pictures, px": (512, lambda: MODEL.image_size),
    "3.1 planes: side, channels of each": ((256, 32), lambda: (MODEL.render.plane_size, MODEL.render.plane_width)),
    "3.1 neutral and motion blocks": (
        (4, 4), lambda: (MODEL.transformer.num_neutral_blocks, MODEL.transformer.num_motion_blocks),
    ),
    "3.1 numbers of a motion: eyes 6, emotion 30, mouth 512": (548, lambda: MODEL.transformer.motion_width),
    "3.1 coarse and fine samples of a ray": ((48, 48), lambda: (MODEL.render.num_coarse, MODEL.render.num_fine)),
    "3.1 side of the ray grid": (128, lambda: MODEL.render.neural_size),
    "3.1 side of the volume, scene units": (1.3, lambda: MODEL.render.box_side),
    # stage 1
    "4.2 images of stage 1": (10_000_000, lambda: ONE.images),
    "4.2 weights of L1 and LPIPS": ((1.0, 1.0), lambda: (ONE.losses.l1, ONE.losses.perceptual)),
    "4.2 weight of the identity term": (1.0, lambda: ONE.losses.identity),
    "4.2 weight of the adversarial term": (0.01, lambda: ONE.losses.adversarial),
    "4.2 weight of depth": (1.0, lambda: ONE.losses.depth),
    "4.2 weight of opacity": (0.3, lambda: ONE.losses.opacity),
    "4.2 weight of the planes, L_T": (0.1, lambda: ONE.losses.distill_planes),
    "code points of L_T": (4_000, lambda: GeneratedConfig.points),
    "A depth and L_T count until": (1_000_000, lambda: ONE.schedule.distill_until),
    "code depth, features and L_T count until": (400_000, lambda: CODE.stage1.schedule.distill_until),
    "code weight of the feature images, until then": (1.0, lambda: CODE.stage1.losses.distill_feature),
    "code weights of the other three pairs, L1 and LPIPS": (
        [(1.0,) * 4] * 2, lambda: [_of(own.losses, PAIRS) for own in (ONE, TWO)],
    ),
    "code identity term from": ([400_000] * 2, lambda: [own.schedule.identity_from for own in (ONE, CODE.stage1)]),
    "code images of stage 1": (15_000_000, lambda: CODE.stage1.images),
    "code renderer is never frozen": (0, lambda: CODE.stage1.schedule.renderer_frozen_until),
    "code side of GenHead's rays": (64, lambda: genhead_ffhq512().ray_size),
    "code truncation of the generated heads": (0.95, lambda: GeneratedConfig.truncation),
    "code jaws of another angle: share, range": ((0.5, (0.0, 0.2)),
                                                 lambda: (GeneratedConfig.opened_jaws, GeneratedConfig.jaw)),
    "code views from sampled cameras, all in the paper": (
        (0.5, 1.0), lambda: tuple(drawn_as(own.cast.cameras, 1.0).sampled_cameras for own in (CODE, WHOLE_PAPER)),
    ),
    "A renderer is frozen until": (1_000_000, lambda: ONE.schedule.renderer_frozen_until),
    "A adversarial term from": (1_000_000, lambda: ONE.schedule.adversarial_from),
    "A ray grid grows": ((64, 1_000_000, 2_000_000),
                         lambda: (ONE.schedule.neural_size_from, *ONE.schedule.neural_size_grows)),
    "code density: weight, steps between, points": (
        (0.25, 16, 1_000), lambda: (ONE.losses.density, ONE.schedule.density_every, DENSITY_POINTS),
    ),
    "code density: deviation, share of the box": (0.004, lambda: DENSITY_STEP / 2),  # planes reach from -1 to 1
    # stage 2
    "4.3 images of stage 2": (6_000_000, lambda: TWO.images),
    "4.3 share of real driving frames, I_d for θ_p": (0.1, lambda: TWO.real_driving),
    "4.3 share of real targets, I_d for θ_q": (0.8, lambda: TWO.real_target),
    "4.3 rate of the layers that read motion": (2.5, lambda: TWO.optimizer.motion_lr_factor),
    "4.3 weights of Eq. 5": (
        (1.0, 1.0, 1.0, 0.01),
        lambda: (TWO.losses.l1, TWO.losses.perceptual, TWO.losses.identity, TWO.losses.adversarial),
    ),
    "4.3 ray grid does not grow": ((0, (0, 0)),
                                   lambda: (TWO.schedule.neural_size_from, TWO.schedule.neural_size_grows)),
    # the teacher of row G
    "code images of Portrait4D": (15_000_000, lambda: DYNAMIC_STAGE.images),
    "code share of static heads of Portrait4D": (0.5, lambda: DYNAMIC_STAGE.static_share),
    "code rate of Portrait4D's layers that read motion": (1.0, lambda: DYNAMIC_STAGE.optimizer.motion_lr_factor),
    # both
    "A batch": ((32, 32), lambda: (ONE.batch, TWO.batch)),
    "code Adam of the generator: rate, betas, eps": ((1e-4, (0.9, 0.999), 1e-5), lambda: _of(TWO.optimizer, ADAM)),
    "code Adam of stage 1": ((1e-4, (0.9, 0.999), 1e-5), lambda: _of(ONE.optimizer, ADAM)),
    "code Adam of both discriminators": (
        [(1e-4, (0.9, 0.999), 1e-5)] * 2, lambda: [_of(stage.discriminator, ADAM) for stage in (ONE, TWO)],
    ),
    "code R1: picture, positions, mask": (
        (1.0, 10.0, 1.0), lambda: (ONE.losses.r1_image, ONE.losses.r1_positions, ONE.losses.r1_mask),
    ),
    "code R1: steps between": ((16, 16), lambda: (ONE.schedule.r1_every, TWO.schedule.r1_every)),
    "code half-life of the EMA, images": ([10_000] * 2, lambda: [_half_life(ONE), _half_life(TWO)]),
    "code ramp of the EMA, share of the images seen": ((0.05, 0.0),
                                                       lambda: (ONE.optimizer.ema_rampup, TWO.optimizer.ema_rampup)),
    "code steps between lazy regularisations: generator of stage 1 and 2, discriminators": (
        (16, 4, 16, 16),
        lambda: (CODE.stage1.optimizer.reg_interval, CODE.stage2.optimizer.reg_interval,
                 CODE.stage1.discriminator.reg_interval, CODE.stage2.discriminator.reg_interval),
    ),
    "code gradients are not clipped": ((0.0, 0.0), lambda: (ONE.optimizer.max_grad_norm, TWO.optimizer.max_grad_norm)),
    "A cameras: yaw": ((-0.78, 0.78), lambda: PAPER.yaw),
    "A cameras: pitch": ((-0.25, 0.65), lambda: PAPER.pitch),
    "A cameras: roll": ((-0.25, 0.25), lambda: PAPER.roll),
    "A cameras: radius": ((3.65, 4.45), lambda: PAPER.radius),
    "A cameras: pivot x, y, z": (
        ((-0.03, 0.03), (-0.03, 0.03), (0.06, 0.12)), lambda: (PAPER.pivot_x, PAPER.pivot_y, PAPER.pivot_z),
    ),
    "A field of view, degrees": (12.0, lambda: round(math.degrees(2 * math.atan(0.5 / PUBLISHED_FOCAL)), 5)),
    # experiments
    "5 clips of the training set": (10_000, lambda: ALL_CLIPS),
    "code frames of a training clip": (50, lambda: Clips.frames),
    "5 images of an ablation": (5_000_000, lambda: TABLE["K"].images),
    "5 clips of the test set": (100, lambda: PRESETS["p4d-table1"].clips),
    "5 frames of a test clip": (200, lambda: PRESETS["p4d-table1"].frames),
    "5 drivers of one source, Cons.": (50, lambda: DRIVERS),
    "5 votes on each question": (430, lambda: user_study().votes),
    "5 methods of the user study": (6, lambda: len(user_study().methods)),
    "5 frames a second on an A100": (10, lambda: cost().frames_per_second),
    "5 frames a second with the source's part kept": (15, lambda: cost().frames_per_second_source_kept),
    "5 GPUs and days of each stage": ((8, 8), lambda: (cost().training_gpus, cost().training_days_of_a_stage)),
}  # fmt: skip


def _of(config: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in names)


def _half_life(stage: StageConfig) -> int:
    decay = ema_decay_at(stage.optimizer, 10**9, 10**9, stage.batch)
    return round(stage.batch * math.log(0.5) / math.log(decay))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_of_the_paper(name):
    value, home = NUMBERS[name]
    assert home() == value


def test_every_weight_of_a_term_that_is_on_is_named():
    """A weight that somebody adds to the preset paper is a number of the paper, or a deviation that the page names."""
    named = {"l1", "perceptual", "identity", "adversarial", "depth", "opacity", "distill_planes", "density",
             "r1_image", "r1_positions", "r1_mask"}  # fmt: skip
    deviations = set(re.findall(r"stage[12]\.losses\.(\w+)", (DOCS / "train/deviations.md").read_text("utf-8")))
    on = {f.name for f in dataclasses.fields(LossConfig) if getattr(ONE.losses, f.name) or getattr(TWO.losses, f.name)}
    assert on <= named | deviations


def test_numbers_that_the_paper_prints_twice_are_kept_once():
    """Row L of Table 3 is stage 2 itself; shares of real frames are those of every row that has pseudo views."""
    row = TABLE[WHOLE]
    assert (TWO.images, TWO.optimizer.motion_lr_factor) == (row.images, row.motion_rate_factor)
    assert (TWO.real_driving, TWO.real_target) == (REAL_DRIVING, REAL_TARGET)
    assert TWO.camera_p == TWO.camera_q == SET_CAMERAS["paper"].sampled == PAPER
    assert {(preset.clips, preset.frames) for preset in PRESETS.values()} == {(100, 200)}


def test_each_table_of_methods_and_ablations_has_a_protocol():
    tables = {"1": "p4d-table1", "2a": "p4d-table2", "3": "p4d-table3"}
    assert set(tables) == set(get_args(TableName)) - {"2b"}, "2b is of votes"
    assert set(tables.values()) == {name for name in get_args(PresetName) if name.startswith("p4d")}


def test_the_page_says_the_published_cost_and_protocol():
    said, kept = (DOCS / "evaluation/paper.md").read_text("utf-8"), cost()
    assert f"{kept.frames_per_second} frames a second on an {kept.gpu}" in said
    assert f"{kept.frames_per_second_source_kept} where" in said
    assert f"{kept.training_days_of_a_stage} days each on {kept.training_gpus} {kept.training_gpu}" in said
    protocols = (DOCS / "evaluation/protocols.md").read_text("utf-8")
    preset = PRESETS["p4d-table1"]
    assert f"{preset.clips} clips of up to {preset.frames} frames" in protocols
    assert f"one frame of up to {DRIVERS} other clips" in protocols
