"""What stands in for a portrait, and where pictures of a set come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.train import little
from triportrait.core.types import Camera, Driving, Head, Rendering
from triportrait.train.data.pictures import Pictures, PictureSet


class Painter:
    """Stands where a portrait stands: a head is its source picture, and `paint` says what is seen of it."""

    def __init__(self, paint: Callable[[Head, Camera], Rendering]) -> None:
        self.config, self.paint = little.model(), paint
        self.asked: list[dict[str, Any]] = []

    def prepare(self, image: Tensor, motion: Tensor | None) -> dict[str, Any]:
        return {"image": image, "motion": motion}

    def reenact(self, source: dict[str, Any], driving: Driving) -> Head:
        self.asked.append({"source": source["motion"], "driving": driving.motion, "neck": driving.neck})
        return Head(source["image"], source["image"] + 5, driving.neck)

    def render(
        self,
        head: Head,
        camera: Camera,
        size: int | None = None,
        jitter: Tensor | None = None,
        uniforms: Tensor | None = None,
    ) -> Rendering:
        self.asked.append({"head": head, "camera": camera, "jitter": jitter, "uniforms": uniforms})
        return self.paint(head, camera)


def everything(chosen: PictureSet) -> tuple[Tensor, Tensor]:
    """The motion [N, 9] of all poses and the camera positions [N, V, 3]."""
    poses = torch.arange(len(chosen))
    views = [chosen.take(poses, torch.full_like(poses, view)) for view in range(chosen.views)]
    return views[0].motion, torch.stack([v.camera.world_from_camera[:, :3, 3] for v in views], 1)


def found_in(chosen: PictureSet, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Pose and view of each picture, by its camera: no two of a set are the same."""
    positions = everything(chosen)[1].flatten(0, 1)
    distance = (pictures.camera.world_from_camera[:, None, :3, 3] - positions).norm(dim=-1)
    assert (distance.amin(1) == 0).all()
    index = distance.argmin(1)
    return index // chosen.views, index % chosen.views
