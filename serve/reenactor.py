"""A source prepared once, then frame by frame: the network behind two verbs, pictures in and pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.motion.crop import motion_crop
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.types import Camera, Driving, NeckGrid, Source
from triportrait.serve.crop import to_image, to_tensor
from triportrait.serve.parameters import HeadParameters, Tracking


@dataclass(frozen=True)
class Prepared:
    """A source, ready for any number of frames.

    Attributes:
        source: what the network needs of it.
        shape: [1, 300] FLAME shape, zeros (the mean face) where it is unknown.
    """

    source: Source
    shape: Tensor


class Reenactor:
    """Portrait4D and its motion encoder on one device.

    Args:
        portrait: the network; its super-resolution is folded in place.
        motion_encoder: v.
        device: where to run.
        static: show the source as it is: its expression stays, only cameras and the neck move.
    """

    def __init__(
        self,
        portrait: Portrait4D,
        motion_encoder: MotionEncoder | SmallMotionEncoder,
        device: torch.device | str = "cpu",
        static: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.portrait = portrait.fold().eval().to(self.device)
        self.motion_encoder = motion_encoder.to(self.device)
        self.static = static

    @property
    def image_size(self) -> int:
        """Side of the pictures, in and out, pixels."""
        return self.portrait.config.image_size

    def parts(self) -> dict[str, nn.Module]:
        """The parts of the network by the names that a table of times shows, in the order of the data."""
        r = self.portrait.reconstructor
        parts: dict[str, nn.Module] = {
            "motion encoder": self.motion_encoder,
            "global encoder": r.global_encoder,
            "neutral blocks": r.neutralizer,
            "background": r.background_encoder,
            "detail encoder": r.detail_encoder,
            "motion blocks": r.transfer,
            "plane decoder": r.plane_decoder,
            "volume rendering": self.portrait.volume,
            "super-resolution": self.portrait.superres,
        }
        if self.portrait.neck is not None:
            parts["neck field"] = self.portrait.neck
        return parts

    @torch.inference_mode()
    def prepare(self, image: np.ndarray, tracking: Tracking) -> Prepared:
        """Read a source picture once.

        Args:
            image: uint8 [S, S, 3], aligned, S = `image_size`.
            tracking: what is known of its face.

        Raises:
            InputError: the network made numbers that are not finite.
        """
        picture = to_tensor(image).to(self.device)
        source = self.portrait.prepare(picture, None if self.static else self._motion(picture, tracking))
        _check_finite("neutral features of the source", source.tokens)
        shape = (
            torch.zeros(1, self.portrait.config.neck.num_shape)
            if tracking.parameters is None
            else tracking.parameters.shape
        )
        return Prepared(source, shape.to(self.device))

    @torch.inference_mode()
    def reenact(
        self, prepared: Prepared, image: np.ndarray, tracking: Tracking, cameras: Sequence[Camera], neck: bool = True
    ) -> list[np.ndarray]:
        """One driving frame as pictures of the source.

        Args:
            prepared: from `prepare`.
            image: uint8 [S, S, 3], the aligned driving frame.
            tracking: what is known of its face.
            cameras: the views, one picture each; the planes are made once.
            neck: turn the neck as the driving frame does, where its pose is known.

        Returns:
            One uint8 [S, S, 3] per camera.

        Raises:
            InputError: the network made numbers that are not finite.
        """
        motion = None if self.static else self._motion(to_tensor(image).to(self.device), tracking)
        grid = self._neck_grid(prepared, tracking.parameters) if neck else None
        head = self.portrait.reenact(prepared.source, Driving(motion, grid))
        _check_finite("planes", head.planes)
        pictures = []
        for camera in cameras:
            rendering = self.portrait.render(head, camera.to(self.device))
            _check_finite("rendered feature", rendering.feature)
            _check_finite("picture", rendering.image)
            pictures.append(to_image(rendering.image))
        return pictures

    def _motion(self, picture: Tensor, tracking: Tracking) -> Tensor:
        landmarks = None if tracking.landmarks is None else tracking.landmarks.to(self.device)
        motion = self.motion_encoder(motion_crop(picture, landmarks, self.motion_encoder.crop_size))
        _check_finite("motion", motion)
        return motion

    def _neck_grid(self, prepared: Prepared, parameters: HeadParameters | None) -> NeckGrid | None:
        if parameters is None or self.portrait.neck is None:
            return None
        pose = [p.to(self.device) for p in (parameters.expression, parameters.neck, parameters.jaw, parameters.eyes)]
        grid = self.portrait.neck(prepared.shape, *pose)
        _check_finite("neck field", grid.fine)
        return grid


def _check_finite(name: str, tensor: Tensor) -> None:
    if not bool(tensor.isfinite().all()):
        raise InputError(
            f"{name}: expected finite numbers, the network made others; check the weights with --weights rule"
        )
