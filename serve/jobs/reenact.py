"""`triportrait reenact SOURCE DRIVING OUT`: a portrait and a driving video become a talking video."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

from triportrait.core.cards import chosen_device
from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.libraries import install
from triportrait.core.motion.neck import NeckField
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.sentences import say
from triportrait.core.types import Camera
from triportrait.core.weights import DEMO, log_weights, named_weights
from triportrait.serve.faces.alignment import middle_square
from triportrait.serve.faces.face import FaceProvider
from triportrait.serve.faces.paste_back import PasteBack, registered
from triportrait.serve.faces.providers import FaceKind, face_provider, is_installed
from triportrait.serve.faces.relative import Relative
from triportrait.serve.faces.tracker import FaceTracker, Followed
from triportrait.serve.inputs import DrivingFrames, SourcePicture, find_source
from triportrait.serve.media.pictures import write_picture
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.media.video import VIDEO_ENDINGS, Frame, VideoWriter, check_output
from triportrait.serve.overlap import overlap
from triportrait.serve.parameters import Tracking
from triportrait.serve.precision import Precision, use_precision
from triportrait.serve.reenactor import Prepared, Reenactor
from triportrait.serve.threads import share_cores
from triportrait.serve.timing import PartTimes
from triportrait.serve.weights import RULE, load_weights

logger = logging.getLogger(__name__)

WRITTEN_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ORBIT_PERIOD_S = 4.0
ORBIT_YAW_DEG, ORBIT_PITCH_DEG = 30.0, 8.0
LARGEST_YAW_DEG, LARGEST_PITCH_DEG = 180.0, 89.0


@dataclass(frozen=True)
class Reenact:
    """Let a portrait talk as a driving video does."""

    source: tyro.conf.Positional[Path]
    """The portrait: a picture, a folder of pictures (its first is taken) or a video (its first frame)."""
    driving: tyro.conf.Positional[Path]
    """What drives it: a video, a folder of pictures or a picture."""
    out: tyro.conf.Positional[Path]
    """The result: .mp4 .mov .mkv .webm, or .png .jpg .webp for a single frame."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Weights folder; `demo` for the package's own, a small network for procedural heads; or `rule` for weights that
    only check the installation. Default: $TRIPORTRAIT_WEIGHTS, else `demo`."""
    source_params: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder with the source's published per-picture files (found by itself beside align_images/), or with
    landmarks/."""
    driving_params: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """The same for the driving frames; for a video the files count its frames in order."""
    faces: FaceKind = "auto"
    """Who finds faces where no file knows: mediapipe where it is installed, or none: the pictures are aligned."""
    face: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Which face of the portrait, counted from the left; the largest by default."""
    driving_face: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Which face of the driving video, counted from the left where it is first seen; the largest by default."""
    smooth: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Take every frame's face as it was found: no lag, but jitter."""
    relative: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Take the first driving frame as neutral: the portrait begins as it is, and changes as the driving face does."""
    paste_back: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Put the result back into the whole portrait; the neck stays as it is there."""
    side_by_side: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Source, driving frame and result beside each other; with --orbit the moving view is a fourth picture."""
    orbit: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Let the camera sway around the head."""
    yaw_deg: float = 0.0
    """Turn the camera around the head, degrees; positive sees more of the head's right side."""
    pitch_deg: float = 0.0
    """Raise the camera, degrees."""
    neck: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Move the camera as the driving file says instead of the neck; torso and background move with the head."""
    static: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Keep the source's own expression: the static synthesizer, for its weights or for views alone."""
    frames: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Use the first N driving frames only."""
    watermark: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Leave the invisible watermark out; the manifest says so."""
    certificate: Annotated[Path | None, tyro.conf.arg(metavar="PEM", help_behavior_hint="")] = None
    """Sign the manifest with this certificate. Default: $TRIPORTRAIT_CERTIFICATE, else one made at first use."""
    key: Annotated[Path | None, tyro.conf.arg(metavar="PEM", help_behavior_hint="")] = None
    """The private key of --certificate, where that file does not hold it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run."""
    precision: Precision = "auto"
    """Of the networks; `auto` is bf16 (fp16 on older ones) on a GPU where a frame in it is as good, fp32 elsewhere."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the output if it exists."""

    def run(self) -> None:
        """Check everything, prepare the source once, then stream the frames."""
        self._check_numbers()
        device = chosen_device(self.device)
        share_cores(device)
        driving = DrivingFrames.open(self.driving, self.driving_params, self.frames)
        source_file = find_source(self.source, self.source_params, say)
        self._check_output(1 in (driving.clip.frame_count, self.frames), [*source_file.files, *driving.files])
        with ExitStack() as stack:

            @cache
            def finder() -> FaceProvider | None:
                provider = face_provider(self.faces, say)
                return None if provider is None else stack.enter_context(closing(provider))

            weights = named_weights(self.weights)
            must = weights not in (DEMO, RULE)  # the demo weights know heads that need not look like faces
            source = source_file.read(finder, self.face, must, say)
            if driving.known is None and (provider := finder()) is not None:
                driving.look(provider, 1 if self._single else self.frames, must, say)
            stamp = Stamp(
                sha256(source.path), weights, say, watermark=self.watermark, certificate=self.certificate, key=self.key,
                composite=self.paste_back or self.side_by_side,
            )  # fmt: skip
            log_weights(self.weights)  # once the input is found good
            started = time.perf_counter()
            reenactor = Reenactor(*load_weights(weights, self.static), device, self.static)
            tell = say if logger.isEnabledFor(logging.DEBUG) else (lambda line: None)
            if (warning := use_precision(reenactor, self.precision, tell)) is not None:
                say(f"warning: {warning}")
            seconds = time.perf_counter() - started
            say(f"weights: {weights}, {seconds:.1f} s to load, on {device}")
            tracker = FaceTracker(
                finder() if driving.known is None else None,
                reenactor.image_size,
                smooth=self.smooth and not driving.clip.is_pictures,
                face=self.driving_face,
                flame=isinstance(reenactor.portrait.neck, NeckField),
            )
            self._work(device, source, driving, tracker, reenactor, stamp, finder)

    def _work(
        self, device: torch.device, source: SourcePicture, driving: DrivingFrames, tracker: FaceTracker,
        reenactor: Reenactor, stamp: Stamp, finder: Callable[[], FaceProvider | None],
    ) -> None:  # fmt: skip
        clip = driving.clip
        cut = source.cut(reenactor.image_size, tracker.flame)
        self._say_what_is_missing(reenactor, source, cut, driving, tracker)
        times = PartTimes()
        if logger.isEnabledFor(logging.DEBUG):
            times.hook(reenactor.parts())
        else:
            reenactor.capture()
        with times.part("prepare the source"):
            prepared = reenactor.prepare(cut.crop, cut.tracking)
        paste = self._paste(source, cut, reenactor, prepared, finder) if self.paste_back else None
        started = time.perf_counter()
        count = self._stream(driving, tracker, reenactor, prepared, cut, paste, times, stamp)
        seconds = time.perf_counter() - started
        for warning in (*clip.warnings, *self._what_was_missing(tracker)):
            say(f"warning: {warning}")
        looked = tracker.seen + tracker.lost
        seen = f"; a face in {tracker.seen} of {looked} driving frames" if looked else ""
        say(f"{self.out}: {count} frame{'s' * (count != 1)} in {seconds:.1f} s{seen}")
        if logger.isEnabledFor(logging.DEBUG):
            for row in times.table().splitlines():
                say(row)
            say(f"peak memory: {peak_memory(device)}")

    def _paste(
        self, source: SourcePicture, cut: Followed, reenactor: Reenactor, prepared: Prepared,
        finder: Callable[[], FaceProvider | None],
    ) -> PasteBack:  # fmt: skip
        placed, provider, landmarks = cut.placed, finder(), cut.tracking.landmarks
        if provider is not None and landmarks is not None:
            own = reenactor.reenact(prepared, cut.crop, cut.tracking, [fixed_camera()], self.neck)[0]
            found = provider.find(own)
            if found:
                shown = middle_square(own).to_aligned(found[0].points)
                placed = registered(placed, landmarks[0].numpy(), shown)
        return PasteBack(source.image, placed)

    @property
    def _single(self) -> bool:
        """Whether the result is a picture."""
        return self.out.suffix.lower() in WRITTEN_PICTURES

    def _check_numbers(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise InputError(f"--frames: expected at least 1, got {self.frames}")
        for name, value, bound in (
            ("--yaw-deg", self.yaw_deg, LARGEST_YAW_DEG),
            ("--pitch-deg", self.pitch_deg, LARGEST_PITCH_DEG),
        ):
            if not -bound <= value <= bound:
                raise InputError(f"{name}: expected a number from {-bound:g} to {bound:g}, got {value:g}")
        for name, number in (("--face", self.face), ("--driving-face", self.driving_face)):
            if number is not None and number < 1:
                raise InputError(f"{name}: expected at least 1, the leftmost face, got {number}")
        if self.paste_back and (self.side_by_side or self.orbit or self.yaw_deg or self.pitch_deg):
            raise InputError(
                "--paste-back: the portrait has one view; leave --side-by-side, --orbit, --yaw-deg and --pitch-deg out"
            )

    def _check_output(self, single: bool, sources: Iterable[Path]) -> None:
        picture = self.out.suffix.lower() in WRITTEN_PICTURES
        if picture and not single:
            raise InputError(
                f"{self.out}: a picture holds one frame, {self.driving} has more; pass --frames 1, give a single "
                f"driving picture, or name an output with a video ending ({' '.join(VIDEO_ENDINGS)})"
            )
        kinds = (*VIDEO_ENDINGS, *(WRITTEN_PICTURES if single else ()))
        check_output(self.out, self.overwrite, kinds, sources=[self.source, self.driving, *sources])

    def _say_what_is_missing(
        self, reenactor: Reenactor, source: SourcePicture, cut: Followed, driving: DrivingFrames, tracker: FaceTracker
    ) -> None:
        weights = named_weights(self.weights)
        if weights == RULE:
            say("these weights are made from the tensors' names: they check the installation, the picture is noise")
        if (source.faces or 0) > 1 and self.face is None:
            say(f"{source.path}: {source.faces} faces, the largest is taken; --face N takes another")
        if cut.tracking.landmarks is None:
            why = self._why() if source.faces is None else "no face"
            say(f"{source.path}: {why}; its middle square is taken as aligned, the motion crop as centred")
        elif source.face is not None and cut.placed.side < reenactor.image_size / 2:
            say(
                f"{source.path}: the face and its surroundings have {cut.placed.side:.0f} px, the network takes "
                f"{reenactor.image_size}; the result will be soft"
            )
        finds = driving.known is not None or tracker.provider is not None
        tracked = driving.tracked
        if not finds or (tracked is not None and tracked.landmarks is None):
            say(f"{self.driving}: {self._why()}; middle squares are taken as aligned, motion crops as centred")
        if not finds or (tracked is not None and tracked.parameters is None):
            say(f"{self.driving}: no head parameters; the neck stays still")
        elif self.neck and reenactor.portrait.neck is None:
            say("the weights hold no FLAME tables: the neck stays still; convert FLAME's generic_model.pkl beside them")
        elif self.neck and cut.tracking.parameters is None:
            say(f"{source.path}: no head parameters; the neck turns as that of a mean face")

    def _why(self) -> str:
        if self.faces == "auto" and not is_installed():
            return f"no landmarks, and faces are not found here ({install('faces')})"
        return "no landmarks"

    def _what_was_missing(self, tracker: FaceTracker) -> Iterator[str]:
        frames = tracker.seen + tracker.lost
        if tracker.most_faces > 1 and self.driving_face is None:
            yield f"{self.driving}: up to {tracker.most_faces} faces; the largest drove, --driving-face N takes another"
        if tracker.lost and not tracker.seen:
            yield f"{self.driving}: none of {frames} frames shows a face; the portrait keeps its own expression"
        elif tracker.lost:
            yield f"{self.driving}: {tracker.lost} of {frames} frames show no face; {_there(tracker)}"
        if tracker.cuts:
            cuts = f"{tracker.cuts} cut{'s' * (tracker.cuts != 1)}"
            yield f"{self.driving}: {cuts} between shots; there the face was found anew"

    def _cameras(self, tracking: Tracking, time_s: float) -> list[Camera]:
        camera = fixed_camera()
        if tracking.parameters is not None:
            theirs = tracking.parameters.camera
            camera = Camera(camera.world_from_camera, theirs.intrinsics) if self.neck else theirs
        view = turned(camera, math.radians(self.yaw_deg), math.radians(self.pitch_deg))
        if not self.orbit:
            return [view]
        phase = 2 * math.pi * time_s / ORBIT_PERIOD_S
        yaw = self.yaw_deg + ORBIT_YAW_DEG * math.sin(phase)
        pitch = self.pitch_deg + ORBIT_PITCH_DEG * math.sin(2 * phase)
        orbit = turned(camera, math.radians(yaw), math.radians(pitch))
        return [view, orbit] if self.side_by_side else [orbit]

    def _stream(
        self, driving: DrivingFrames, tracker: FaceTracker, reenactor: Reenactor, prepared: Prepared, source: Followed,
        paste: PasteBack | None, times: PartTimes, stamp: Stamp,
    ) -> int:  # fmt: skip
        clip, side = driving.clip, reenactor.image_size
        single = self._single
        limit = 1 if single else self.frames
        panels = (3 + self.orbit) if self.side_by_side else 1
        size_px = (panels * side, side) if paste is None else paste.size_px
        total = clip.frame_count if limit is None else min(limit, clip.frame_count or limit)
        bar = tqdm(total=total, unit="frame", desc="reenact", file=sys.stderr, disable=None)
        writer = (
            nullcontext(None)
            if single
            else VideoWriter(
                self.out, size_px=size_px, fps=clip.fps, audio_from=clip, overwrite=self.overwrite, finish=stamp.sign
            )
        )
        pose = Relative(reenactor, source.tracking) if self.relative else None

        def read() -> Iterator[tuple[Frame, Followed]]:
            with closing(clip.frames(limit)) as frames:
                while True:
                    with times.part("read a frame"):
                        frame = next(frames, None)
                    if frame is None:
                        return
                    with times.part("find and crop the face"):
                        item = (frame, driving.follow(frame, tracker))
                    yield item

        def work(item: tuple[Frame, Followed]) -> tuple[np.ndarray, float]:
            frame, face = item
            with times.part("reenact a frame"):
                views = self._views(reenactor, prepared, source, face, pose, frame.time_s)
            if paste is not None:
                with times.part("paste back"):
                    return paste(views[0]), frame.time_s
            shown = [source.crop, face.crop, *views] if self.side_by_side else views
            return np.concatenate(shown, axis=1), frame.time_s

        with bar, writer as video:

            def write(result: tuple[np.ndarray, float]) -> None:
                with times.part("write a frame"):
                    image, time_s = stamp.mark(result[0]), result[1]
                    if video is None:
                        write_picture(self.out, image, overwrite=self.overwrite, finish=stamp.sign)
                    else:
                        video.write(image, time_s)
                bar.update()

            return overlap(read, work, write)

    def _views(
        self, reenactor: Reenactor, prepared: Prepared, source: Followed, face: Followed, pose: Relative | None,
        time_s: float,
    ) -> list[np.ndarray]:  # fmt: skip
        tracking, rest, strength = face.tracking, None, 1.0
        if not face.found and tracking.landmarks is None:  # before the first face the portrait stays as it is
            strength = 0.0
        elif pose is not None:
            tracking, rest = pose(face)
        if self.paste_back:
            tracking = replace(tracking, parameters=source.tracking.parameters)
        cameras = [fixed_camera()] if self.paste_back else self._cameras(tracking, time_s)
        return reenactor.reenact(prepared, face.crop, tracking, cameras, self.neck, strength, (0.0, 0.0), rest)


def _there(tracker: FaceTracker) -> str:
    """What was done in frames without a face."""
    held, before = tracker.lost - tracker.before, tracker.before
    if not before:
        return "there the last pose was held"
    first = f"the first {before}" if before > 1 else "the first"
    own = f"before the first face ({first}) the portrait kept its own expression"
    return own if not held else f"{own}, in the other {held} the last pose was held"


def peak_memory(device: torch.device) -> str:
    """The most memory that the process, and the GPU, held."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has none
        host = "unknown"
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        host = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB"
    return host if device.type == "cpu" else f"{host}, GPU {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB"
