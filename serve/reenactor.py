"""A source prepared once, then frame by frame: the network behind a few verbs, pictures in and pictures out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.motion_crop import crop_map, cut
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.small_encoder import GAZE, SPREAD, SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.types import Camera, Driving, Head, NeckGrid, Rendering, Source
from triportrait.serve.crop import to_float, to_uint8
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.graph import Captured, Copies
from triportrait.serve.inputs import SourcePicture
from triportrait.serve.memory import keep_freed_memory
from triportrait.serve.parameters import HeadParameters, Tracking


@dataclass(frozen=True, eq=False)
class PreparedSource:
    """A source picture that was read once and serves any number of frames.

    Attributes:
        source: the features of the network, cached.
        face: the source's own face, aligned.
        shape: [1, 300] FLAME shape, zeros (the mean face) where it is unknown.
        motion: [1, M], v_s; None for a static source.
        planes: the planes of a static source, which no driving frame changes.
        picture: the whole picture that the face was cut out of, where it is kept.
    """

    source: Source
    face: AlignedFace
    shape: Tensor
    motion: Tensor | None
    planes: Tensor | None = None
    picture: SourcePicture | None = None


@dataclass(frozen=True, eq=False)
class Controls:
    """How a source follows a driving frame, and from where it is seen.

    Attributes:
        camera: one camera; None is the fixed view in front of the face, with the intrinsics of the driving frame's
            published parameters where it has some.
        neck: turn the neck as the driving frame does, where its pose is known; else the neck is still.
        motion_strength: s in v = v_s + s (v_d - v_s): 0 keeps the source's expression, 1 takes the driving one.
        gaze: added to where the eyes look, to the head's left and up; 1 is from the middle to the rim of the eye. It
            has no effect where `can_steer_gaze` is False.
        neutral: [1, M], the motion of the driving face at rest. Then v = v_s + s (v_d - neutral), so that the shape
            of the driving face stays behind.
    """

    camera: Camera | None = None
    neck: bool = True
    motion_strength: float = 1.0
    gaze: tuple[float, float] = (0.0, 0.0)
    neutral: Tensor | None = None


DEFAULT_CONTROLS = Controls()
Request = tuple[PreparedSource, AlignedFace, Controls]


class Reenactor:
    """Portrait4D and its motion encoder on one device.

    Attributes:
        dtype: what the networks of a frame run in, by autocast: None is float32. `precision.use_precision` sets it.

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
        self.portrait, self.motion_encoder = portrait.fold().eval(), motion_encoder
        self.static = static
        self.dtype: torch.dtype | None = None
        self.to(device)

    def to(self, device: torch.device | str) -> None:
        """Move the networks; what was captured is captured anew by `capture`, prepared sources are prepared anew."""
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.portrait = self.portrait.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.motion_encoder = self.motion_encoder.to(self.device)
        self._last_neck: tuple[list[Tensor], NeckGrid] | None = None
        self._copies = Copies(self.device) if self.device.type == "cuda" else None
        self._graphs: dict[str, Captured] | None = None
        self._pool: Any = None

    @property
    def image_size(self) -> int:
        """Side of the pictures, in and out, pixels."""
        return self.portrait.config.image_size

    @property
    def can_steer_gaze(self) -> bool:
        """Whether the motion has numbers for the gaze; the published encoder's eyes are an embedding."""
        return not self.static and isinstance(self.motion_encoder, SmallMotionEncoder)

    @property
    def has_flame_neck(self) -> bool:
        """Whether the neck of the weights is FLAME's, whose rest pose is not upright."""
        return isinstance(self.portrait.neck, NeckField)

    @property
    def can_turn_neck(self) -> bool:
        """Whether the weights know how a neck turns."""
        return self.portrait.neck is not None

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

    def keep_half(self) -> None:
        """Round the weights that a frame multiplies to `dtype` for good, as autocast would in every frame again."""
        parts = self.portrait.reconstructor
        for part in (self.motion_encoder, parts.transfer, parts.plane_decoder):
            for module in part.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.to(self.dtype)
        self.portrait.superres.to(self.dtype)

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture the launches of a frame as CUDA graphs, for single frames from now on; a CPU has none.

        Hooks of the parts are then no longer called, and `dtype` may not change any more.
        """
        if self.device.type != "cuda":
            return
        self._graphs, self._pool = {}, torch.cuda.graph_pool_handle()
        side, c = self.image_size, self.portrait.config.neck
        grey = AlignedFace.whole(np.full((side, side, 3), 128, np.uint8))
        head = self.head(self.prepare(grey), grey)
        sizes = ((c.fine_size,) * 3 + (4,), (c.coarse_size,) * 3 + (3,))
        fine, coarse = (torch.zeros(1, *size, device=self.device) for size in sizes)
        still = NeckGrid(fine, coarse, self.portrait.config.render.box_side, c.near_squared_distance)
        for each in (head, replace(head, neck=still)) if self.can_turn_neck else (head,):
            self.views(each, [fixed_camera()])

    @torch.inference_mode()
    def prepare(self, face: AlignedFace) -> PreparedSource:
        """Read the face of a source picture once.

        Raises:
            InputError: the network made numbers that are not finite.
        """
        motion = None if self.static else self.motion(face)
        picture = to_float(self._upload(torch.tensor(face.crop)[None]))
        source = self.portrait.prepare(picture, motion)  # once: in float32
        _check_finite("neutral features of the source", source.tokens)
        parameters = face.tracking.parameters
        shape = torch.zeros(1, self.portrait.config.neck.num_shape) if parameters is None else parameters.shape
        with self._autocast():
            source = self.portrait.cache(source)
            planes = self.portrait.reenact(source, Driving(None)).planes if self.static else None
        return PreparedSource(source, face, shape, motion, planes)

    @torch.inference_mode()
    def motion(self, face: AlignedFace) -> Tensor:
        """The motion embedding v of a face: [1, M]."""
        with self._autocast():
            return self._encode_motion(self._upload(torch.tensor(face.crop)[None]), self._crop_map(face.tracking))

    def head(self, source: PreparedSource, face: AlignedFace, controls: Controls = DEFAULT_CONTROLS) -> Head:
        """The source's head as it follows a driving face, ready for `views`; the camera of the controls is not read."""
        return self._heads([(source, face, controls)])

    @torch.inference_mode()
    def views(self, head: Head, cameras: Sequence[Camera]) -> list[np.ndarray]:
        """Pictures of a head, one uint8 [S, S, 3] per camera; the transformer does not run.

        Raises:
            InputError: the network made numbers that are not finite.
        """
        downloads = [self._pictures(head, camera) for camera in cameras]
        return [picture for wait in downloads for picture in wait()]

    def reenact(
        self, source: PreparedSource, face: AlignedFace, controls: Controls = DEFAULT_CONTROLS
    ) -> np.ndarray:  # fmt: skip
        """One driving face as a picture of the source, uint8 [S, S, 3]: `head`, then one of `views`.

        Raises:
            InputError: the network made numbers that are not finite.
        """
        return self.views(self.head(source, face, controls), [controls.camera or fixed_camera()])[0]

    @torch.inference_mode()
    def reenact_many(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Several driving faces, of one source or of several, in one pass.

        Returns:
            For each request the picture that `reenact` gives, in float32 within 2 of 255 levels: the sums of a batch
            run in another order.

        Raises:
            InputError: the network made numbers that are not finite.
        """
        if not requests:
            return []
        cameras = Camera.cat([controls.camera or fixed_camera() for _, _, controls in requests])
        return self._pictures(self._heads(requests), cameras)()

    @torch.inference_mode()
    def render(self, head: Head, camera: Camera) -> Rendering:
        """B views of B heads as tensors, for whoever compares."""
        with self._autocast():
            return self.portrait.render(head, camera.to(self.device))

    @torch.inference_mode()
    def _heads(self, requests: Sequence[Request]) -> Head:
        sources = [source for source, _, _ in requests]
        source = sources[0].source if len(requests) == 1 else Source.cat([each.source for each in sources])
        neck = self._necks(requests)
        if self.static:
            return Head(torch.cat([s.planes for s in sources if s.planes is not None]), source.background, neck)
        images = self._upload(torch.from_numpy(np.stack([face.crop for _, face, _ in requests])))
        maps = torch.cat([self._crop_map(face.tracking) for _, face, _ in requests])
        steering = [torch.cat(x) for x in zip(*(self._steering(s, c) for s, _, c in requests), strict=True)]
        assert source.detail_partial is not None
        inputs = images, maps, *steering, source.tokens, source.detail_partial
        (planes,) = self._run("planes", self._planes, inputs)
        return Head(planes, source.background, neck)

    def _planes(
        self, images: Tensor, maps: Tensor, strength: Tensor, origin: Tensor, shift: Tensor, tokens: Tensor,
        detail_partial: Tensor,
    ) -> tuple[Tensor]:  # fmt: skip
        """What a driving frame changes: pictures uint8 [B, S, S, 3] to planes; see `_steering`."""
        with self._autocast():
            motion = self._encode_motion(images, maps)
            motion = motion + (strength - 1) * (motion - origin) + shift  # at 1 not a bit is changed
            side = self.portrait.config.image_size // 16
            return (self.portrait.planes(tokens, (side, side), motion, None, detail_partial),)

    def _encode_motion(self, images: Tensor, maps: Tensor) -> Tensor:
        crops = cut(to_float(images), maps, self.motion_encoder.crop_size)
        return self.motion_encoder(crops).float()

    def _steering(self, source: PreparedSource, controls: Controls) -> tuple[Tensor, Tensor, Tensor]:
        """The strength [1, 1], and the origin and shift [1, M] of v = v_d + (strength - 1) (v_d - origin) + shift."""
        source_motion = source.motion
        assert source_motion is not None
        origin = source_motion if controls.neutral is None else controls.neutral.to(source_motion)
        shift = source_motion - origin
        if controls.gaze != (0.0, 0.0) and self.can_steer_gaze:
            units = torch.tensor(controls.gaze) / torch.tensor(SPREAD)[GAZE]
            shift = shift + F.pad(units, (GAZE.start, source_motion.shape[1] - GAZE.stop)).to(source_motion)
        return source_motion.new_full((1, 1), controls.motion_strength), origin, shift

    def _pictures(self, head: Head, camera: Camera) -> Callable[[], list[np.ndarray]]:
        """Begin B views of B heads; what comes back waits for them."""
        neck = head.neck
        grids = () if neck is None else (neck.fine, neck.coarse)
        camera = Camera(self._upload(camera.world_from_camera), self._upload(camera.intrinsics))
        inputs = head.planes, head.background, camera.world_from_camera, camera.intrinsics, *grids
        images, finite = self._run("view" if neck is None else "turned view", self._view, inputs)
        # the numbers travel with the pictures: one wait for the device, and only then who is to blame
        downloads = [self._download(x) for x in (images, finite)]

        def wait() -> list[np.ndarray]:
            pictures, all_finite = (download() for download in downloads)
            if not all_finite.all():
                self._blame(head, camera)
            return list(pictures)

        return wait

    def _view(
        self, planes: Tensor, background: Tensor, pose: Tensor, intrinsics: Tensor, *grids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """B views: pictures uint8 [B, S, S, 3], and whether all of their numbers are finite."""
        config = self.portrait.config
        box_side, near = config.render.box_side, config.neck.near_squared_distance
        neck = NeckGrid(grids[0], grids[1], box_side, near) if grids else None
        with self._autocast():
            image = self.portrait.render(Head(planes, background, neck), Camera(pose, intrinsics)).image
        return to_uint8(image), image.isfinite().all()[None]

    @torch.inference_mode()
    def _blame(self, head: Head, camera: Camera) -> None:
        rendering = self.render(head, camera)
        _check_finite("planes", head.planes)
        _check_finite("rendered feature", rendering.feature)
        _check_finite("picture", rendering.image)

    def _crop_map(self, tracking: Tracking) -> Tensor:
        landmarks = None if tracking.landmarks is None else tracking.landmarks.cpu().float()
        return self._upload(crop_map(landmarks, self.image_size))

    def _autocast(self) -> AbstractContextManager[object]:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype, cache_enabled=False)  # a cache would outlive a capture

    def _run(
        self, name: str, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """A function's result, replayed where it was captured; batches come in too many sizes for that."""
        if self._graphs is None or len(inputs[0]) > 1:
            return function(*inputs)
        if name not in self._graphs:
            self._graphs[name] = Captured(function, inputs, self._pool)
        return self._graphs[name](*inputs)

    def _upload(self, tensor: Tensor) -> Tensor:
        return tensor if self._copies is None else self._copies.upload(tensor)

    def _download(self, tensor: Tensor) -> Callable[[], np.ndarray]:
        return tensor.numpy if self._copies is None else self._copies.download(tensor)

    def _necks(self, requests: Sequence[Request]) -> NeckGrid | None:
        grids = [self._neck_grid(s, face.tracking.parameters) if c.neck else None for s, face, c in requests]
        moving = [grid for grid in grids if grid is not None]
        if not moving:
            return None
        still = replace(moving[0], fine=torch.zeros_like(moving[0].fine), coarse=torch.zeros_like(moving[0].coarse))
        return moving[0] if len(grids) == 1 else NeckGrid.cat([still if grid is None else grid for grid in grids])

    def _neck_grid(self, source: PreparedSource, parameters: HeadParameters | None) -> NeckGrid | None:
        if parameters is None or self.portrait.neck is None:
            return None
        pose = [parameters.expression, parameters.neck, parameters.jaw, parameters.eyes]
        inputs = [source.shape, *pose]  # a held pose gives the same inputs again, and a mesh takes its time
        if self._last_neck is None or not all(map(torch.equal, inputs, self._last_neck[0])):
            self._last_neck = inputs, self.portrait.neck(*(p.to(self.device) for p in inputs))
        return self._last_neck[1]


def _check_finite(name: str, tensor: Tensor) -> None:
    if not bool(tensor.isfinite().all()):
        raise InputError(
            f"{name}: expected finite numbers, the network made others; check the weights with --weights rule"
        )
