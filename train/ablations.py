"""The ablations of the paper's Table 3: stage 2 with the columns of a row.

`TABLE` holds the columns that say how a row is trained. What it reached there stands in `evaluation.paper.published`:
figures of real faces (VFHQ) by the paper's own measures, never ranked with what is measured here. A row's config is a
function of its columns alone. At the preset tiny a row keeps its shares (on is the paper's 90 % of pseudo views for p
and 20 % for q, whatever tiny's own are), while its images and clips stand for the paper's: images in the same
proportion, a clip for 500.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from triportrait.core.errors import InputError
from triportrait.train.config import REAL_DRIVING, REAL_TARGET, Init, MotionKind, ReenactConfig, Teacher, TrainConfig
from triportrait.train.data.cameras import THETA_P
from triportrait.train.data.clip_store.tracks import FLAME_PARAMETERS
from triportrait.train.data.heads.population import EXPRESSION_AXES

RowName = Literal["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L"]


@dataclass(frozen=True)
class Columns:
    """A row of Table 3.

    Attributes:
        initialisation: what stage 2 begins as: Ψ_3d, or fresh weights.
        pseudo_p: most driving motions are read off pseudo views I_d(θ_p); else all off the real frame.
        pseudo_q: some targets are pseudo views I_d(θ_q); else all are the real frame.
        motion: what v is: E_mot reads it off pictures, or the expression parameters of a 3DMM.
        teacher: who draws the pseudo views: Ψ_3d, or the dynamic network of Portrait4D.
        clips: of the training set, of 10,000.
        images: that training sees.
        motion_rate_factor: learning rate of the layers that read motion, over that of the others.
    """

    initialisation: Literal["static synthesizer", "random"]
    pseudo_p: bool
    pseudo_q: bool
    motion: Literal["E_mot", "3DMM"]
    teacher: Literal["static synthesizer", "Portrait4D"]
    clips: int
    images: int
    motion_rate_factor: float


ALL_CLIPS = 10_000  # of the paper's training set
WHOLE: RowName = "L"  # the row that is stage 2 itself
TABLE: dict[RowName, Columns] = {
    "A": Columns("random", False, False, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0),
    "B": Columns("static synthesizer", False, False, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0),
    "C": Columns("static synthesizer", True, False, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0),
    "D": Columns("static synthesizer", False, True, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0),
    "E": Columns("random", True, True, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0),
    "F": Columns("static synthesizer", True, True, "3DMM", "static synthesizer", 10_000, 5_000_000, 1.0),
    "G": Columns("static synthesizer", True, True, "E_mot", "Portrait4D", 10_000, 5_000_000, 1.0),
    "H": Columns("static synthesizer", True, True, "E_mot", "static synthesizer", 1_000, 5_000_000, 1.0),
    "I": Columns("static synthesizer", True, True, "E_mot", "static synthesizer", 2_000, 5_000_000, 1.0),
    "J": Columns("static synthesizer", True, True, "E_mot", "static synthesizer", 5_000, 5_000_000, 1.0),
    "K": Columns("static synthesizer", True, True, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0),
    "L": Columns("static synthesizer", True, True, "E_mot", "static synthesizer", 10_000, 6_000_000, 2.5),
}  # fmt: skip
INIT: dict[str, Init] = {"static synthesizer": "static", "random": "random"}
MOTION: dict[str, MotionKind] = {"E_mot": "pictures", "3DMM": "parameters"}
PORTRAIT4D = "Portrait4D"  # the teacher of row G, a dynamic network of 4D data
TEACHER: dict[str, Teacher] = {"static synthesizer": "static", PORTRAIT4D: "dynamic"}
RANDOM = "random"  # in the place of a folder of weights to begin as
_OF_A_SMALL_CAST = 500  # a cast of tens of heads stands for thousands of clips


def ablated(config: TrainConfig, row: RowName) -> TrainConfig:
    """Return a training whose stage 2 is a row of Table 3.

    Args:
        config: of a whole stage 2.

    Raises:
        InputError: for the published code's numbers, of which no ablation is known.
    """
    if config.preset == "published":
        raise InputError("ablation: expected the preset tiny or paper, as the ablations are the paper's, got published")
    named = config if row == WHOLE and config.preset == "paper" else _renamed(config, row)
    return with_columns(named, TABLE[row])


def with_columns(config: TrainConfig, columns: Columns) -> TrainConfig:
    """Return a training whose stage 2 has these columns; nothing else of the config is changed."""
    stage2, small = config.stage2, config.preset.partition(",")[0] != "paper"
    clips = 0 if columns.clips == ALL_CLIPS else columns.clips // (_OF_A_SMALL_CAST if small else 1)
    optimizer = dataclasses.replace(stage2.optimizer, motion_lr_factor=columns.motion_rate_factor)
    stage = dataclasses.replace(
        stage2,
        init=INIT[columns.initialisation],
        real_driving=REAL_DRIVING if columns.pseudo_p else 1.0,
        real_target=REAL_TARGET if columns.pseudo_q else 1.0,
        motion=MOTION[columns.motion],
        teacher=TEACHER[columns.teacher],
        clips=clips,
        images=stage2.images * columns.images // TABLE[WHOLE].images,
        optimizer=optimizer,
    )
    return with_motion(dataclasses.replace(config, stage2=stage), stage.motion)


def with_motion(config: TrainConfig, kind: MotionKind) -> TrainConfig:
    """Return a training whose stage 2 takes its motion from there, with a network for so many numbers.

    The parameters of tracked faces are FLAME's; those of procedural heads, which the preset tiny sees, are their nine.
    """
    config = dataclasses.replace(config, stage2=dataclasses.replace(config.stage2, motion=kind))
    if config.preset.partition(",")[0] not in ("paper", "published"):
        assert kind == "pictures" or config.model.transformer.motion_width == len(EXPRESSION_AXES)
        return config
    if kind == "pictures":
        return config
    transformer = dataclasses.replace(config.model.transformer, motion_width=FLAME_PARAMETERS)
    model = dataclasses.replace(config.model, preset="portrait4d_v2_parameters", transformer=transformer)
    return dataclasses.replace(config, model=model)


def with_motion_width(config: TrainConfig, width: int) -> TrainConfig:
    """Return a training of a network for so many numbers of motion; its sizes have another name than the preset's."""
    model = config.model
    if model.transformer.motion_width == width:
        return config
    transformer = dataclasses.replace(model.transformer, motion_width=width)
    name = f"{model.preset}_motion_{width}"
    return dataclasses.replace(config, model=dataclasses.replace(model, preset=name, transformer=transformer))


