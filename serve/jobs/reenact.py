"""`triportrait reenact SOURCE DRIVING OUT`: a portrait and a driving video become a talking video."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.types import Camera
from triportrait.core.weights import DEMO
from triportrait.serve.crop import to_size
from triportrait.serve.parameters import PICTURES, TrackedFolder, Tracking, beside
from triportrait.serve.pictures import PICTURE_ENDINGS, list_pictures, read_picture, write_picture
from triportrait.serve.pipeline import overlap
from triportrait.serve.precision import Precision, use_precision
from triportrait.serve.reenactor import Prepared, Reenactor
from triportrait.serve.timing import PartTimes
from triportrait.serve.video import VIDEO_ENDINGS, Clip, Frame, VideoWriter, check_output, open_clip
from triportrait.serve.weights import RULE, default_weights, load_weights, published_file

WRITTEN_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ORBIT_PERIOD_S = 4.0
ORBIT_YAW_DEG, ORBIT_PITCH_DEG = 30.0, 8.0
LARGEST_YAW_DEG, LARGEST_PITCH_DEG = 180.0, 89.0


@dataclass(frozen=True)
class DrivingFrames:
    """The driving clip and what is known of the faces in it: `names[i]` are the files of frame i in `folder`."""

    clip: Clip
    folder: TrackedFolder | None
    names: Sequence[str]

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        return [*self.clip.files, *([] if self.folder is None else self.folder.files(self.names))]

    def at(self, frame: Frame) -> Tracking:
        """What is known of the face in a frame.

        Raises:
            InputError: its files are missing or damaged.
        """
        if self.folder is None:
            return Tracking()
        if frame.index >= len(self.names):
            raise _too_few(self.folder, len(self.names), self.clip)
        return self.folder.at(self.names[frame.index])


def _too_few(folder: TrackedFolder, count: int, clip: Clip) -> InputError:
    if not count:
        return InputError(
            f"{folder.root}: holds files for no frame of {clip.path}; track its face or name another folder"
        )
    return InputError(
        f"{folder.root}: holds files for {count} frames, {clip.path} has more; track the rest or pass --frames {count}"
    )


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
    only check the installation. Default: $TRIPORTRAIT_WEIGHTS."""
    source_params: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder with the source's published per-picture files (found by itself beside align_images/)."""
    driving_params: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """The same for the driving frames; for a video the files count its frames in order."""
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
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run."""
    precision: Precision = "auto"
    """Of the networks; `auto` is bf16 (fp16 on older ones) on a GPU where a frame in it is as good, fp32 elsewhere."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the output if it exists."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"], help_behavior_hint="")] = False
    """Print the time of each part and the peak memory."""

    def run(self) -> None:
        """Check everything, prepare the source once, then stream the frames."""
        self._check_numbers()
        device = self._device()
        driving = self._open_driving()
        clip = driving.clip
        source_path, source_folder = self._find_source()
        source_files = [] if source_folder is None else source_folder.files([source_path.stem])
        self._check_output(1 in (clip.frame_count, self.frames), [source_path, *source_files, *driving.files])
        single = self.out.suffix.lower() in WRITTEN_PICTURES
        picture, source_tracking = self._read_source(source_path, source_folder)
        started = time.perf_counter()
        reenactor = Reenactor(*load_weights(self.weights), device, self.static)
        warning = use_precision(reenactor, self.precision)
        if warning is not None:
            say(f"warning: {warning}")
        say(f"weights: {self.weights or default_weights()}, {time.perf_counter() - started:.1f} s to load, on {device}")
        self._say_what_is_missing(reenactor, source_path, source_tracking, driving)
        times = PartTimes()
        if self.verbose:
            times.hook(reenactor.parts())
        else:
            reenactor.capture()
        with times.part("prepare the source"):
            source = to_size(picture, reenactor.image_size)
            prepared = reenactor.prepare(source, source_tracking)
        started = time.perf_counter()
        count = self._stream(driving, reenactor, prepared, source, times, single)
        seconds = time.perf_counter() - started
        for warning in clip.warnings:
            say(f"warning: {warning}")
        say(f"{self.out}: {count} frame{'s' * (count != 1)} in {seconds:.1f} s")
        if self.verbose:
            say(times.table())
            say(f"peak memory: {peak_memory(device)}")

    def _check_numbers(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise InputError(f"--frames: expected at least 1, got {self.frames}")
        for name, value, bound in (
            ("--yaw-deg", self.yaw_deg, LARGEST_YAW_DEG),
            ("--pitch-deg", self.pitch_deg, LARGEST_PITCH_DEG),
        ):
            if not -bound <= value <= bound:
                raise InputError(f"{name}: expected a number from {-bound:g} to {bound:g}, got {value:g}")

    def _device(self) -> torch.device:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: this machine offers no CUDA device to torch; use --device cpu")
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")

    def _check_output(self, single: bool, sources: Iterable[Path]) -> None:
        picture = self.out.suffix.lower() in WRITTEN_PICTURES
        if picture and not single:
            raise InputError(
                f"{self.out}: a picture holds one frame, {self.driving} has more; pass --frames 1, give a single "
                f"driving picture, or name an output with a video ending ({' '.join(VIDEO_ENDINGS)})"
            )
        kinds = (*VIDEO_ENDINGS, *(WRITTEN_PICTURES if single else ()))
        check_output(self.out, self.overwrite, kinds, sources=[self.source, self.driving, *sources])

    def _find_source(self) -> tuple[Path, TrackedFolder | None]:
        path = self.source
        if path.is_dir():
            path = list_pictures(path / PICTURES if (path / PICTURES).is_dir() else path)[0]
            say(f"source: {path}, the first picture of the folder")
        return path, TrackedFolder(self.source_params) if self.source_params else beside(path)

    def _read_source(self, path: Path, folder: TrackedFolder | None) -> tuple[np.ndarray, Tracking]:
        if path.suffix.lower() in PICTURE_ENDINGS or not path.exists():
            picture = read_picture(path)
        else:
            with closing(open_clip(path).frames(1)) as frames:
                picture = next(frames).image
            say(f"source: the first frame of {path}")
        return picture, Tracking() if folder is None else folder.at(path.stem)

    def _open_driving(self) -> DrivingFrames:
        path = self.driving
        if path.is_dir() and (path / PICTURES).is_dir():
            path = path / PICTURES
        clip = open_clip(path)
        folder = TrackedFolder(self.driving_params) if self.driving_params else beside(clip.files[0])
        if folder is None:
            return DrivingFrames(clip, None, [])
        if clip.is_pictures:
            names = [picture.stem for picture in clip.files]
        else:
            names = folder.names
            least = max(1, clip.least_count)
            if len(names) < (least if self.frames is None else min(least, self.frames)):
                raise _too_few(folder, len(names), clip)
        # Seconds at most, before minutes of work that one damaged file in the middle would lose.
        folder.check(names[: self.frames][: clip.frame_count])
        return DrivingFrames(clip, folder, names)

    def _say_what_is_missing(
        self, reenactor: Reenactor, source_path: Path, source: Tracking, driving: DrivingFrames
    ) -> None:
        weights = self.weights or default_weights() or ""
        if weights == RULE:
            say("these weights are made from the tensors' names: they check the installation, the picture is noise")
        elif weights == DEMO:
            say("weights demo: trained on procedural heads alone, a photo is strange to them; see `triportrait demo`")
        elif not self.static and "static" in published_file(weights).lower():
            say(f"{weights}: weights of the static synthesizer, whose motion blocks are untrained; pass --static")
        if source.landmarks is None:
            say(f"{source_path}: no landmarks; its middle square is taken as aligned, the motion crop as centred")
        first = driving.at(Frame(np.zeros((1, 1, 3), np.uint8), 0.0, 0))
        if first.landmarks is None:
            say(f"{self.driving}: no landmarks; middle squares are taken as aligned, motion crops as centred")
        if first.parameters is None:
            say(f"{self.driving}: no head parameters; the neck stays still")
        elif self.neck and reenactor.portrait.neck is None:
            say("the weights hold no FLAME tables: the neck stays still; convert FLAME's generic_model.pkl beside them")
        elif self.neck and source.parameters is None:
            say(f"{source_path}: no head parameters; the neck turns as that of a mean face")

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
        self, driving: DrivingFrames, reenactor: Reenactor, prepared: Prepared, source: np.ndarray,
        times: PartTimes, single: bool,
    ) -> int:  # fmt: skip
        clip, side = driving.clip, reenactor.image_size
        limit = 1 if single else self.frames
        panels = (3 + self.orbit) if self.side_by_side else 1
        total = clip.frame_count if limit is None else min(limit, clip.frame_count or limit)
        bar = tqdm(total=total, unit="frame", desc="reenact", file=sys.stderr, disable=None)
        writer = (
            nullcontext(None)
            if single
            else VideoWriter(
                self.out, size_px=(panels * side, side), fps=clip.fps, audio_from=clip, overwrite=self.overwrite
            )
        )

        def read() -> Iterator[tuple[Frame, np.ndarray, Tracking]]:
            with closing(clip.frames(limit)) as frames:
                while True:
                    with times.part("read and crop a frame"):
                        frame = next(frames, None)
                        if frame is None:
                            return
                        item = (frame, to_size(frame.image, side), driving.at(frame))
                    yield item

        def work(item: tuple[Frame, np.ndarray, Tracking]) -> tuple[np.ndarray, float]:
            frame, image, tracking = item
            with times.part("reenact a frame"):
                views = reenactor.reenact(prepared, image, tracking, self._cameras(tracking, frame.time_s), self.neck)
            return np.concatenate([source, image, *views] if self.side_by_side else views, axis=1), frame.time_s

        with bar, writer as video:

            def write(result: tuple[np.ndarray, float]) -> None:
                with times.part("write a frame"):
                    if video is None:
                        write_picture(self.out, result[0], overwrite=self.overwrite)
                    else:
                        video.write(*result)
                bar.update()

            return overlap(read, work, write)


def say(line: str) -> None:
    """A line for the person at the terminal; the standard output stays free."""
    print(line, file=sys.stderr, flush=True)


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
