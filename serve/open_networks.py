"""Holds the networks of a pipeline from when they are loaded until it is closed: where they are, how long they take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self
from weakref import WeakSet

import torch

from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.gpus import named_device
from triportrait.core.tracking.head_model import HeadModel
from triportrait.serve.animation import Animation
from triportrait.serve.faces.providers import LazyProvider
from triportrait.serve.first_start import FirstStart
from triportrait.serve.part_times import PartTimes
from triportrait.serve.precision import DTYPES
from triportrait.serve.reenactor import PreparedSource, Reenactor
from triportrait.serve.weight_loading import WeightFiles, located


class OpenNetworks:
    """Holds the networks and what finds faces, and releases them.

    Args:
        reenactor: the networks.
        weights: `demo`, `rule` or the folder of the weights.
        faces: finds faces.
        first_start: measures how long the first frame is waited for.

    Attributes:
        weights: as given; a folder by its whole path.
        times: how long each step took, see `time_parts`.
    """

    def __init__(
        self, reenactor: Reenactor, weights: str, faces: LazyProvider, first_start: FirstStart | None = None
    ) -> None:  # fmt: skip
        self.weights, self.times = located(weights), PartTimes()
        self._first_start = first_start or FirstStart(reenactor, "fp32")
        self._open: Reenactor | None = reenactor
        self._files = WeightFiles(weights, reenactor.static)
        self._finder = faces
        self._captured = self._timed = False
        self._head_model: HeadModel | None = None
        self._animations: WeakSet[Animation] = WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._open is None:
            return f"{type(self).__name__}({self.weights!r}, closed)"
        return f"{type(self).__name__}({self.weights!r}, device={str(self.device)!r}, precision={self.precision!r})"

    def close(self) -> None:
        """End the animations that are under way and release the networks and the face detector."""
        for animation in list(self._animations):
            animation.close()
        self._finder.close()
        self._open = None

    @property
    def config(self) -> ModelConfig:
        """Return the sizes of the network."""
        return self._reenactor.portrait.config

    @property
    def device(self) -> torch.device:
        """Return the device that the networks are on."""
        return self._reenactor.device

    @property
    def precision(self) -> str:
        """Return the precision of the networks: fp32, bf16 or fp16."""
        return next((name for name, dtype in DTYPES.items() if dtype == self._reenactor.dtype), "fp32")

    @property
    def image_size(self) -> int:
        """Return S, the side of the pictures in pixels."""
        return self._reenactor.image_size

    def to(self, device: str | torch.device) -> Self:
        """Move the networks to another device, in the same precision; sources must then be prepared again.

        Raises:
            InputError: there is no such device.
        """
        self._reenactor.to(named_device(device))
        self._captured, self._first_start = False, FirstStart(self._reenactor, self.precision)
        return self

    def time_parts(self) -> None:
        """Measure each part of the network in `times`, too, which slows a GPU down; call it before the first frame."""
        self._timed = True
        with self._first_start.part(last=True):
            self._reenactor.warm_up()  # nothing is compiled while parts are measured
        self.times.hook(self._reenactor.parts())

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the weights into a folder that `from_pretrained` loads, bit for bit the same.

        The files that were loaded are copied, in their stored precision; each appears whole or not at all.

        Raises:
            InputError: the weights have changed since, or the folder cannot be written or holds other weights.
        """
        self._files.copy(Path(folder), lambda *loaded: self._reenactor.is_same(*loaded))
        return Path(folder)

    def _check_prepared(self, source: PreparedSource) -> None:
        if not isinstance(source, PreparedSource):
            raise InputError(f"source: expected one from Pipeline.prepare, got {type(source).__name__}; prepare it")
        device = next(self._reenactor.portrait.parameters()).device
        if source.source.tokens.device != device or (source.motion is None) != self._reenactor.static:
            raise InputError("source: it was prepared on another device or by another pipeline; prepare it again")

    @property
    def _motion_width(self) -> int:
        return self.config.transformer.motion_width

    @property
    def _reenactor(self) -> Reenactor:
        if self._open is None:
            raise InputError("the pipeline is closed; make another by Pipeline.from_pretrained")
        return self._open

    def _network(self) -> Reenactor:
        """Return the networks, after capturing their launches once on a GPU."""
        reenactor = self._reenactor
        if not self._captured and not self._timed:
            self._captured = True
            with self._first_start.part(last=True):
                reenactor.capture()
        return reenactor
