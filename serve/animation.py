"""Drives one source by one clip, frame by frame, and warns of what was missing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.faces.models import COMMAND
from triportrait.core.render.cameras import fixed_camera, orbit_deg, turned
from triportrait.core.render.geometry_pictures import Shown
from triportrait.core.types import Camera
from triportrait.serve.controls import Controls
from triportrait.serve.faces.alignment import middle_square
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.serve.faces.paste_back import PasteBack, registered
from triportrait.serve.faces.providers import LazyProvider
from triportrait.serve.faces.relative_motion import Relative
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.followed_clip import FollowedClip
from triportrait.serve.followed_frames import can_follow, followed_frames
from triportrait.serve.media.provenance.watermark import Watermark, message_of
from triportrait.serve.media.video.clips import Frame
from triportrait.serve.overlap import read_ahead
from triportrait.serve.part_times import PartTimes
from triportrait.serve.picture_inputs import PictureStream
from triportrait.serve.reenactor import PreparedSource, Reenactor
from triportrait.serve.refined import sha256_of
from triportrait.serve.shown_geometry import check_show
from triportrait.serve.source_and_driving import DrivingFrames, SourcePicture, check_finds_faces

ORBIT_PERIOD_S = 4.0
LARGEST_YAW_DEG, LARGEST_PITCH_DEG = 180.0, 89.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Holds the options that `Pipeline.animate` and the command `reenact` share; `Pipeline.animate` explains each."""

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    orbit: bool = False
    relative: bool = False
    smooth: bool = True
    paste_back: bool = False
    side_by_side: bool = False
    frames: int | None = None
    driving_face: int | None = None

    def check(self, spell: Callable[[str], str] = str) -> None:
        """Check the numbers, and that the options go together.

        Args:
            spell: how a sentence writes an option's name.

        Raises:
            InputError: a number is out of its range, or options exclude each other.
        """
        if self.frames is not None and self.frames < 1:
            raise InputError(f"{spell('frames')}: expected at least 1, got {self.frames}")
        for name, value, bound in (
            ("yaw_deg", self.yaw_deg, LARGEST_YAW_DEG),
            ("pitch_deg", self.pitch_deg, LARGEST_PITCH_DEG),
        ):
            if not -bound <= value <= bound:
                raise InputError(f"{spell(name)}: expected a number from {-bound:g} to {bound:g}, got {value:g}")
        check_face_number(spell("driving_face"), self.driving_face)
        if self.paste_back and (self.side_by_side or self.orbit or self.yaw_deg or self.pitch_deg):
            *others, last = (spell(name) for name in ("side_by_side", "orbit", "yaw_deg", "pitch_deg"))
            raise InputError(
                f"{spell('paste_back')}: the portrait has one view; leave {', '.join(others)} and {last} out"
            )


def check_face_number(name: str, number: int | None) -> None:
    """Check the number of a face, which counts from 1. Raises: `InputError`."""
    if number is not None and number < 1:
        raise InputError(f"{name}: expected at least 1, the leftmost face, got {number}")


def check_controls(controls: object, motion_width: int) -> None:
    """Check controls that a program made.

    Raises:
        InputError: a type or a shape is another one, or a number is not finite.
    """
    if not isinstance(controls, Controls):
        raise InputError(f"controls: expected triportrait.Controls, got {type(controls).__name__}; make one")
    camera, neutral = controls.camera, controls.neutral
    check_show(controls.show, spell=lambda name: f"controls.{name}")
    if camera is not None and (not isinstance(camera, Camera) or camera.world_from_camera.shape != (1, 4, 4)):
        raise InputError("controls.camera: expected one Camera, got another number or type; see Pipeline.camera")
    if not math.isfinite(controls.motion_strength) or not all(map(math.isfinite, controls.gaze)):
        raise InputError("controls: expected finite numbers for motion_strength and gaze, got others; change them")
    if neutral is not None and tuple(neutral.shape) != (1, motion_width):
        came = list(getattr(neutral, "shape", ()))
        raise InputError(f"controls.neutral: expected [1, {motion_width}] from Pipeline.motion, got {came}; make it so")


@dataclass(frozen=True, eq=False)
class Origin:
    """Tells where an animated frame comes from, for the manifest and the sound of the video that it becomes part of.

    Attributes:
        picture: the portrait.
        driving: the clip; None for a frame of `Pipeline.frame`.
        composite: whether a generated picture was put into a recorded one.
        person_sha256: of the file of the portrait's refinement, if there is one.
    """

    picture: SourcePicture
    driving: DrivingFrames | None
    composite: bool
    person_sha256: str | None = None

    @classmethod
    def of(cls, source: PreparedSource, driving: DrivingFrames | None = None, composite: bool = False) -> Origin:
        """Tell where frames of a portrait come from that `Pipeline.prepare` gave."""
        assert source.picture is not None, "prepared by Pipeline.prepare"
        return cls(source.picture, driving, composite, sha256_of(source.refined))


