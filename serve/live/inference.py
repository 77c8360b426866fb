"""Inference for the live server: JPEG in, face, network, JPEG out; its speed is measured at the start."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.render.geometry_pictures import Shown
from triportrait.core.types import Head
from triportrait.serve.cuda_graph import BATCHES
from triportrait.serve.faces.face import AlignedFace, FaceProvider
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.live.decode_process import shrunk
from triportrait.serve.live.raw_faces import LiveRequest, RawFace, device_faces
from triportrait.serve.live.settings import Settings
from triportrait.serve.live.uploads import MOST_RATIO
from triportrait.serve.media.pictures.decoding_cost import bare_jpeg, jpeg_work
from triportrait.serve.media.pictures.picture_file import decode_picture, read_picture
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.reenactor import PreparedSource, Reenactor

NO_GEOMETRY = "this server was started with --no-geometry, which leaves pictures of geometry out"
NO_MESH = "a mesh takes as long as twenty pictures, and all would wait; `triportrait turntable` makes a film of it"
EXAMPLES = Path(__file__).parent / "page" / "examples"
JPEG_QUALITY = 90
LARGEST_DRIVING_PX = 4096 * 2160
PORTRAIT_PX = 1280  # faces of portraits are looked for at this size
_MOST_SCANS = 4  # of a driving frame: one, or one for each channel
_LEAST_TIMED, _TIMED_S = 5, 1.0


class Follows(Protocol):
    """Crops the face out of frame after frame, or leaves that to the GPU."""

    def follow(self, image: np.ndarray, time_s: float) -> AlignedFace | RawFace: ...


@dataclass(frozen=True, eq=False)
class Portrait:
    """A portrait that a session shows.

    Attributes:
        source: the portrait as the network has read it; until a frame drives it, its own face does.
        stamp: marks the pictures of this portrait.
    """

    source: PreparedSource
    stamp: Stamp


class Engine:
    """Find faces and run the network. One thread uses the network; any thread may call the other methods.

    Args:
        reenactor: the network.
        finder: finds faces, in any number of threads; where it is None, the middle square of a picture is cropped.
        stamp: marks pictures and signs recordings.
        decode: decodes driving frames; by default `decode_jpeg`.
        geometry: show depth and normals, too, where a session asks for them.
    """

    def __init__(
        self,
        reenactor: Reenactor,
        finder: FaceProvider | None,
        stamp: Stamp,
        decode: Callable[[bytes], np.ndarray] | None = None,
        geometry: bool = True,
    ) -> None:
        self._decode = decode
        self.reenactor = reenactor
        self._finder = finder
        self.stamp = stamp
        self._geometry = geometry
        self._flame = reenactor.has_flame_neck
        self._device_faces = device_faces(reenactor, finder)
        self.marks_on_device = reenactor.marks_on_device and stamp.marks
        self.most_batch = BATCHES[-1] if reenactor.device.type == "cuda" else 1
        # A batch pays on a GPU: how long its first frame may wait for the others'.
        self.gather_s = 0.004 if reenactor.device.type == "cuda" else 0.0

    @property
    def side_px(self) -> int:
        """Return the side of the pictures, pixels."""
        return self.reenactor.image_size

    @property
    def not_shown(self) -> dict[Shown, str]:
        """Tell what cannot be shown of a head, and why."""
        return {"mesh": NO_MESH} if self._geometry else {k: NO_GEOMETRY for k in get_args(Shown) if k != "picture"}

    def check_show(self, show: Shown) -> None:
        """Check what a session wants to be shown. Raises: `InputError` where that is `not_shown`."""
        if show in self.not_shown:
            raise InputError(f"show: expected what this server shows, got {show}: {self.not_shown[show]}")

    @property
    def finds_faces(self) -> bool:
        """Return whether anything finds faces."""
        return self._finder is not None

    def decode(self, jpeg: bytes) -> np.ndarray:
        """Decode a driving frame to uint8 [H, W, 3]. Raises: `InputError` as `decode_jpeg`."""
        return (self._decode or decode_jpeg)(jpeg)

    def follower(self) -> Follows:
        """Make a face tracker for one session."""
        if self._device_faces is not None:
            return self._device_faces.follower()
        return (
            _Middle(self.side_px)
            if self._finder is None
            else FaceTracker(self._finder, self.side_px, flame=self._flame, spread=True)
        )

    def crop_portrait(self, image: np.ndarray) -> tuple[AlignedFace, str]:
        """Crop the face of a portrait, uint8 [H, W, 3]; return it with a sentence for the user, which may be empty."""
        if self._finder is None:
            return _Middle(self.side_px).follow(image, 0.0), "its middle square is taken, as nothing finds faces here"
        image = shrunk(image, PORTRAIT_PX)
        faces = self._finder.find(image)
        face = FaceTracker(self._finder, self.side_px, smooth=False, flame=self._flame).follow(image, 0.0, faces)
        if not faces:
            return face, "no face was found in this portrait: its middle square is taken; another one may do better"
        many = f"{len(faces)} faces were found in this portrait: the largest is taken"
        return face, "" if len(faces) == 1 else many

    def motion(self, face: AlignedFace | RawFace) -> Tensor:
        """Compute the motion of a face that will count as neutral; called on the network's thread.

        Raises:
            InputError: the face's frame could not be shown.
        """
        return self.reenactor.motion(on_host(face))

    def reenact_many(self, requests: Sequence[LiveRequest], stamps: Sequence[Stamp]) -> list[np.ndarray]:
        """Show several driving faces, with the watermarks of their stamps where the network is on a GPU.

        Those that are followed when they are shown make a batch, the others another one.
        """
        signs = torch.stack([stamp.watermark_signs for stamp in stamps]) if stamps and self.marks_on_device else None
        faces, raws = [], []
        for i, (source, face, controls) in enumerate(requests):
            if isinstance(face, RawFace):
                raws.append((i, (source, face, controls)))
            else:
                faces.append((i, (source, face, controls)))
        done: list[tuple[int, np.ndarray]] = []
        if faces:
            places, asked = zip(*faces, strict=True)
            pictures = self.reenactor.reenact_many(asked, None if signs is None else signs[list(places)])
            done += zip(places, pictures, strict=True)
        if raws:
            assert self._device_faces is not None
            places, asked_raw = zip(*raws, strict=True)
            pictures = self._device_faces.show(asked_raw, None if signs is None else signs[list(places)])
            done += zip(places, pictures, strict=True)
        return [picture for _, picture in sorted(done, key=lambda each: each[0])]

    def view(self, request: LiveRequest, stamp: Stamp, head: Head | None) -> tuple[np.ndarray, Head]:
        """Render a view of a face that holds still; return it with the head, which the next view takes as `head`.

        Args:
            request: the face, and from where it is seen.
            stamp: the portrait's, for a watermark as of `reenact_many`.
            head: that of the last view, if it is the same face.
        """
        source, face, controls = request
        head = head or self.reenactor.head(source, on_host(face), controls)
        cameras = [controls.camera or fixed_camera()]
        if self.marks_on_device:
            return self.reenactor.marked_views(head, cameras, stamp.watermark_signs, [controls.show])[0][1], head
        return self.reenactor.views(head, cameras, [controls.show])[0], head

    def measure(self) -> float:
        """Warm the network up, and measure the device's time per frame in a full batch, seconds."""
        picture = example_picture()
        face, _ = self.crop_portrait(picture)
        source = self.reenactor.prepare(face)
        requests: list[LiveRequest] = [
            (source, face, Settings(yaw_deg=i).controls(0.0, face)) for i in range(self.most_batch)
        ]
        stamps = [self.stamp] * len(requests)
        sizes = sorted({min(size, self.most_batch) for size in BATCHES})
        for size in sizes:  # captured before threads begin
            self.reenact_many(requests[:size], stamps[:size])
        if self._device_faces is not None:
            self._device_faces.capture(source, picture, sizes, self.marks_on_device, self._geometry)
            followers = [self._device_faces.follower() for _ in requests]
            for time_s in (0.0, 0.04):  # the face is taken, then followed
                requests = [
                    (source, follower.follow(picture, time_s), controls)
                    for follower, (_, _, controls) in zip(followers, requests, strict=True)
                ]
                self.reenact_many(requests, stamps)
        seconds: list[float] = []
        while len(seconds) < _LEAST_TIMED or sum(seconds) < _TIMED_S:
            began = time.perf_counter()
            self.reenact_many(requests, stamps)
            seconds.append(time.perf_counter() - began)
        return float(np.median(seconds)) / len(requests)

    def close(self) -> None:
        """Close the face finder."""
        if self._finder is not None:
            self._finder.close()


