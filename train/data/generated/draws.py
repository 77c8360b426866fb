"""Draw the numbers that GenHead makes heads from: shapes, faces, cameras and noise (section 4.2; the published code).

    shape, real camera   a row of the tables' cameras and shapes, of stills and clips alike
    face                 a row of the clips' motions (of the stills' where there are no clips), the neck straight; by a
                         coin the jaw opens by another angle; the eyes are those of another row
    camera of a view     by a coin a sampled one, else a real one: the first view's is the shape's, others are any
    mapping              is told the real camera of the first view, and the shape

The seed and the number of a head alone decide, so that ranks and resumed runs draw equal heads.
Letters: B heads, V views, Z width of the noise, S coarse samples of a ray, P points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triportrait.core.config import GenHeadConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.head_identity import ModelIdentity, check_same_model
from triportrait.core.render.cameras import LookAtRange, camera_label, sample_look_at
from triportrait.train.config_checks import check_fields, share
from triportrait.train.data.cameras import SET_CAMERAS
from triportrait.train.data.parameter_tables import (
    AT_A_TIME,
    CAMERA_SHAPE,
    PREFIX,
    Of,
    ParameterTables,
    read_tables,
)

CAMERA, SHAPE, EXPRESSION = 25, 300, 100  # widths of a row's parts
DYNAMIC = 0.5  # static share of data of two faces, as published
LARGEST_SEED = 2**63 - 1
_HEADS = 76  # of the streams of random numbers, the one that draws generated heads


@dataclass(frozen=True)
class GeneratedConfig:
    """How heads are drawn and generated, as published.

    Attributes:
        truncation: ψ of all styles of the planes.
        views: V, of which source, motion and target are one each.
        sampled_cameras: share of the views that are seen from a sampled camera, the others from real ones.
        cameras: the range of those.
        opened_jaws: share of the faces whose jaw has another angle than in its row.
        jaw: the range of that angle about x, radians.
        points: P, the coarse samples at which L_T compares planes.
        static_share: share of the heads with one face in all views; 1 where stage 1 learns, `DYNAMIC` in Portrait4D's
            own training. Of any consecutive heads it is this share, to one head.
    """

    truncation: float = 0.95
    views: int = 3
    sampled_cameras: float = share(1 - SET_CAMERAS["published"].filmed_share)
    cameras: LookAtRange = SET_CAMERAS["published"].sampled
    opened_jaws: float = share(0.5)
    jaw: tuple[float, float] = (0.0, 0.2)
    points: int = 4000
    static_share: float = share(1.0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class HeadDraws:
    """What B heads are made from, on the CPU.

    Attributes:
        number: [B] int64 of each head.
        latent: [B, Z] standard normal noise.
        shape: [B, 300].
        mapping_camera: [B, 25], the label of the camera that the mapping is told.
        camera: [B, V, 25], labels.
        expression: [B, V, 100]. pose: [B, V, 6], neck (zero) and jaw. eyes: [B, V, 6].
        jitter: [B, V, S] in [0, 1), of the coarse samples. picks: [B, V, P] in [0, 1), which of them L_T takes.
        is_static: [B] bool, which heads have one face in all views.
    """

    number: Tensor
    latent: Tensor
    shape: Tensor
    mapping_camera: Tensor
    camera: Tensor
    expression: Tensor
    pose: Tensor
    eyes: Tensor
    jitter: Tensor
    picks: Tensor
    is_static: Tensor

    def __len__(self) -> int:
        return len(self.number)

    def take(self, rows: slice) -> HeadDraws:
        """Select heads."""
        return HeadDraws(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def motion(self) -> Tensor:
        """Return what moves a face in each view, [B, V, 109]: expression, jaw, eyes."""
        return torch.cat([self.expression, self.pose[..., 3:], self.eyes], -1)


class HeadTables:
    """The tables of a folder from which heads are drawn; rows are read as they are drawn.

    Args:
        folder: as `triportrait prepare parameters` makes it, or the published files.
        whole: look at every number once; another process may have done it.

    Attributes:
        head_model: whose parameters these are.

    Raises: `InputError` where there are no tables, or damaged ones.
    """

    def __init__(self, folder: Path, whole: bool = True) -> None:
        kinds: tuple[Of, ...] = ("stills", "clips")
        names = {of: f"{PREFIX[of]}_{CAMERA_SHAPE}.npy" for of in kinds}
        there = [of for of in kinds if (folder / names[of]).exists()]
        if not there:
            raise InputError(
                f"{folder}: expected tables of parameters, {' or '.join(names.values())}, got neither; make them by "
                "`triportrait prepare parameters`"
            )
        self.folder = folder
        self._tables: list[ParameterTables] = [read_tables(folder, of, whole) for of in there]
        self.head_model: ModelIdentity = self._tables[0].head_model
        self._motion = self._tables[-1].motion.reshape(-1, self._tables[-1].motion.shape[-1])  # the clips' come last
        self._first = np.cumsum([0, *(len(t.camera_shape) for t in self._tables)])
        if not len(self._motion) or any(not len(t.camera_shape) for t in self._tables):
            raise InputError(f"{folder}: expected rows in its tables, got none; make the tables again")

    def __len__(self) -> int:
        """Return how many rows of cameras and shapes there are."""
        return int(self._first[-1])

    @property
    def faces(self) -> int:
        """Return how many rows of motions there are."""
        return len(self._motion)

    def camera_and_shape(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a camera's label [25] and a shape [300], float32."""
        table = int(np.searchsorted(self._first, row, side="right")) - 1
        numbers = np.asarray(self._tables[table].camera_shape[row - self._first[table]], np.float32)
        return numbers[:CAMERA], numbers[CAMERA:]

    def motion(self, row: int) -> np.ndarray:
        """Return the motion [112] of a row: expression 100, neck 3, jaw 3, eyes 6; float32."""
        return np.asarray(self._motion[row], np.float32)

    def check_fits(self, head_model: ModelIdentity, config: GenHeadConfig, whose: str = "the generator") -> None:
        """Check that a generator takes these parameters.

        Raises:
            InputError: they are of another head model, or of directions that the generator does not have.
        """
        check_same_model(head_model, self.head_model, str(self.folder), whose)
        kinds = {
            "shape": ([t.camera_shape[:, CAMERA:] for t in self._tables], config.neck.num_shape),
            "expression": ([t.motion.reshape(-1, t.motion.shape[-1])[:, :EXPRESSION] for t in self._tables],
                           config.neck.num_expression),
        }  # fmt: skip
        for name, (tables, width) in kinds.items():
            for rest in (table[:, width:] for table in tables if width < table.shape[1]):
                for start in range(0, len(rest), AT_A_TIME):
                    if np.any(rest[start : start + AT_A_TIME]):
                        raise InputError(
                            f"{self.folder}: expected parameters of the {width} directions of {name} that {whose} "
                            f"knows, got others than 0 beyond them (rows from {start:,}); make the tables of fits with "
                            "its head model, or name another generator"
                        )