@dataclass(frozen=True, eq=False)
class AnimatedFrame:
    """Holds one frame of the result.

    Attributes:
        image: uint8 [H, W, 3], RGB, without watermark; S x S unless it is pasted back or beside others.
        time_s: when it is shown, seconds from the first frame.
        index: the number of its driving frame, from 0.
        camera: from where the result is seen; that of the moving view where two are shown.
        face_found: whether the driving frame shows the face. If not, the last pose is held, or the source's own
            expression kept before the first face.
        origin: where the frame comes from.
        marked: `image` and the same with the portrait's watermark, where the network's device made it; if `image` is
            another one now, it counts no more.
    """

    image: np.ndarray
    time_s: float
    index: int
    camera: Camera
    face_found: bool
    origin: Origin
    marked: tuple[np.ndarray, np.ndarray] | None = None


def base_camera(face: AlignedFace, controls: Controls) -> Camera:
    """Choose the camera that yaw and pitch then turn.

    It is that of the controls, else the fixed one with the intrinsics of the driving frame's parameters, or with
    their whole camera where the neck is kept still.
    """
    if controls.camera is not None:
        return controls.camera
    camera = fixed_camera()
    if face.tracking.parameters is None:
        return camera
    tracked = face.tracking.parameters.camera
    return Camera(camera.world_from_camera, tracked.intrinsics) if controls.neck else tracked


def until_seen(face: AlignedFace, controls: Controls) -> Controls:
    """Return the controls of a driving frame; before the first face the source keeps its own expression."""
    return controls if face.is_known else replace(controls, motion_strength=0.0)


