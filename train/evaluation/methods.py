"""Make pictures of a driven source by each of the methods that are measured: ours and the baselines.

Letters: B heads, S side of a picture, h side of the ray grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from triportrait.core import network_kind
from triportrait.core.checkpoint import load_portrait
from triportrait.core.errors import InputError
from triportrait.core.geometry.density import density_grid, visible_level
from triportrait.core.geometry.surface import Surface, extract
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.types import Camera, Driving, Head, Source
from triportrait.train.data.pictures import Pictures
from triportrait.train.runs.weights import load_trained
from triportrait.train.stages.motion import read_motion

OURS, COPY, STATIC = "ours", "copies the source", "static synthesizer"
SOURCE_EXPRESSION = "keeps the source's expression"
GRID_NODES = 128  # along an edge of the box, 3.4 mm apart in one of 1.3 scene units


@dataclass(frozen=True)
class Prediction:
    """B pictures that a method made, and where the head is, if the method knows it.

    Attributes:
        image: [B, 3, S, S] in about [-1, 1].
        opacity: [B, 1, h, h] in [0, 1].
        depth: [B, 1, h, h] along the unit ray, scene units.
    """

    image: Tensor
    opacity: Tensor | None = None
    depth: Tensor | None = None


class Method(Protocol):
    """A method makes views of B sources that are driven."""

    def __call__(self, source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
        """Make pictures of the sources with the driving pictures' expressions and neck poses, one per camera.

        A method reads only the image, the landmarks and the neck pose of `Pictures`.
        """
        ...


@runtime_checkable
class Reconstruction(Protocol):
    """A method that knows the surface of the head it shows."""

    def surface(self, source: Pictures, driving: Pictures) -> Surface:
        """Extract the surface of one source's head with a driving picture's expression and neck pose.

        It lies where a viewer sees it, at `visible_level`.

        Raises:
            InputError: there is none.
        """
        ...


class Reenactment:
    """Our network, with motion that the motion encoder reads off pictures.

    Args:
        expression: the picture off which motion is read; with `source` only the neck follows the driving picture.
    """

    def __init__(
        self,
        portrait: Portrait4D,
        motion_encoder: MotionEncoder,
        expression: Literal["driving", "source"] = "driving",
    ) -> None:
        self.portrait, self.motion_encoder, self.expression = portrait, motion_encoder, expression
        self.device = device_of(portrait)
        self._prepared: tuple[Pictures, Source, Tensor] | None = None

    def __call__(self, source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
        """See `Method`."""
        return _views(self.portrait, self._head(source, driving), cameras)

    def surface(self, source: Pictures, driving: Pictures) -> Surface:
        """See `Reconstruction`."""
        return _surface(self.portrait, self._head(source, driving))

    @torch.no_grad()
    def _head(self, source: Pictures, driving: Pictures) -> Head:
        if self._prepared is None or self._prepared[0] is not source:
            pictures = source.to(self.device)
            motion = read_motion(self.motion_encoder, pictures.image, pictures.landmarks)
            self._prepared = source, self.portrait.prepare(pictures.image, motion), motion
        _, prepared, motion = self._prepared
        driving = driving.to(self.device)
        if self.expression == "driving":
            motion = read_motion(self.motion_encoder, driving.image, driving.landmarks)
        return self.portrait.reenact(prepared, Driving(motion, driving.neck))


class StaticSynthesizer:
    """The network of stage 1, which knows no motion: the source keeps its expression, and only the neck follows."""

    def __init__(self, portrait: Portrait4D) -> None:
        self.portrait, self.device = portrait, device_of(portrait)

    def __call__(self, source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
        """See `Method`."""
        return _views(self.portrait, self._head(source, driving), cameras)

    def surface(self, source: Pictures, driving: Pictures) -> Surface:
        """See `Reconstruction`."""
        return _surface(self.portrait, self._head(source, driving))

    @torch.no_grad()
    def _head(self, source: Pictures, driving: Pictures) -> Head:
        prepared = self.portrait.prepare(source.image.to(self.device), None)
        return self.portrait.reenact(prepared, Driving(None, driving.to(self.device).neck))


def copy_source(source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
    """Return the source picture for every camera; see `Method`."""
    return [Prediction(source.image) for _ in cameras]


def device_of(portrait: Portrait4D) -> torch.device:
    """Return where a portrait's weights lie."""
    return next(portrait.parameters()).device


@torch.no_grad()
def _views(portrait: Portrait4D, head: Head, cameras: Sequence[Camera]) -> list[Prediction]:
    device = device_of(portrait)
    renderings = [portrait.render(head, camera.to(device)) for camera in cameras]
    return [Prediction(r.image.cpu(), r.opacity.cpu(), r.depth.cpu()) for r in renderings]


def _surface(portrait: Portrait4D, head: Head) -> Surface:
    level = visible_level(portrait.volume, head)
    return extract(density_grid(portrait.volume, head, GRID_NODES), level)


@dataclass(frozen=True)
class WeightsAndBaselines:
    """The networks of a weights folder, and the baselines that they must beat.

    Attributes:
        weights: a weights folder.
        static: weights folder of the static synthesizer, for a row of its own.
        device: where the networks run, cpu or cuda; pictures come and go on the CPU.
    """

    weights: Path
    static: str | Path | None = None
    device: str = "cpu"

    def methods(self) -> dict[str, Method]:
        """Load the methods, ours first.

        Raises: `InputError` for weights that cannot be loaded, or two that are not of one size.
        """
        portrait, motion_encoder = load_trained(self.weights, self.device)
        methods: dict[str, Method] = {
            OURS: Reenactment(portrait, motion_encoder),
            COPY: copy_source,
            SOURCE_EXPRESSION: Reenactment(portrait, motion_encoder, expression="source"),
        }
        if self.static is not None:
            network_kind.check_network(self.static, network_kind.STATIC, "--static", "name RUN/static of its training")
            static = load_portrait(self.static)
            if static.config != portrait.config:
                raise InputError(
                    f"--static {self.static}: expected a network of the sizes of {self.weights}, got another; name the "
                    "two of one training"
                )
            methods[STATIC] = StaticSynthesizer(static.fold().to(self.device))
        return methods
