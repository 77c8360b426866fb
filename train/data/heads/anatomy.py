"""The whole head is one mesh of fixed topology; this module holds its parts and places their vertices.

Letters: B batch, U vertices, F faces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor

from triportrait.train.data.heads import hair, organs
from triportrait.train.data.heads.population import IDENTITY_RANGES, Expression, HairStyle, Identity
from triportrait.train.data.heads.shapes import directions, grid_faces, rotate, rotation_matrix, smoothstep
from triportrait.train.data.heads.skull import RADII, anchors, deform, over_eyeballs, to_world

NECK_BENDS = (-0.42, -0.20)  # world heights between which the neck takes up the head's rotation

SKULL_GRID = (112, 96)  # columns, rows
HAIR_RESTS = 0.6  # share of the rotation that the ends of long hair do not take


class Kind(IntEnum):
    """The material of a triangle, which decides how it is cut and painted."""

    SKIN = 0
    HAIR_SHELL = 1
    HAIR_BUN = 2
    HAIR_SHEET = 3
    EYE = 4
    EAR = 5
    NECK = 6
    TORSO = 7
    MOUTH_BAG = 8
    TEETH = 9
    TONGUE = 10
    GLASSES = 11


OPEN_KINDS = (Kind.HAIR_SHELL, Kind.HAIR_SHEET, Kind.MOUTH_BAG, Kind.TEETH, Kind.GLASSES)  # seen from both sides
INNER_KINDS = (Kind.MOUTH_BAG, Kind.TEETH, Kind.TONGUE)


@dataclass(frozen=True)
class Posed:
    """B heads as meshes.

    Attributes:
        vertices: [B, U, 3] in the world, the neck turned.
        straight: [B, U, 3] in the world, the neck straight (the network's canonical space).
        present: [B, K] bool, which kinds this head has; the hairline decides which of the hair shell is seen.
        rotation: [B, 3, 3] the head's rotation about the neck joint.
    """

    vertices: Tensor
    straight: Tensor
    present: Tensor
    rotation: Tensor


def skull_template(columns: int, rows: int) -> tuple[Tensor, Tensor]:
    """Make the template ellipsoid: points [U, 3], denser in front, template units, and faces."""
    u = torch.linspace(-1, 1, columns + 1)[:-1]
    v = torch.linspace(-1, 1, rows)
    longitude = math.pi * (0.55 * u + 0.45 * u**3)
    latitude = math.pi / 2 * (0.9 * v + 0.1 * v**3)
    return directions(longitude, latitude) * torch.tensor(RADII), grid_faces(columns, rows, closed=True)


class HeadMesh:
    """The mesh of every head of the population.

    Attributes:
        faces: [F, 3] int64; kind: [F] int64, a Kind.
        paint: [U, 3] paint coordinates: template positions on skin and hair shell, unit balls for eyes, ears, bun,
            tongue and torso, and what `organs` and `hair` say for the other parts.
        template: [U, 3] where the vertices of the population's mean head are at rest, scene units: every head's uv.
    """

    def __init__(self) -> None:
        skull = skull_template(*SKULL_GRID)
        ball, bag, teeth = organs.ball(), organs.patch(*organs.BAG), organs.patch(*organs.TEETH)
        parts = [
            (Kind.SKIN, skull), (Kind.HAIR_SHELL, skull), (Kind.HAIR_BUN, hair.bun_faces()),
            (Kind.HAIR_SHEET, hair.sheet_paint()), (Kind.EYE, ball), (Kind.EYE, ball), (Kind.EAR, ball),
            (Kind.EAR, ball), (Kind.MOUTH_BAG, bag), (Kind.TEETH, teeth), (Kind.TEETH, teeth), (Kind.TONGUE, ball),
            *((Kind.GLASSES, tube) for tube in organs.glasses_paint()), (Kind.NECK, organs.neck_paint()),
            (Kind.TORSO, organs.torso_paint()),
        ]  # fmt: skip
        starts = [0]
        for _, (points, _) in parts:
            starts.append(starts[-1] + len(points))
        self.faces = torch.cat([faces + start for (_, (_, faces)), start in zip(parts, starts, strict=False)])
        self.kind = torch.cat([torch.full((len(faces),), int(kind)) for kind, (_, faces) in parts])
        self.paint = torch.cat([points for _, (points, _) in parts])
        self.skull, self.ball = skull[0], ball[0]
        self.neck_paint, self.torso_paint = organs.neck_paint()[0], organs.torso_paint()[0]
        self.patches = {"bag": bag[0], "teeth": teeth[0]}
        # 1 where the head carries a vertex along, 0 where the torso does; the neck lies between
        self.carried = torch.cat([torch.full((len(p),), float(kind != Kind.TORSO)) for kind, (p, _) in parts])
        rows_of = {kind: slice(start, start + len(p)) for (kind, (p, _)), start in zip(parts, starts, strict=False)}
        self.neck_rows, self.shell_rows = rows_of[Kind.NECK], rows_of[Kind.HAIR_SHELL]
        self.sheet_rows = rows_of[Kind.HAIR_SHEET]
        self.template = self.pose(mean_identity(), Expression.neutral(1)).straight[0]

    def to(self, device: torch.device | str) -> HeadMesh:
        """Return this mesh with its tables on a device."""
        mesh = object.__new__(HeadMesh)
        mesh.__dict__.update({k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.__dict__.items()})
        mesh.patches = {k: v.to(device) for k, v in self.patches.items()}
        return mesh

    def pose(self, identity: Identity, expression: Expression) -> Posed:
        """Place the vertices of B heads."""
        who, face = identity.columns(), expression.columns()
        skull, ball = self.skull, self.ball
        anchor = anchors(who)
        eyes, mouth = (anchor["eye_left"], anchor["eye_right"]), anchor["mouth"]
        skin = over_eyeballs(deform(skull, who, face), skull, who, eyes)
        resting = deform(skull, who, Expression.neutral(1).to(skull.device).columns())
        on_head = [
            skin,
            hair.shell(skull, resting, who),
            hair.bun(who),
            hair.sheet(who),
            *(organs.eyeball(eye, ball, who) for eye in eyes),
            organs.ear(anchor["ear_left"], ball, 1.0, who),
            organs.ear(anchor["ear_right"], ball, -1.0, who),
            organs.mouth_bag(mouth, self.patches["bag"], face),
            organs.upper_teeth(mouth, self.patches["teeth"], who, face),
            organs.lower_teeth(mouth, self.patches["teeth"], face),
            organs.tongue(mouth, ball, face),
            *organs.glasses(anchor, who),
        ]
        below = [organs.neck(self.neck_paint, who), organs.torso(self.torso_paint, who)]
        straight = torch.cat([*(to_world(part) for part in on_head), *below], 1)  # [B, U, 3]
        carried = self.carried.expand(straight.shape[:2]).clone()
        carried[:, self.neck_rows] = neck_share(straight[:, self.neck_rows, 1])
        loose = neck_share(straight[:, self.sheet_rows, 1])  # the ends of long hair rest on the shoulders
        carried[:, self.sheet_rows] = 1 - HAIR_RESTS * (1 - loose)
        rotation = rotation_matrix(expression.neck)
        vertices = straight + carried[..., None] * (rotate(straight, rotation) - straight)
        return Posed(vertices, straight, self._present(identity), rotation)

    def _present(self, identity: Identity) -> Tensor:
        present = torch.ones(len(identity), len(Kind), dtype=torch.bool, device=self.faces.device)
        present[:, Kind.HAIR_BUN] = identity.hair_style == HairStyle.BUN
        present[:, Kind.HAIR_SHEET] = identity.hair_style == HairStyle.LONG
        present[:, Kind.GLASSES] = identity.glasses > 0
        return present


def neck_share(height: Tensor) -> Tensor:
    """Return the share of the head's rotation at a world height (scene units): 0 at the torso, 1 at the head."""
    return smoothstep(*NECK_BENDS, height)


def mean_identity() -> Identity:
    """Return the mean head of the population, with short hair; its resting face is the uv space of all heads."""
    middle = {name: torch.tensor([(low + high) / 2]) for name, (low, high) in IDENTITY_RANGES.items()}
    style = torch.tensor([int(HairStyle.SHORT)])
    plain = {name: torch.zeros(1) for name in ("freckles", "beard", "moustache", "glasses")}
    colours = {name: torch.full((1, 3), 0.5) for name in ("skin", "hair", "iris", "cloth", "frame")}
    values = {**middle, **plain, **colours, "hair_style": style}
    return Identity(**{f.name: values[f.name] for f in fields(Identity)})
