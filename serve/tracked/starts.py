"""Reads the start of a fit off the frames while their face is followed, and keeps coefficients, not pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from triportrait.core.metrics.recon3d import SIZES, Coefficients
from triportrait.core.motion.motion_crop import ALIGNED_SIZE
from triportrait.core.tracking.fit import Start
from triportrait.core.tracking.reconstructor_start import (
    ReconstructorStart,
    quick_records,
    reconstructor_crop,
    start_of,
)
from triportrait.serve.faces.face import AlignedFace

AT_A_TIME = 16  # crops that wait for the network


class FilmStart:
    """What a 3DMM reconstructor says of the N frames that show the face: 257 numbers of each.

    Args:
        networks: the reconstructor and the mapper, on the device where they run.
    """

    def __init__(self, networks: ReconstructorStart) -> None:
        self._networks = networks
        self._waiting: list[np.ndarray] = []
        self._read: list[Tensor] = []

    def add(self, image: np.ndarray, face: AlignedFace) -> None:
        """Take the next frame, uint8 [H, W, 3], and the face in it, whose landmarks are known.

        Raises: `InputError` where the landmarks are no face.
        """
        whole = len(face.crop) == ALIGNED_SIZE
        picture = face.crop if whole else face.placed.crop(image, ALIGNED_SIZE)
        assert face.tracking.landmarks is not None
        self._waiting.append(reconstructor_crop(picture, face.tracking.landmarks[0, :, :2].numpy()))
        if len(self._waiting) == AT_A_TIME:
            self._empty()

    def of_frames(self, rows: np.ndarray, at: np.ndarray) -> Start:
        """Return the start of one clip on the CPU, N = 1, in which some of the frames stand at places `at`, rising.

        Places between them hold what the nearest frame before says.
        """
        start = start_of(self._networks.mapper, Coefficients.of(self.coefficients()[rows]))
        places = torch.from_numpy(np.searchsorted(at, np.arange(int(at[-1]) + 1), side="right") - 1)
        assert start.rotation is not None
        expression, jaw, rotation = (part.cpu()[:, places] for part in (start.expression, start.jaw, start.rotation))
        return Start(start.shape.cpu(), expression, jaw, rotation)

    def quick_records(self) -> Tensor:
        """Return the published quick estimate of all N frames, float32 [N, 437], on the CPU."""
        return quick_records(self._networks.mapper, Coefficients.of(self.coefficients())).cpu()

    def coefficients(self) -> Tensor:
        """Return what was read of all N frames, [N, 257], on the networks' device."""
        self._empty()
        self._read = [torch.cat(self._read)]
        return self._read[0]

    def _empty(self) -> None:
        if self._waiting:
            found = self._networks.coefficients(torch.from_numpy(np.stack(self._waiting)))
            parts = (found.identity, found.expression, found.texture, found.angles, found.lighting, found.translation)
            self._read.append(torch.cat(parts, 1))
            assert self._read[-1].shape[1] == sum(SIZES)
            self._waiting = []