class Animation:
    """Gives the frames of a source that a clip drives, made one by one as they are asked for.

    Iterate over it once. Closing it early, or leaving its `with` block, ends its reading threads and closes the clip.

    Attributes:
        fps: nominal rate of the driving clip.
        frame_count: how many frames it gives; None where the clip does not tell.
        tracker: follows the driving face, and counts where it was seen.
        marks: let a GPU put the watermark into its pictures, too, see `AnimatedFrame.marked`. Who saves the frames sets
            it; on a CPU, and where pictures are put beside or into others, whoever writes them marks them.
    """

    def __init__(
        self, reenactor: Reenactor, source: PreparedSource, driving: DrivingFrames,
        controls: Callable[[float], Controls], options: Options, finder: LazyProvider, times: PartTimes,
    ) -> None:  # fmt: skip
        assert source.picture is not None, "prepared by Pipeline.prepare"
        self._reenactor, self._source, self._driving, self._controls = reenactor, source, driving, controls
        self._options, self._finder, self._times = options, finder, times
        clip, limit = driving.clip, options.frames
        if driving.tracked is not None:
            reenactor.check_head_model(driving.tracked.head_model, driving.tracked.root)
        self.fps = clip.fps
        self.frame_count = clip.frame_count if limit is None else min(limit, clip.frame_count or limit)
        self.tracker = FaceTracker(
            finder() if driving.needs_finder else None, reenactor.image_size,
            smooth=options.smooth and not clip.is_pictures, face=options.driving_face, flame=reenactor.has_flame_neck,
        )  # fmt: skip
        if driving.needs_finder and self.tracker.provider is None:
            check_finds_faces(driving.name, "--driving-face", options.driving_face)
        self._origin = Origin.of(source, driving, options.paste_back or options.side_by_side)
        self.marks = False
        self._signs = Watermark(message_of(source.picture.sha256())).signs
        self._relative = Relative(reenactor, source.face.tracking) if options.relative else None
        self._log_what_is_missing()
        self._paste = self._paste_back() if options.paste_back else None
        self._followed = self._followed_on_device()
        self._frames = self._animate() if self._followed is None else self._animate_on_device(self._followed)

    def __iter__(self) -> Iterator[AnimatedFrame]:
        return self

    def __next__(self) -> AnimatedFrame:
        return next(self._frames)

    def __enter__(self) -> Animation:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the reading threads and close the clip."""
        self._frames.close()

    def _animate(self) -> Generator[AnimatedFrame, None, None]:
        # A program's own iterable is read in the program's own thread, when its next picture is needed. A clip has one
        # thread that decodes and one that follows the face.
        is_iterable = isinstance(self._driving.clip, PictureStream)
        with closing(self._faces(self._read()) if is_iterable else read_ahead(self._faces_ahead)) as faces:
            for frame, face in faces:
                yield self._animated(frame, face)
        self._warn()

    def _animate_on_device(self, followed: FollowedClip) -> Generator[AnimatedFrame, None, None]:
        """Follow and show in one graph; a thread decodes, and copies frames to where they are uploaded from."""

        def staged() -> Generator[tuple[Frame, Tensor], None, None]:
            with closing(self._read()) as frames:
                for frame in frames:
                    yield frame, followed.stage(frame.image)

        is_iterable = isinstance(self._driving.clip, PictureStream)
        with closing(staged() if is_iterable else read_ahead(staged)) as frames:
            for frame, picture in frames:
                yield self._animated_on_device(followed, frame, picture)
        self._warn()

    def _warn(self) -> None:
        for warning in (*self._driving.new_warnings(), *self._what_was_missing()):
            logger.warning("%s", warning)

    def _followed_on_device(self) -> FollowedClip | None:
        """Make what follows a film's face on a GPU; None where the host follows it, or nothing is followed."""
        options, tracker = self._options, self.tracker
        is_shown_alone = not (options.relative or options.paste_back or options.side_by_side)
        is_film = isinstance(tracker.provider, NetworkFaces) and not self._driving.clip.is_pictures
        if not (is_film and is_shown_alone and can_follow(self._reenactor)):
            return None
        return FollowedClip(followed_frames(self._reenactor, tracker.smooth), tracker, self._source)

    def _read(self) -> Generator[Frame, None, None]:
        with closing(self._driving.clip.frames(self._options.frames)) as frames:
            while True:
                with self._times.part("read a frame"):
                    frame = next(frames, None)
                if frame is None:
                    return
                yield frame

    def _faces_ahead(self) -> Generator[tuple[Frame, AlignedFace], None, None]:
        return self._faces(read_ahead(self._read))

    def _faces(self, frames: Generator[Frame, None, None]) -> Generator[tuple[Frame, AlignedFace], None, None]:
        with closing(frames):
            for frame in frames:
                with self._times.part("find and crop the face"):
                    item = (frame, self._driving.face(frame, self.tracker))
                yield item

    def _animated(self, frame: Frame, face: AlignedFace) -> AnimatedFrame:
        options, source_face = self._options, self._source.face
        controls = until_seen(face, self._controls(frame.time_s))
        driving_face = face
        with self._times.part("reenact a frame"):
            if face.is_known and self._relative is not None:
                driving_face, neutral = self._relative(face)
                controls = replace(controls, neutral=neutral)
            if self._paste is not None:
                kept, moving = source_face.tracking.parameters, driving_face.tracking.parameters
                if self._reenactor.reads_parameters and kept is not None and moving is not None:  # the neck alone stays
                    kept = replace(kept, expression=moving.expression, jaw=moving.jaw, eyes=moving.eyes)
                tracking = replace(driving_face.tracking, parameters=kept)
                driving_face = replace(driving_face, tracking=tracking)
            cameras = self._cameras(driving_face, controls, frame.time_s)
            shows: list[Shown] = ["picture" if options.side_by_side else controls.show] * len(cameras)
            if options.side_by_side and controls.show != "picture":
                cameras, shows = [*cameras, cameras[-1]], [*shows, controls.show]
            head = self._reenactor.head(self._source, driving_face, controls)
            if self.marks and self._reenactor.marks_on_device and not self._origin.composite:
                marked = self._reenactor.marked_views(head, cameras, self._signs, shows)[0]
                return AnimatedFrame(
                    marked[0].copy(), frame.time_s, frame.index, cameras[0], face.found, self._origin, marked
                )
            views = self._reenactor.views(head, cameras, shows)
        if self._paste is not None:
            with self._times.part("paste back"):
                image = self._paste(views[0])
        else:
            image = np.concatenate([source_face.crop, face.crop, *views] if options.side_by_side else views, axis=1)
        return AnimatedFrame(image, frame.time_s, frame.index, cameras[-1], face.found, self._origin)

    def _animated_on_device(self, followed: FollowedClip, frame: Frame, picture: Tensor) -> AnimatedFrame:
        yaw, pitch = self._angles(frame.time_s) if self._options.orbit else self._angles()
        turn = turned(Camera(torch.eye(4)[None], torch.eye(3)[None]), yaw, pitch).world_from_camera[0]
        signs = self._signs[None] if self.marks and self._reenactor.marks_on_device else None
        controls = self._controls(frame.time_s)
        with self._times.part("follow the face and reenact a frame"):
            shown = followed.show(picture, frame.time_s, controls, turn, signs)
        if isinstance(shown, AlignedFace):
            return self._animated(frame, shown)
        if controls.show == "mesh":  # of the face that was followed; no graph holds it
            return self._animated(frame, followed.aligned(shown))
        assert shown.plain is not None
        marked = None if shown.marked is None else (shown.plain, shown.marked)
        return AnimatedFrame(
            shown.plain.copy(), frame.time_s, frame.index, shown.camera, shown.found, self._origin, marked
        )

    def _angles(self, time_s: float | None = None) -> tuple[float, float]:
        """Return yaw and pitch that the options ask for, radians; with a time those of the orbit."""
        yaw_deg, pitch_deg = (0.0, 0.0) if time_s is None else orbit_deg(time_s, ORBIT_PERIOD_S)
        return math.radians(self._options.yaw_deg + yaw_deg), math.radians(self._options.pitch_deg + pitch_deg)

    def _cameras(self, face: AlignedFace, controls: Controls, time_s: float) -> list[Camera]:
        options = self._options
        if options.paste_back:
            return [fixed_camera()]
        camera = base_camera(face, controls)
        view = turned(camera, *self._angles())
        if not options.orbit:
            return [view]
        orbit = turned(camera, *self._angles(time_s))
        return [view, orbit] if options.side_by_side else [orbit]

    def _paste_back(self) -> PasteBack:
        face, provider = self._source.face, self._finder()
        placed, landmarks = face.placed, face.tracking.landmarks
        if provider is not None and landmarks is not None:
            neck = self._controls(0.0).neck
            self_driven = self._reenactor.reenact(self._source, face, Controls(neck=neck))
            faces = provider.find(self_driven)
            if faces:
                shown = middle_square(self_driven).to_aligned(faces[0].points)
                placed = registered(placed, landmarks[0].numpy(), shown)
        return PasteBack(self._origin.picture.image, placed)

    def _log_what_is_missing(self) -> None:
        driving, tracked = self._driving, self._driving.tracked
        has_faces = not driving.needs_finder or self.tracker.provider is not None
        if not has_faces or (tracked is not None and tracked.landmarks is None):
            logger.info(
                "%s: %s; middle squares are taken as aligned, motion crops as centred",
                driving.name, why_no_landmarks(self._finder),
            )  # fmt: skip
        if not has_faces or (tracked is not None and tracked.parameters is None):
            logger.info("%s: no head parameters; the neck stays still", driving.name)
        elif self._controls(0.0).neck and not self._reenactor.can_turn_neck:
            logger.info(
                "the weights hold no FLAME tables: the neck stays still; convert FLAME's generic_model.pkl beside them"
            )
        elif self._controls(0.0).neck and self._source.face.tracking.parameters is None:
            logger.info("%s: no head parameters; the neck turns as that of a mean face", self._origin.picture.name)

    def _what_was_missing(self) -> Iterator[str]:
        tracker, name = self.tracker, self._driving.name
        frames = tracker.seen + tracker.lost
        if tracker.most_faces > 1 and self._options.driving_face is None:
            yield f"{name}: up to {tracker.most_faces} faces; the largest drove, --driving-face N takes another"
        if tracker.lost and not tracker.seen:
            yield f"{name}: none of {frames} frames shows a face; the portrait keeps its own expression"
        elif tracker.lost:
            yield f"{name}: {tracker.lost} of {frames} frames show no face; {_shown_instead(tracker)}"
        if tracker.cuts:
            cuts = f"{tracker.cuts} cut{'s' * (tracker.cuts != 1)}"
            yield f"{name}: {cuts} between shots; there the face was found anew"


def why_no_landmarks(finder: LazyProvider) -> str:
    """Word why nobody knows where a face is, as the middle of a sentence."""
    if finder.missing:
        return f"no landmarks, and nothing finds faces here (`{COMMAND}`)"
    return "no landmarks"


def _shown_instead(tracker: FaceTracker) -> str:
    """Word what was shown in frames without a face."""
    held, before = tracker.lost - tracker.before, tracker.before
    if not before:
        return "there the last pose was held"
    first = f"the first {before}" if before > 1 else "the first"
    unchanged = f"before the first face ({first}) the portrait kept its own expression"
    return unchanged if not held else f"{unchanged}, in the other {held} the last pose was held"
