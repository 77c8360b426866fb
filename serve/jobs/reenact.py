"""`triportrait reenact SOURCE DRIVING OUT`: a portrait and a driving video become a talking video."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from tqdm import tqdm

from triportrait.core.errors import InputError
from triportrait.core.gpus import chosen_device
from triportrait.core.person import check_person_file
from triportrait.core.render.geometry_pictures import Shown
from triportrait.core.weights import named_weights
from triportrait.serve.animation import AnimatedFrame, Options, check_face_number
from triportrait.serve.controls import Controls
from triportrait.serve.faces.providers import FaceKind, LazyProvider
from triportrait.serve.media.output_file import VIDEO_ENDINGS, check_output
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.media.video.decoders import DecoderChoice, Decoding
from triportrait.serve.media.video.encoders import Encoder, EncoderChoice, chosen_encoder
from triportrait.serve.pipeline import Pipeline
from triportrait.serve.precision import Precision
from triportrait.serve.refined import sha256_of
from triportrait.serve.saving import WRITTEN_PICTURES, is_picture_name, write_frames
from triportrait.serve.shown_geometry import check_show
from triportrait.serve.source_and_driving import DrivingFrames, Frames, SourcePicture, check_finds_faces, find_source
from triportrait.serve.threads import share_cores
from triportrait.serve.tracked.fitted_inputs import TrackKind, check_can_fit, first_tracker
from triportrait.serve.weight_loading import need_faces

logger = logging.getLogger(__name__)


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
    person: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Show the portrait refined for its person, by the file that `triportrait personalize` made of this very
    picture."""
    source_params: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder with the source's published per-picture files (found by itself beside align_images/), or with
    landmarks/."""
    driving_params: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder with such files of the driving frames; for a video the files count its frames in order."""
    faces: FaceKind = "auto"
    """What finds faces where no file tells: the networks that `triportrait fetch faces` brought (auto: where they
    are), or none: the pictures are aligned."""
    face: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Which face of the portrait, counted from the left; the largest by default."""
    driving_face: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Which face of the driving video, counted from the left where it is first seen; the largest by default."""
    track: TrackKind = "quick"
    """What is read off faces without parameter files: `quick`, how the head is turned, frame by frame; or `fit`, a head
    model (FLAME where the weights bring it) fitted to the whole film first: jaw, eyes and expression, and the shape of
    the portrait, then reach the neck."""
    smooth: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Smooth where the driving face is found, against jitter, at the price of a small lag; `--no-smooth` takes each
    frame's face as it was found."""
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
    show: Shown = "picture"
    """What the result shows: the head's picture, or its depth (yellow is near), its normals (red faces right, green up,
    blue the camera), or a shaded mesh. With --side-by-side it is one more picture, beside the result."""
    neck: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Turn the neck as the driving head does; `--no-neck` moves the camera as the driving file says instead, so that
    torso and background move with the head."""
    static: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Keep the source's own expression: the static synthesizer, for its weights or for views alone."""
    frames: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Use the first N driving frames only."""
    watermark: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Mark the pictures with an invisible watermark; `--no-watermark` leaves it out, and the manifest says so."""
    certificate: Annotated[Path | None, tyro.conf.arg(metavar="PEM", help_behavior_hint="")] = None
    """Sign the manifest with this certificate. Default: $TRIPORTRAIT_CERTIFICATE, else one made at first use."""
    key: Annotated[Path | None, tyro.conf.arg(metavar="PEM", help_behavior_hint="")] = None
    """The private key of --certificate, where that file does not hold it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run."""
    precision: Precision = "auto"
    """Precision of the networks; `auto` is bf16 (fp16 on older GPUs) on a GPU where a frame in it is as good, fp32
    elsewhere."""
    encoder: EncoderChoice = "auto"
    """What makes H.264: `x264`, by which the same pictures give the same bytes; `nvenc`, the GPU; or `auto`: x264 for a
    network on a CPU, and on a GPU NVENC where it opens, else a faster preset of x264."""
    decoder: DecoderChoice = "auto"
    """What decodes the driving video: `av`, libav on the CPU; `nvdec`, the GPU through libav; `dali`, which takes fewer
    films; or `auto`: av for a network on a CPU, and NVDEC on a GPU. What hardware does not decode as the CPU does, the
    CPU decodes, and the log says why."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the output if it exists."""

    def run(self) -> None:
        """Check everything, prepare the source once, then stream the frames."""
        options = self._options()
        device = chosen_device(self.device)
        share_cores(device)
        encoder = chosen_encoder(self.encoder, device.type == "cuda")
        driving = DrivingFrames.open(self.driving, self.driving_params, self.frames, Decoding.on(self.decoder, device))
        source_file = find_source(self.source, self.source_params)
        if self.person is not None:
            check_person_file(self.person)
        self._check_output(1 in (driving.clip.frame_count, self.frames), [*source_file.files, *driving.files])
        weights = named_weights(self.weights)
        with ExitStack() as stack:
            finder = stack.enter_context(closing(LazyProvider(self.faces)))
            source = source_file.read(finder, self.face, need_faces(weights))
            if self.track == "fit":
                check_can_fit(driving, first_tracker(driving, finder, self.smooth, self.driving_face), options.frames)
            if driving.needs_finder:
                if (provider := finder()) is None:
                    check_finds_faces(self.driving, "--driving-face", self.driving_face)
                else:
                    driving.look(provider, options.frames, need_faces(weights), _look_bar)
            stamp = Stamp(
                source.sha256(), weights, watermark=self.watermark, certificate=self.certificate, key=self.key,
                composite=self.paste_back or self.side_by_side,
            )  # fmt: skip
            pipeline = stack.enter_context(
                Pipeline.from_pretrained(
                    self.weights, device=device, precision=self.precision, faces=finder, static=self.static
                )
            )
            if logger.isEnabledFor(logging.DEBUG):
                pipeline.time_parts()
            self._write(pipeline, source, driving, options, stamp, encoder)

    def _write(
        self,
        pipeline: Pipeline,
        source: SourcePicture,
        driving: DrivingFrames,
        options: Options,
        stamp: Stamp,
        encoder: Encoder,
    ) -> None:
        prepared = pipeline.prepare(source, face=self.face, track=self.track, person=self.person)
        stamp = stamp.for_person(sha256_of(prepared.refined))
        if self.track == "fit":
            pipeline.fit(
                driving, smooth=self.smooth, frames=options.frames, driving_face=self.driving_face, progress=_follow_bar
            )
        animation = pipeline.animate(
            prepared, driving, controls=Controls(neck=self.neck, show=self.show), **dataclasses.asdict(options)
        )  # fmt: skip
        animation.marks = stamp.marks
        began = time.perf_counter()
        with animation, progress_bar(total=animation.frame_count, desc="reenact") as bar:
            count = write_frames(
                counted(animation, bar), self.out, lambda first: stamp, sound=self.driving, overwrite=self.overwrite,
                encoder=encoder, times=pipeline.times,
            )  # fmt: skip
        seconds = time.perf_counter() - began
        tracker = animation.tracker
        looked = tracker.seen + tracker.lost
        seen = f"; a face in {tracker.seen} of {looked} driving frames" if looked else ""
        logger.info("%s: %d frame%s in %.1f s%s", self.out, count, "s" * (count != 1), seconds, seen)
        if logger.isEnabledFor(logging.DEBUG):
            for row in pipeline.times.table().splitlines():
                logger.debug("%s", row)
            logger.debug("peak memory: %s", peak_memory(pipeline.device))

    def _options(self) -> Options:
        frames = 1 if self.frames is None and is_picture_name(self.out) else self.frames
        options = Options(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Options)})
        options.check(flag)
        check_show(self.show, self.paste_back, flag)
        check_face_number("--face", self.face)
        return dataclasses.replace(options, frames=frames)

    def _check_output(self, single: bool, sources: Iterable[Path]) -> None:
        if is_picture_name(self.out) and not single:
            raise InputError(
                f"{self.out}: a picture holds one frame, {self.driving} has more; pass --frames 1, give a single "
                f"driving picture, or name an output with a video ending ({' '.join(VIDEO_ENDINGS)})"
            )
        kinds = (*VIDEO_ENDINGS, *(WRITTEN_PICTURES if single else ()))
        person = [] if self.person is None else [self.person]
        check_output(self.out, self.overwrite, kinds, sources=[self.source, self.driving, *sources, *person])


def flag(name: str) -> str:
    """Write an option's name as it stands on the command line."""
    return "--" + name.replace("_", "-")


def progress_bar(unit: str = "frame", **options: Any) -> Any:
    """Make a progress bar on a terminal, unless warnings alone are to be shown."""
    disable = None if logger.isEnabledFor(logging.INFO) else True
    return tqdm(unit=unit, file=sys.stderr, disable=disable, **options)


def _look_bar(frames: Frames, total: int) -> Any:
    return progress_bar(iterable=frames, total=total, desc="look for a face", delay=2.0, leave=False)


def _follow_bar(frames: Frames, total: int) -> Any:
    return progress_bar(iterable=frames, total=total or None, desc="follow the face")


def counted(frames: Iterable[AnimatedFrame], bar: Any) -> Iterator[AnimatedFrame]:
    """Move a progress bar on with each frame."""
    for frame in frames:
        yield frame
        bar.update()


def peak_memory(device: torch.device) -> str:
    """Word the most memory that the process, and the GPU, held."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has none
        host = "unknown"
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        host = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB"
    return host if device.type == "cpu" else f"{host}, GPU {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB"