def draw_heads(
    tables: HeadTables,
    generator: GenHeadConfig,
    seed: int,
    first: int,
    count: int,
    config: GeneratedConfig | None = None,
) -> HeadDraws:
    """Draw heads of consecutive numbers; the arguments alone decide, and a head does not depend on the others.

    Args:
        tables: from which shapes, cameras and faces are drawn.
        generator: the sizes of the noise and of the rays.
        seed: 0 or more. first: number of the first head. count: B.
        config: how; the first view of a head that is not static has another face than the others.

    Raises: `InputError` for a seed or a number out of range, or tables of a single face where heads have two.
    """
    config = config or GeneratedConfig()
    if not 0 <= seed <= LARGEST_SEED or first < 0 or count < 1:
        raise InputError(
            f"seed: expected 0 to {LARGEST_SEED} and heads from 0 on, got {seed} and {count} heads from {first} on; "
            "choose others"
        )
    if config.static_share < 1 and tables.faces < 2:
        raise InputError(
            f"{tables.folder}: expected two rows of motions or more, as heads have two faces, got {tables.faces}; make "
            "tables of more frames, or heads with one face"
        )
    heads = [_draw_head(tables, generator, seed, number, config) for number in range(first, first + count)]
    return HeadDraws(**{name: torch.from_numpy(np.stack([head[name] for head in heads])) for name in heads[0]})


def _draw_head(
    tables: HeadTables, generator: GenHeadConfig, seed: int, number: int, config: GeneratedConfig
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([_HEADS, seed, number])
    real_camera, shape = tables.camera_and_shape(int(rng.integers(len(tables))))
    row = int(rng.integers(tables.faces))
    other = (row + int(rng.integers(1, max(2, tables.faces)))) % tables.faces
    faces = np.stack([_draw_face(tables, rng, config, face) for face in (row, other)])
    latent = rng.standard_normal(generator.latent_width, np.float32)
    is_static = math.floor((number + 1) * config.static_share) > math.floor(number * config.static_share)
    views = [_draw_view(tables, generator, rng, config, real_camera if v == 0 else None) for v in range(config.views)]
    shown = faces[[0 if is_static or v == 0 else 1 for v in range(config.views)]]  # [V, 112]
    return {
        "number": np.array(number), "latent": latent, "shape": shape, "mapping_camera": real_camera,
        "expression": shown[:, :EXPRESSION], "pose": shown[:, EXPRESSION : EXPRESSION + 6],
        "eyes": shown[:, EXPRESSION + 6 :], "is_static": np.array(is_static),
        **{name: np.stack([view[name] for view in views]) for name in views[0]},
    }  # fmt: skip


def _draw_face(tables: HeadTables, rng: np.random.Generator, config: GeneratedConfig, row: int) -> np.ndarray:
    """Draw a face whose expression is that of a row: [112], with a straight neck."""
    face = tables.motion(row).copy()
    face[EXPRESSION : EXPRESSION + 3] = 0  # neck
    opens, angle = rng.random() < config.opened_jaws, rng.uniform(*config.jaw)
    if opens:
        face[EXPRESSION + 3] = angle
    face[EXPRESSION + 6 :] = tables.motion(int(rng.integers(tables.faces)))[EXPRESSION + 6 :]
    return face


def _draw_view(
    tables: HeadTables,
    generator: GenHeadConfig,
    rng: np.random.Generator,
    config: GeneratedConfig,
    real_camera: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Draw the camera of a view, and where its rays are sampled; `real_camera`: of the head's own row, where it is."""
    row = int(rng.integers(len(tables)))
    camera = (tables.camera_and_shape(row)[0] if real_camera is None else real_camera).copy()
    sampled = sample_look_at(1, torch.Generator().manual_seed(int(rng.integers(2**62))), config.cameras)
    if rng.random() < config.sampled_cameras:
        camera[:16] = camera_label(sampled)[0, :16].numpy()  # the lens stays
    return {
        "camera": camera, "jitter": rng.random(generator.render.num_coarse, np.float32),
        "picks": rng.random(config.points, np.float32),
    }  # fmt: skip
