"""Hold multi-view sets in memory at the sizes at which the losses compare, and draw pairs from them.

Letters: N poses (one head with one expression), V views of a pose, S side of the pictures, h side of the ray grid.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from triportrait.core.atomic import replacing
from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.files import check_tensor_file
from triportrait.core.types import Camera, NeckGrid
from triportrait.train.data.generated.truth import GeneratedTruth, join_truths
from triportrait.train.data.heads.mesh import head_neck_grid
from triportrait.train.data.heads.population import Expression, Identity, Light
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.multiview import MultiviewSet, from_positions, write_multiview
from triportrait.train.data.resize import shrink
from triportrait.train.data.scene_sampling import take_pictures
from triportrait.train.data.set_config import SetConfig
from triportrait.train.data.upload import upload

POSES_AT_A_TIME = 16


@dataclass(frozen=True)
class Pictures:
    """B pictures and their truth.

    Attributes:
        image: [B, 3, S, S] in [-1, 1].
        opacity, depth: [B, 1, h, h]; depth along the unit ray in scene units, the mean over what the head covers;
            None for clips, which do not hold it.
        landmarks: [B, 68, 2] pixels, the centre of the first pixel at 0.5.
        camera: B cameras.
        motion: [B, 9] the true expression; [B, 109] FLAME's parameters of a tracked face.
        neck: B neck poses; None where they are not made.
        parts: [B, S, S] int8, a Part, where it is available.
        positions: [B, 3, S, S] in [-1, 1], where a visible point lies on the mean head at rest, where available.
        points: [B, 68, 3] the landmarks in the world, where available.
        features: [B, M] the motion that an encoder read off the pictures before, where available.
        truth: the volume behind generated pictures, where available.
        origin: the file of each of the B, so that a bad one can be found; empty for pictures taken now.
    """

    image: Tensor
    opacity: Tensor
    depth: Tensor | None
    landmarks: Tensor
    camera: Camera
    motion: Tensor
    neck: NeckGrid | None
    parts: Tensor | None = None
    positions: Tensor | None = None
    points: Tensor | None = None
    features: Tensor | None = None
    truth: GeneratedTruth | None = None
    origin: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Pictures:
        """Return the pictures on a device."""
        return upload(self, device)


class PictureSet:
    """All pictures of a multi-view set.

    Args:
        folder: as `triportrait prepare heads` makes it.
        model: holds the sizes of the ray grid and of the neck's grids.
        necks: make the neck poses, which takes longest; without them the necks are straight.
        cache: a file for the neck poses, which saves making them again.
        progress: is called with the number of heads read.
        positions: keep the positions, which a discriminator sees.
        chosen: the numbers of the heads that are read, as the others are held out; None: all are.

    Raises: `InputError` for a folder that is missing, damaged or of other sizes.
    """

    def __init__(
        self,
        folder: Path,
        model: ModelConfig,
        necks: bool = True,
        cache: Path | None = None,
        progress: Callable[[int], None] = lambda done: None,
        positions: bool = False,
        chosen: Sequence[int] | None = None,
    ) -> None:
        files = MultiviewSet(folder)
        if files.index["size"] != model.image_size:
            raise InputError(
                f"{folder}: expected pictures of {model.image_size} px, got {files.index['size']}; make the set again"
            )
        self.model, self._necks, self._positions = model, necks, positions
        numbers = range(len(files)) if chosen is None else chosen
        listed = {name: files.index["files"][name] for name in (files.names[number] for number in numbers)}
        key = json.dumps([listed, dataclasses.asdict(model.neck), model.render.box_side])
        poses = len(numbers) * files.index["expressions"]
        cached = _read_cache(cache, key, poses, model) if necks and cache else None
        self._names = [str(folder / name) for name in listed]
        self.heads, self.poses_each, self.views = len(numbers), files.index["expressions"], files.index["views"]
        parts: dict[str, list[Tensor]] = {}
        for done, number in enumerate(numbers):
            for name, value in self._read(files.head(number), necks and cached is None).items():
                if value.is_floating_point() and not bool(value.isfinite().all()):
                    raise InputError(f"{self._names[done]}: its {name} is not finite; make the folder again")
                parts.setdefault(name, []).append(value)
            progress(done + 1)
        self._rows = {name: torch.cat(values) for name, values in parts.items()} | (cached or {})
        if necks and cached is None and cache is not None:
            _write_cache(cache, key, {name: self._rows[name] for name in ("neck_fine", "neck_coarse")})

    def _read(self, arrays: dict[str, np.ndarray], make_necks: bool) -> dict[str, Tensor]:
        poses, h = len(arrays["image"]), self.model.render.neural_size
        opacity, depth = at_rays(
            torch.from_numpy(arrays["opacity"]).flatten(0, 1)[:, None],  # [E*V, 1, S, S]
            torch.from_numpy(arrays["depth"]).flatten(0, 1)[:, None],
            h,
        )
        names = {f.name for f in dataclasses.fields(Identity)}
        identity = Identity(**{n: torch.from_numpy(np.asarray(arrays[f"identity.{n}"]))[None] for n in names})
        face = Expression.from_vector(torch.from_numpy(arrays["expression"]), torch.from_numpy(arrays["neck"]))
        necks = {}
        if make_necks:
            grid = neck_grids(identity.take(torch.zeros(poses, dtype=torch.long)), face, self.model)
            necks = {"neck_fine": grid.fine.half(), "neck_coarse": grid.coarse.half()}
        positions = {"positions": torch.from_numpy(arrays["positions"])} if self._positions else {}
        return (
            necks
            | positions
            | {
                "image": torch.from_numpy(arrays["image"]),
                "opacity": opacity.unflatten(0, (poses, -1)).half(),
                "depth": depth.unflatten(0, (poses, -1)).half(),
                "landmarks": torch.from_numpy(arrays["landmarks"]),
                "world_from_camera": torch.from_numpy(arrays["world_from_camera"]),
                "intrinsics": torch.from_numpy(arrays["intrinsics"]),
                "motion": face.vector,
            }
        )

    def __len__(self) -> int:
        return self.heads * self.poses_each

    @property
    def motion_width(self) -> int:
        """The number of values in the true motion of a pose."""
        return self._rows["motion"].shape[-1]

    def pose(self, head: np.ndarray, expression: np.ndarray) -> Tensor:
        """Return the numbers [B] of poses."""
        return torch.from_numpy(head * self.poses_each + expression)

    def take(self, pose: Tensor, view: Tensor) -> Pictures:
        """Return B pictures of poses [B] and views [B], both int64."""
        r = self._rows
        return Pictures(
            image=r["image"][pose, view].permute(0, 3, 1, 2).float() / 127.5 - 1,
            opacity=r["opacity"][pose, view].float(),
            depth=r["depth"][pose, view].float(),
            landmarks=r["landmarks"][pose, view],
            camera=Camera(r["world_from_camera"][pose, view], r["intrinsics"][pose, view]),
            motion=r["motion"][pose],
            neck=self._neck(pose),
            positions=from_positions(r["positions"][pose, view]) if self._positions else None,
            origin=tuple(self._names[head] for head in (pose // self.poses_each).tolist()),
        )

    def pairs(
        self, count: int, front_sources: float, streams: np.random.Generator, place: int, first: int = 0
    ) -> tuple[Pictures, Pictures]:
        """Draw B sources and B driving pictures of the same heads with other expressions; the generator alone decides.

        Args:
            front_sources: share of sources that are the first view, which a set may have near the front.
            place: unused, as every draw is from all pictures.
            first: how many heads, from the first on, are drawn from; 0 stands for all.
        """
        head = streams.integers(first or self.heads, size=count)
        source_pose = streams.integers(self.poses_each, size=count)
        driving_pose = (source_pose + streams.integers(1, self.poses_each, size=count)) % self.poses_each
        front = streams.random(count) < front_sources
        source_view = np.where(front, 0, streams.integers(self.views, size=count))
        driving_view = streams.integers(self.views, size=count)
        source = self.take(self.pose(head, source_pose), torch.from_numpy(source_view))
        return source, self.take(self.pose(head, driving_pose), torch.from_numpy(driving_view))

    def _neck(self, pose: Tensor) -> NeckGrid | None:
        if not self._necks:
            return None
        return NeckGrid(
            self._rows["neck_fine"][pose].float(),
            self._rows["neck_coarse"][pose].float(),
            self.model.render.box_side,
            self.model.neck.near_squared_distance,
        )


def _read_cache(cache: Path, key: str, poses: int, model: ModelConfig) -> dict[str, Tensor] | None:
    """Read the neck poses that `_write_cache` wrote under this key; None where there are none, or others."""
    sides = {"neck_fine": (model.neck.fine_size, 4), "neck_coarse": (model.neck.coarse_size, 3)}
    try:
        check_tensor_file(cache)
        with safe_open(cache, "pt") as file:
            if (file.metadata() or {}).get("key") == _digest(key):
                necks = {name: file.get_tensor(name) for name in sides}
                shapes = {name: (poses, side, side, side, width) for name, (side, width) in sides.items()}
                whole = all(value.shape == shapes[n] and bool(value.isfinite().all()) for n, value in necks.items())
                return necks if whole else None
    except (OSError, SafetensorError, ValueError):
        pass
    return None


def _write_cache(cache: Path, key: str, tensors: dict[str, Tensor]) -> None:
    """Write tensors to the cache, where the disk takes them."""
    with suppress(OSError, SafetensorError), replacing(cache) as part:
        save_file(tensors, part, {"key": _digest(key)})


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def photograph(
    renderer: HeadRenderer,
    identity: Identity,
    expression: Expression,
    light: Light,
    camera: Camera,
    model: ModelConfig,
    antialias: int = 2,
    necks: bool = True,
) -> Pictures:
    """Render B pictures of B heads, with their parts and, with `necks`, their neck poses."""
    view = take_pictures(renderer, identity, expression, light, camera, model.image_size, antialias)
    opacity, depth = at_rays(view.opacity, view.depth, model.render.neural_size)
    return Pictures(
        image=view.image,
        opacity=opacity,
        depth=depth,
        landmarks=view.landmarks,
        camera=camera,
        motion=view.expression,
        neck=neck_grids(identity, expression, model) if necks else None,
        parts=view.parts,
    )


def neck_grids(identity: Identity, expression: Expression, model: ModelConfig) -> NeckGrid:
    """Make the neck poses of B heads, a few at a time."""
    grids = []
    for start in range(0, len(identity), POSES_AT_A_TIME):
        rows = slice(start, start + POSES_AT_A_TIME)
        grids.append(head_neck_grid(identity.take(rows), expression.take(rows), model.neck, model.render.box_side))
    return join_necks(grids)


def at_rays(opacity: Tensor, depth: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Shrink opacity and depth [B, 1, S, S] to the ray grid; depth is the mean over what the head covers."""
    inside = (depth > 0).float()
    return shrink(opacity, size), shrink(depth * inside, size) / shrink(inside, size).clamp(min=1e-3)


