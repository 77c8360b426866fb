"""Holds the networks of a portrait on one device, with the copies to it, the graphs on it and the precision there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.head_identity import OPEN_HEAD_MODEL, PUBLISHED_MODEL, ModelIdentity, check_same_model
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.small_encoder import GAZE, SPREAD
from triportrait.core.person import REFINED, Person, weights_hash, with_parts
from triportrait.core.portrait import Portrait4D
from triportrait.serve.cuda_graph import Copies, Graphs
from triportrait.serve.freed_memory import keep_freed_memory
from triportrait.serve.weight_loading import IsSame, Networks


class NetworkOnDevice:
    """Holds Portrait4D and its motion encoder on one device.

    Attributes:
        dtype: what autocast runs the networks of a frame in; None is float32. `precision.use_precision` sets it.
        beside: what others keep for this device and these captures, by name; it is forgotten with them.
        refined: the networks of people that are shown, as long as somebody holds them; see `refined.refined_by`.
        reload: loads the same networks once more, `WeightFiles.load_again`; None where they are of no folder.
        is_rounded: whether `keep_half` has rounded the weights.

    Args:
        portrait: the network; its super-resolution is folded in place.
        motion_encoder: the network v.
        device: where to run.
        static: switch the layers for motion off: the source keeps its expression, only cameras and the neck move.
    """

    def __init__(
        self,
        portrait: Portrait4D,
        motion_encoder: MotionEncoder,
        device: torch.device | str = "cpu",
        static: bool = False,
    ) -> None:
        self.portrait, self.motion_encoder = portrait.fold().eval(), motion_encoder
        self.static = static
        self.dtype: torch.dtype | None = None
        self.reload: Callable[[IsSame], Networks] | None = None
        self.is_rounded = False
        self._before_rounding: dict[str, nn.Module] = {}
        self._weights_hash: str | None = None
        self.to(device)

    def to(self, device: torch.device | str) -> None:
        """Move the networks; captures are dropped, and sources must be prepared again."""
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.portrait = self.portrait.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.motion_encoder = self.motion_encoder.to(self.device)
        self._copies = Copies(self.device) if self.device.type == "cuda" else None
        self._graphs: Graphs | None = None
        self._geometry_graphs: Graphs | None = None
        self.beside: dict[str, object] = {}
        self.refined: WeakValueDictionary[Person, Any] = WeakValueDictionary()

    @property
    def image_size(self) -> int:
        """Return S, the side of the pictures, in and out, pixels."""
        return self.portrait.config.image_size

    @property
    def marks_on_device(self) -> bool:
        """Whether watermarks are put in by the pass that renders, and not by threads of the host: on a GPU."""
        return self.device.type == "cuda"

    @property
    def can_steer_gaze(self) -> bool:
        """Tell whether the motion has numbers for the gaze; the published encoder's eyes are an embedding."""
        return not self.static and self.motion_encoder.gaze is not None

    @property
    def gaze_units(self) -> Tensor:
        """Return the units of the gaze's two numbers, where the motion has them."""
        columns, gaze = self.motion_encoder.columns, self.motion_encoder.gaze
        return torch.tensor(SPREAD)[GAZE] if columns is None or gaze is None else torch.tensor(columns.scale)[gaze]

    @property
    def reads_parameters(self) -> bool:
        """Tell whether the motion is the parameters of tracked faces, and no picture is read."""
        return not self.static and not self.motion_encoder.reads_pictures

    @property
    def has_flame_neck(self) -> bool:
        """Tell whether the neck of the weights is FLAME's, whose rest pose is not upright; the open head's is."""
        neck = self.portrait.neck
        return isinstance(neck, NeckField) and (neck.identity is None or neck.identity.name != OPEN_HEAD_MODEL)

    def check_head_model(self, model: ModelIdentity | None, where: object) -> None:
        """Refuse parameters of another head model than the weights have; weights without a mesh read none but the turn.

        Args:
            model: of the parameters; None for the turn of a head alone.
            where: what sentences call them.

        Raises: `InputError` where they differ.
        """
        neck = self.portrait.neck
        if model is not None and isinstance(neck, NeckField):
            check_same_model(neck.identity or PUBLISHED_MODEL, model, str(where))

    @property
    def can_turn_neck(self) -> bool:
        """Tell whether the weights hold how a neck turns."""
        return self.portrait.neck is not None

    def parts(self) -> dict[str, nn.Module]:
        """Name the parts of the network as a table of times does, in the order of the data."""
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

    def keep_half(self) -> None:
        """Round the weights that a frame multiplies to `dtype`, once and for all its frames.

        Those that a person's file refines are wanted as they were loaded, as an update is smaller than the steps of
        rounded weights: they are loaded again for the first person, or, without `reload`, kept on the host.
        """
        self.refined.clear()
        self.is_rounded = True
        if self.reload is None:
            self._before_rounding = {name: copy.deepcopy(self.portrait.get_submodule(name)).cpu() for name in REFINED}
        parts = self.portrait.reconstructor
        for part in (self.motion_encoder, parts.transfer, parts.plane_decoder):
            self.round(part)
        self.portrait.superres.to(self.dtype)

    def round(self, part: nn.Module) -> None:
        """Round the weights of a part as `keep_half` does, in place."""
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(self.dtype)

    def as_loaded(self) -> Portrait4D:
        """Return the networks with the parts that a person's file refines as they were loaded, perhaps on the host.

        Raises: `InputError` where the files have changed since.
        """
        if self.is_rounded and not self._before_rounding:
            assert self.reload is not None, "else they were kept"
            loaded, _ = self.reload(self.is_same)
            self._before_rounding = {name: loaded.get_submodule(name).eval() for name in REFINED}
        return with_parts(self.portrait, self._before_rounding)

    def is_same(self, portrait: Portrait4D, motion_encoder: MotionEncoder) -> bool:
        """Tell whether networks as they were loaded are these, number by number in the precision that these have.

        Args:
            portrait: its super-resolution is folded in place. motion_encoder: does not count where these are static.
        """
        pairs: list[tuple[nn.Module, nn.Module]] = [(self.portrait, portrait.fold())]
        if not self.static:
            pairs.append((self.motion_encoder, motion_encoder))
            if motion_encoder.card() != self.motion_encoder.card():
                return False
        return portrait.config == self.portrait.config and all(_are_equal(*pair) for pair in pairs)

    @property
    def weights_hash(self) -> str:
        """Return the hash that binds a person's file to the weights, of the weights as they were loaded.

        Raises: as `as_loaded`.
        """
        if self._weights_hash is None:
            self._weights_hash = weights_hash(self.as_loaded())
        return self._weights_hash

    def _autocast(self) -> AbstractContextManager[object]:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype, cache_enabled=False)  # a cache would outlive a capture

    def _run(
        self, name: str, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Return a function's result, replayed where it was captured."""
        return function(*inputs) if self._graphs is None else self._graphs(name, function, inputs)

    def more_graphs(self) -> Graphs | None:
        """Return room for graphs that share memory with those of `capture`; None where nothing is captured."""
        return None if self._graphs is None else Graphs(self._graphs)

    def stage(self, picture: np.ndarray) -> Tensor:
        """Copy an array to memory that `upload` can read without the host's waiting; any thread may."""
        return torch.tensor(picture) if self._copies is None else self._copies.stage(picture)

    def upload(self, tensor: Tensor) -> Tensor:
        """Copy a tensor of the host to the device, ready for what is computed next."""
        return tensor if self._copies is None else self._copies.upload(tensor)

    def download(self, tensor: Tensor) -> Callable[[], np.ndarray]:
        """Begin to copy a tensor to the host; the function that comes back waits for it."""
        return tensor.numpy if self._copies is None else self._copies.download(tensor)


def _are_equal(ours: nn.Module, loaded: nn.Module) -> bool:
    """Tell whether two modules hold the same numbers, once those that were loaded are rounded as ours are."""
    mine, others = ({**dict(each.named_parameters()), **dict(each.named_buffers())} for each in (ours, loaded))
    return mine.keys() == others.keys() and all(
        torch.equal(tensor.cpu(), others[name].to(tensor.dtype)) for name, tensor in mine.items()
    )