def on_host(face: AlignedFace | RawFace) -> AlignedFace:
    """Return a face with its crop, which is fetched from the device if it is there."""
    return face.aligned() if isinstance(face, RawFace) else face


def examples() -> list[str]:
    """List the names of the portraits in the package, without their suffix."""
    return sorted(path.stem for path in EXAMPLES.glob("*.jpg"))


def example_picture(name: str | None = None) -> np.ndarray:
    """Read a portrait of the package: one of `examples()`, the first by default."""
    return read_picture(EXAMPLES / f"{name or examples()[0]}.jpg")


def check_jpeg(data: bytes) -> None:
    """Refuse a driving frame that no browser makes, as only the size of those bounds the time to decode them.

    Raises:
        InputError: it is no JPEG with one scan, or with one for each channel.
    """
    if data[:2] != b"\xff\xd8":
        raise InputError("driving frame: this is not a picture that can be read; send a JPEG")
    work = jpeg_work("driving frame", data)
    if work.scans > _MOST_SCANS or not work.baseline:
        raise InputError(
            "driving frame: a JPEG of one scan is wanted, a progressive one or one of another kind came; "
            "save it as a baseline JPEG"
        )


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode a driving frame to uint8 [H, W, 3], without its colour profile.

    Raises:
        InputError: `check_jpeg` refuses it, or it is damaged or too large.
    """
    check_jpeg(data)
    return decode_picture(bare_jpeg(data), "driving frame", LARGEST_DRIVING_PX, MOST_RATIO)


def encode_jpeg(picture: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] as JPEG."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return out.getvalue()


class _Middle:
    """Crop the middle square of every picture, where nothing finds faces."""

    def __init__(self, side_px: int) -> None:
        self._side_px = side_px

    def follow(self, image: np.ndarray, time_s: float) -> AlignedFace:
        return AlignedFace.middle(image, self._side_px)