def join(parts: list[Pictures]) -> Pictures:
    """Concatenate pictures."""
    necks = [p.neck for p in parts if p.neck is not None]
    positions = [p.positions for p in parts if p.positions is not None]
    truths = [p.truth for p in parts if p.truth is not None]
    points = [p.points for p in parts if p.points is not None]
    return Pictures(
        **{
            name: torch.cat([getattr(p, name) for p in parts])
            for name in ("image", "opacity", "depth", "landmarks", "motion")
        },
        camera=Camera(
            torch.cat([p.camera.world_from_camera for p in parts]), torch.cat([p.camera.intrinsics for p in parts])
        ),
        neck=join_necks(necks) if len(necks) == len(parts) else None,
        positions=torch.cat(positions) if len(positions) == len(parts) else None,
        points=torch.cat(points) if len(points) == len(parts) else None,
        truth=join_truths(truths) if len(truths) == len(parts) else None,
        origin=tuple(name for p in parts for name in p.origin),
    )


def join_necks(necks: list[NeckGrid]) -> NeckGrid:
    """Concatenate grids."""
    fine, coarse = torch.cat([n.fine for n in necks]), torch.cat([n.coarse for n in necks])
    return NeckGrid(fine, coarse, necks[0].box_side, necks[0].near_squared_distance)


def open_set(
    folder: Path,
    config: SetConfig,
    model: ModelConfig,
    necks: bool = True,
    drawing: Callable[[int], None] = lambda done: None,
    reading: Callable[[int], None] = lambda done: None,
    positions: bool = False,
) -> PictureSet:
    """Open the set of a config: it is drawn into `folder` if there is none, else checked and read.

    Raises: `InputError` for a folder that holds another set, or a damaged one.
    """
    settings = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if not folder.exists():
        each = (config.expressions, config.views, config.size, config.antialias)
        write_multiview(
            folder, config.seed, config.count, *each, progress=drawing, kind=config.faces, seen_from=config.cameras
        )
    stored = MultiviewSet(folder)
    stored_settings = stored.index | {"cameras": stored.cameras}
    for name, value in settings.items():
        if (other := stored_settings.get(name)) != value:
            raise InputError(
                f"{folder}: expected a set with {name} {value}, got {other}; name another folder for the run"
            )
    return PictureSet(folder, model, necks, folder.with_name(f"{folder.name}.necks"), reading, positions)
