"""Render heads with all that is known about them: depth, opacity, parts, positions, landmarks, parameters.

Letters: B batch, S side of the picture, N fragments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.torch_threads import one_thread
from triportrait.core.types import Camera
from triportrait.train.data.heads import features
from triportrait.train.data.heads.anatomy import INNER_KINDS, OPEN_KINDS, HeadMesh, Kind, Posed
from triportrait.train.data.heads.hair import over_hairline
from triportrait.train.data.heads.landmarks import landmarks
from triportrait.train.data.heads.light import background, shade
from triportrait.train.data.heads.paint import Part, paint
from triportrait.train.data.heads.population import Expression, Identity, Light
from triportrait.train.data.heads.rasterize import Fragments, project, rasterize
from triportrait.train.data.heads.shapes import dot, rotate, unit

SMALLEST_SIZE, LARGEST_SIZE = 16, 1024
LARGEST_ANTIALIAS = 4
INNER_PUSH = 0.063  # scene units by which the mouth's inside loses against skin, so that it never pokes through a chin
SLIT_PUSH = 0.22  # scene units: an open slit shows what is behind it, but never through the head to the background
CUT_MARGIN = 0.03  # template units around a hairline within which its triangles are cut pixel by pixel


@dataclass(frozen=True)
class HeadView:
    """B pictures and their truth.

    Attributes:
        image: [B, 3, S, S] in [-1, 1].
        depth: [B, 1, S, S] along the unit ray, scene units; the mean of what a pixel sees of the head, 0 beside it.
        opacity: [B, 1, S, S] in [0, 1]: the share of a pixel that the head covers.
        parts: [B, S, S] int8, a Part: what most of the pixel shows.
        positions: [B, 3, S, S] where the point seen lies on the mean head at rest, scene units (the uv of every head);
            0 beside the head.
        landmarks: [B, 68, 2] pixels, x right, y down, the centre of the first pixel at 0.5; hidden ones, too.
        expression: [B, 9] in the order of EXPRESSION_AXES.
        neck: [B, 3] the neck's rotation vector, radians.
    """

    image: Tensor
    depth: Tensor
    opacity: Tensor
    parts: Tensor
    positions: Tensor
    landmarks: Tensor
    expression: Tensor
    neck: Tensor

    @classmethod
    def cat(cls, views: list[HeadView]) -> HeadView:
        """Concatenate views."""
        return cls(**{name: torch.cat([getattr(v, name) for v in views]) for name in cls.__dataclass_fields__})


class HeadRenderer:
    """A renderer of heads. On the CPU the same arguments give the same bits, and a batch is its members.

    Args:
        device: where to render.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.mesh = HeadMesh().to(self.device)
        kind = self.mesh.kind
        self._two_sided = torch.isin(kind, torch.tensor(OPEN_KINDS, device=self.device))
        self._pushed_back = INNER_PUSH * torch.isin(kind, torch.tensor(INNER_KINDS, device=self.device))
        corners = self.mesh.paint[self.mesh.faces]  # [F, 3, 3]
        x, y, z = corners.unbind(-1)
        front = (z > 0).any(-1) & (kind == Kind.SKIN)
        reach, high = x.abs(), y
        eye = ((reach - features.EYE_X).abs() < 0.10).any(-1) & ((high - features.EYE_Y).abs() < 0.08).any(-1)
        mouth = (reach < 0.20).any(-1) & ((high - features.MOUTH_Y).abs() < 0.14).any(-1)
        self._may_be_slit = front & (eye | mouth)

    @torch.no_grad()
    def render(
        self,
        identity: Identity,
        expression: Expression,
        light: Light,
        camera: Camera,
        size: int,
        antialias: int = 2,
    ) -> HeadView:
        """Render B pictures of B heads.

        Args:
            identity, expression, light, camera: B of each.
            size: side of the pictures, 16 … 1024 px.
            antialias: each pixel is the mean of antialias² samples, 1 … 4.

        Raises:
            InputError: a size out of range, or batches that differ.
        """
        check_size(size, antialias)
        lengths = (len(identity), len(expression), len(light), len(camera.world_from_camera))
        if len(set(lengths)) != 1 or not lengths[0]:
            raise InputError(
                "render: expected some identities and as many expressions, lights and cameras, got "
                f"{', '.join(map(str, lengths))}; repeat the shorter ones"
            )
        identity, expression, light = (identity.to(self.device), expression.to(self.device), light.to(self.device))
        camera = camera.to(self.device)
        if self.device.type != "cpu":
            return self._together(identity, expression, light, camera, size, antialias)
        # one by one: what a vectorised sine gives in its last bit depends on where in memory its argument lies
        with one_thread():
            single = torch.arange(len(identity)).split(1)
            return HeadView.cat(
                [
                    self._together(identity.take(k), expression.take(k), light.take(k), camera.take(k), size, antialias)
                    for k in single
                ]
            )

    def _together(
        self, identity: Identity, expression: Expression, light: Light, camera: Camera, size: int, antialias: int
    ) -> HeadView:
        posed = self.mesh.pose(identity, expression)
        samples = self._samples(identity, expression, light, camera, posed, size * antialias)
        joints = rotate(landmarks(identity, expression), posed.rotation)
        return HeadView(
            **_pooled(*samples, antialias),
            landmarks=project(joints, camera, size)[0] + 0.5,
            expression=expression.vector,
            neck=expression.neck,
        )

    def _samples(
        self,
        identity: Identity,
        expression: Expression,
        light: Light,
        camera: Camera,
        posed: Posed,
        size: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return samples: image [B, 3, S, S] in [0, 1], opacity, depth [B, 1, S, S], parts [B, S, S], positions."""
        mesh, batch = self.mesh, len(identity)
        fragments = self.fragments(identity, expression, camera, posed, size)
        member, pixel = fragments.member, fragments.pixel
        position = fragments.gather(posed.vertices, mesh.faces)
        kind = mesh.kind.index_select(0, fragments.face)
        # what one head has, broadcasts
        eye, rotation = (
            rows if batch == 1 else rows.index_select(0, member)
            for rows in (camera.world_from_camera[:, :3, 3], posed.rotation)
        )
        towards = eye - position
        distance = dot(towards, towards).sqrt()
        view = towards / distance[:, None]
        normal = unit(fragments.gather(_normals(posed.vertices, mesh.faces), mesh.faces))
        normal = normal * torch.where(dot(normal, view) < 0, -1.0, 1.0)[:, None]
        surface = paint(kind, fragments.gather(mesh.paint, mesh.faces), member, identity, expression)
        lit = shade(surface, kind, position, normal, view, rotation, light.of(member))
        template = fragments.gather(mesh.template, mesh.faces)
        behind = background(light, size).permute(3, 0, 1, 2)  # [3, B, S, S]
        planes = torch.cat([behind, behind.new_zeros(5, batch, size, size)]).flatten(1)  # [8, B * S * S]
        seen = (*lit.unbind(-1), torch.ones_like(distance), distance, *template.unbind(-1))
        for plane, value in zip(planes, seen, strict=True):
            plane[pixel] = value
        parts = torch.full((batch * size * size,), int(Part.BACKGROUND), dtype=torch.int8, device=self.device)
        parts[pixel] = surface.part
        square = (batch, size, size)
        image, opacity, depth, positions = planes.unflatten(1, square).transpose(0, 1).split((3, 1, 1, 3), 1)
        return image, opacity, depth, parts.reshape(square), positions

    def fragments(
        self, identity: Identity, expression: Expression, camera: Camera, posed: Posed, size: int
    ) -> Fragments:
        """Find what each pixel sees of the mesh, hairline and slits cut, one sample a pixel.

        Args:
            identity, expression, camera, posed: B of each.
            size: side of the pictures.
        """
        mesh = self.mesh
        pixels, forward = project(posed.vertices, camera, size)
        visible, cut_hair = self._visible(identity, posed)

        def cut(member: Tensor, face: Tensor, weights: Tensor) -> Tensor:
            push = torch.zeros_like(weights[:, 0])
            tested = self._may_be_slit.index_select(0, face).nonzero()[:, 0]
            if len(tested):
                slit = self._slit(member[tested], face[tested], weights[tested], identity, expression)
                push[tested] = SLIT_PUSH * slit
            place = face if len(cut_hair) == 1 else member * cut_hair.shape[1] + face
            tested = cut_hair.flatten().index_select(0, place).nonzero()[:, 0]
            if len(tested):
                point = self._paint_point(face[tested], weights[tested])
                over = over_hairline(point, identity.of(member[tested]))
                push[tested] = torch.where(over > 0, 0.0, torch.inf)
            return push

        return rasterize(pixels, forward, mesh.faces, visible, self._two_sided, self._pushed_back, size, cut)

    def opened(self, identity: Identity, expression: Expression) -> Tensor:
        """Tell which triangles of one head lie in an open eye slit or between open lips, where no skin is: bool [F]."""
        tested = self._may_be_slit.nonzero()[:, 0]
        middle = torch.full((len(tested), 3), 1 / 3, device=self.device)
        opened = torch.zeros_like(self._may_be_slit)
        opened[tested] = self._slit(torch.zeros_like(tested), tested, middle, identity, expression)
        return opened

    def _visible(self, identity: Identity, posed: Posed) -> tuple[Tensor, Tensor]:
        """[B, F] which triangles are there at all, and which of them the hairline cuts."""
        mesh = self.mesh
        visible = posed.present[:, mesh.kind]
        shell = mesh.kind == Kind.HAIR_SHELL
        height = over_hairline(mesh.paint[mesh.shell_rows], identity.columns())
        height = height[:, mesh.faces[shell] - mesh.shell_rows.start]  # [B, F', 3]
        visible[:, shell] &= height.amax(-1) > -CUT_MARGIN
        cut = torch.zeros_like(visible)
        cut[:, shell] = height.amin(-1) < CUT_MARGIN
        return visible, cut

    def _paint_point(self, face: Tensor, weights: Tensor) -> Tensor:
        no_member = torch.zeros_like(face)
        return Fragments(no_member, no_member, face, weights).gather(self.mesh.paint, self.mesh.faces)

    def _slit(
        self, member: Tensor, face: Tensor, weights: Tensor, identity: Identity, expression: Expression
    ) -> Tensor:
        """Tell whether points of the skin lie in an eye slit or between the lips, [N]."""
        x, y, z = self._paint_point(face, weights).unbind(-1)
        identity, expression = identity.of(member), expression.of(member)
        eye = features.eye_slit(x, y, identity, expression)
        mouth = features.mouth_slit(x, y, identity, expression)
        opened = eye.inside | mouth.inside
        return opened & (z > 0)


def check_size(size: int, antialias: int) -> None:
    """Check the size of a picture. Raises: `InputError` for numbers out of range."""
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise InputError(f"size: expected {SMALLEST_SIZE} to {LARGEST_SIZE} px, got {size}; choose another")
    if not 1 <= antialias <= LARGEST_ANTIALIAS:
        raise InputError(f"antialias: expected 1 to {LARGEST_ANTIALIAS}, got {antialias}; choose another")


def _normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Sum the normals of the faces about each vertex, weighted by their areas: [B, U, 3]."""
    a, b, c = (vertices.index_select(1, faces[:, which]) for which in range(3))  # [B, F, 3]
    normal = torch.linalg.cross(b - a, c - a).flatten(0, 1)
    total = torch.zeros_like(vertices).flatten(0, 1)  # [B * U, 3]
    first = torch.arange(len(vertices), device=faces.device)[:, None] * vertices.shape[1]
    for which in range(3):
        total.index_add_(0, (first + faces[:, which]).flatten(), normal)
    return total.reshape(vertices.shape)


def _pooled(
    image: Tensor, opacity: Tensor, depth: Tensor, parts: Tensor, positions: Tensor, antialias: int
) -> dict[str, Tensor]:
    """Pool samples to pixels: means (of depth and positions over the head alone) and the most frequent part."""
    cover = _pool(opacity, antialias)
    over = cover.clamp(min=1e-6)
    order = torch.channels_last if antialias > 1 else torch.contiguous_format
    return {
        "image": (_pool(image, antialias) * 2 - 1).contiguous(memory_format=order),
        "depth": _pool(depth, antialias) / over,
        "opacity": cover,
        "parts": most_frequent(parts, antialias),
        "positions": (_pool(positions, antialias) / over).contiguous(memory_format=order),
    }


def most_frequent(parts: Tensor, antialias: int) -> Tensor:
    """Return the most frequent part of each pixel's samples, the first of those that are equally frequent.

    Args:
        parts: [B, S * antialias, S * antialias] int8.

    Returns:
        [B, S, S] int8.
    """
    shifts = [(i, j) for i in range(antialias) for j in range(antialias)]
    samples = [parts[:, i::antialias, j::antialias] for i, j in shifts]  # antialias² times [B, S, S]
    winner = samples[0].clone()
    mixed = torch.zeros_like(winner, dtype=torch.bool)
    for sample in samples[1:]:
        mixed |= sample != winner
    votes = F.one_hot(torch.stack([sample[mixed] for sample in samples], 1).long(), len(Part)).sum(1)
    winner[mixed] = votes.argmax(1).to(torch.int8)
    return winner


def _pool(x: Tensor, antialias: int) -> Tensor:
    return F.avg_pool2d(x, antialias) if antialias > 1 else x.contiguous()