def check_beside_row(row: RowName, given: Mapping[str, Any]) -> None:
    """Check options against a row that was asked for, too: what a row is cannot be contradicted, its numbers can.

    Args:
        given: values by option: init, weights, real_driving, real_target, motion_kind, teacher; None where one is not
            given. A share of real frames below 1 says `on`.

    Raises:
        InputError: an option says something else than the row.
    """
    columns = TABLE[row]
    initial, p, q = columns.initialisation, _on(columns.pseudo_p), _on(columns.pseudo_q)
    rows = (  # option, column, the row's word, the option's word
        ("init", "initialisation", initial, "random" if given["init"] == RANDOM else "static synthesizer"),
        ("weights", "initialisation", initial, "another network"),
        ("real_driving", "pseudo views p", p, _on((given["real_driving"] or 0) < 1)),
        ("real_target", "pseudo views q", q, _on((given["real_target"] or 0) < 1)),
        ("motion_kind", "motion", MOTION[columns.motion], given["motion_kind"]),
        ("teacher", "teacher", columns.teacher, PORTRAIT4D),
    )
    for option, column, word_of_row, word_of_option in rows:
        if given[option] is not None and word_of_option != word_of_row:
            raise InputError(
                f"--{option.replace('_', '-')} {given[option]}: row {row} of the paper's Table 3 has {column} "
                f"{word_of_row}; leave this option out, or --ablation and give each column as an option"
            )


def _on(on: bool) -> str:
    return "on" if on else "off"


def _renamed(config: TrainConfig, row: RowName) -> TrainConfig:
    return dataclasses.replace(config, preset=f"{config.preset}, ablation {row}")


def differences(one: ReenactConfig, other: ReenactConfig) -> list[str]:
    """Return the options that turn one stage 2 into the other."""
    numbers = ("images", "clips", "batch", "real_driving", "real_target", "front_sources")
    options = [
        f"--{name.replace('_', '-')} {getattr(other, name):,}"
        for name in numbers
        if getattr(one, name) != getattr(other, name)
    ]
    before, after = one.optimizer, other.optimizer
    options += [f"--lr {after.lr:g}"] if before.lr != after.lr else []
    if before.motion_lr_factor != after.motion_lr_factor:
        options.append(f"--motion-lr-factor {after.motion_lr_factor:g}")
    if one.camera_p != other.camera_p:
        options.append(f"--theta-p {next(name for name, known in THETA_P.items() if known == other.camera_p)}")
    return options
