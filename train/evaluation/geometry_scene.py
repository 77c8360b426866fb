"""Render the heads whose surface is measured, and the shapes that a network must beat.

A head is driven by another head's picture, as in the case `cross`, with a straight neck: the surfaces are then those of
the space in which the network makes its planes. Letters: S side of a picture, h side of the ray grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from triportrait.core.config import ModelConfig
from triportrait.core.geometry.surface import Surface
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.render.rays import camera_rays
from triportrait.core.types import Camera
from triportrait.kernels.rasterize import interpolate
from triportrait.train.data.heads.anatomy import SKULL_GRID, mean_identity, skull_template
from triportrait.train.data.heads.population import Expression
from triportrait.train.data.heads.skull import to_world
from triportrait.train.data.pictures import Pictures, at_rays
from triportrait.train.data.scene_sampling import population
from triportrait.train.evaluation.methods import Prediction
from triportrait.train.evaluation.metrics.reprojection import projected, sampled
from triportrait.train.evaluation.protocol import Group, Sitter, driving_seed, faces_of_scene, renderer
from triportrait.train.evaluation.seen_surfaces import pixels_of, seen, seen_from, seen_head

MEAN_HEAD, DRIVING_HEAD, ELLIPSOID = "the mean head at rest", "the head that drives", "an ellipsoid"
FACING, STANDING = "flat source picture, facing each camera", "flat source picture, standing still"
TRUTH = "the truth"
VIEWS_DEG = (-30.0, 0.0, 30.0)  # yaw
FRONT = VIEWS_DEG.index(0.0)
PAIRS = ((FRONT, 0), (FRONT, 2), (0, FRONT), (2, FRONT))  # A, B: what A shows is looked for in B


@dataclass(frozen=True)
class Rival:
    """A shape that knows nothing of the network.

    Attributes:
        views: from each of VIEWS_DEG; depth and opacity always count.
        coloured: whether their pictures mean something.
        surface: what `seen_from` sees of it; None where it has no surface worth a distance.
    """

    views: tuple[Prediction, ...]
    coloured: bool
    surface: Surface | None = None


@dataclass(frozen=True)
class GeometryScene:
    """One head, what drives it, and its true surface.

    Attributes:
        source, driving: pictures; the driving head is another, its neck straight.
        cameras: of VIEWS_DEG.
        truths: the head with the driving expression, its neck straight, from each of them.
        surface: what `seen_from` sees of the true surface.
        rivals: by name.
        box_side: of the network's box, scene units.
    """

    source: Pictures
    driving: Pictures
    cameras: tuple[Camera, ...]
    truths: tuple[Pictures, ...]
    surface: Surface
    rivals: dict[str, Rival]
    box_side: float


@dataclass(frozen=True)
class GeometrySpec:
    """The geometry of head `head` of a group."""

    group: Group
    head: int
    seed: int
    model: ModelConfig

    def render(self) -> GeometryScene:
        """Render the head and the one that drives it, and make the rivals."""
        model, sitter = self.model, Sitter.of(self.group.seed, self.head)
        other = Sitter.of(driving_seed(self.group.seed), self.head)
        (source_face, source_camera), _, (face, camera) = faces_of_scene(self.group, self.head, self.seed)
        face = face.replace(neck=torch.zeros_like(face.neck))
        cameras = views()
        source = sitter.photograph(source_face, source_camera, model, necks=False)
        rivals = dict(_population_rivals(model))
        rivals[DRIVING_HEAD] = _head(other, face, model)
        rivals[FACING] = Rival(tuple(facing_picture(source, camera) for camera in cameras), True)
        rivals[STANDING] = Rival(tuple(standing_picture(source, camera) for camera in cameras), True)
        return GeometryScene(
            source, other.photograph(face, camera, model, necks=False), cameras,
            tuple(sitter.photograph(face, camera, model, necks=False) for camera in cameras),
            seen_head(renderer(), sitter.identity, face, seen_from()), rivals, model.render.box_side,
        )  # fmt: skip


def views() -> tuple[Camera, ...]:
    """Return the cameras of VIEWS_DEG."""
    return tuple(turned(fixed_camera(), math.radians(yaw), 0.0) for yaw in VIEWS_DEG)


def as_predicted(truth: Pictures) -> Prediction:
    """Return a true picture as a method that knows everything would make it."""
    return Prediction(truth.image, truth.opacity, truth.depth)


def facing_picture(source: Pictures, camera: Camera) -> Prediction:
    """Show the source's head on a plane through the origin that turns to the camera."""
    size = source.opacity.shape[-1]
    _, directions = camera_rays(camera, size)
    along_axis = -(directions[0] @ camera.world_from_camera[0, :3, 2])
    depth = (camera.axis_distance / along_axis).view(1, 1, size, size)
    return Prediction(source.image, source.opacity, depth)


def standing_picture(source: Pictures, camera: Camera) -> Prediction:
    """Show the source's head on the plane z = 0, on which the fixed camera sees it as it is."""

    def hit(size: int) -> tuple[Tensor, Tensor]:
        origins, directions = camera_rays(camera, size)
        depth = -origins[0, :, 2] / directions[0, :, 2]
        return projected(origins[0] + depth[:, None] * directions[0], fixed_camera())[0], depth

    (where, _), (where_rays, depth) = hit(source.image.shape[-1]), hit(source.opacity.shape[-1])
    image = sampled(source.image[0], where).view_as(source.image)
    opacity = sampled(source.opacity[0], where_rays).view_as(source.opacity)
    opacity = opacity * (where_rays.abs() < 1).all(-1).view_as(opacity)
    return Prediction(image, opacity, depth.view_as(opacity))


@lru_cache(maxsize=1)
def _population_rivals(model: ModelConfig) -> dict[str, Rival]:
    """Make the rivals that are the same for every head: the mean head, and the ellipsoid that skulls are made of."""
    identity, light = mean_identity(), population(0, 1)[1]
    points, faces = skull_template(*SKULL_GRID)
    surface = Surface(to_world(points), faces)
    pictures = tuple(_ellipsoid_picture(surface, camera, model) for camera in views())
    return {
        MEAN_HEAD: _head(Sitter(identity, light), Expression.neutral(1), model),
        ELLIPSOID: Rival(pictures, False, seen(surface, seen_from())),
    }


def _head(sitter: Sitter, face: Expression, model: ModelConfig) -> Rival:
    pictures = tuple(as_predicted(sitter.photograph(face, camera, model, necks=False)) for camera in views())
    return Rival(pictures, False, seen_head(renderer(), sitter.identity, face, seen_from()))


def _ellipsoid_picture(surface: Surface, camera: Camera, model: ModelConfig) -> Prediction:
    size = model.image_size
    raster = pixels_of(surface, camera, size)
    position = interpolate(surface.vertices[None], surface.faces, raster)  # [1, S, S, 3]
    hit = (raster.face >= 0)[:, None]
    depth = (position - camera.world_from_camera[0, :3, 3]).norm(dim=-1)[:, None] * hit
    opacity, depth = at_rays(hit.float(), depth, model.render.neural_size)
    return Prediction(torch.zeros(1, 3, size, size), opacity, depth)
