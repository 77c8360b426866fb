"""`triportrait turntable SOURCE OUT`: a camera goes around a portrait's head, its picture beside its geometry."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from triportrait.core.gpus import chosen_device
from triportrait.core.person import check_person_file
from triportrait.core.render.geometry_pictures import Shown
from triportrait.serve.animation import check_face_number
from triportrait.serve.faces.providers import FaceKind, LazyProvider
from triportrait.serve.jobs.reenact import counted, flag, progress_bar
from triportrait.serve.media.output_file import VIDEO_ENDINGS, check_output
from triportrait.serve.pipeline import Pipeline
from triportrait.serve.precision import Precision
from triportrait.serve.source_and_driving import find_source
from triportrait.serve.threads import share_cores
from triportrait.serve.turntable import SWAY_DEG, TURN_S, check_turntable, frame_count

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turntable:
    """Let a camera go around a portrait's head."""

    source: tyro.conf.Positional[Path]
    """The portrait: a picture, a folder of pictures (its first is taken) or a video (its first frame)."""
    out: tyro.conf.Positional[Path]
    """The result: .mp4 .mov .mkv .webm."""
    driving: Annotated[Path | None, tyro.conf.arg(metavar="PICTURE", help_behavior_hint="")] = None
    """Whose expression the head has. Default: its own."""
    show: Shown = "mesh"
    """What is beside the picture: a shaded mesh, the depth (yellow is near), the normals (red faces right, green up,
    blue the camera), or nothing: picture."""
    arc_deg: float = SWAY_DEG
    """How far the camera goes, degrees, from the one side to the other and back; 360 goes once around instead, though a
    portrait does not tell how the back of its head looks."""
    seconds: float = TURN_S
    """How long that takes."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Weights folder, or `demo`, or `rule`. Default: $TRIPORTRAIT_WEIGHTS, else `demo`."""
    person: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Show the head refined for its person, as in `reenact`."""
    source_params: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder with the source's published per-picture files, or with landmarks/."""
    faces: FaceKind = "auto"
    """What finds faces where no file tells, as in `reenact`."""
    face: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Which face of the portrait, counted from the left; the largest by default."""
    static: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Take the static synthesizer, for its weights."""
    watermark: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Mark the pictures with an invisible watermark; `--no-watermark` leaves it out, and the manifest says so."""
    certificate: Annotated[Path | None, tyro.conf.arg(metavar="PEM", help_behavior_hint="")] = None
    """Sign the manifest with this certificate. Default: $TRIPORTRAIT_CERTIFICATE, else one made at first use."""
    key: Annotated[Path | None, tyro.conf.arg(metavar="PEM", help_behavior_hint="")] = None
    """The private key of --certificate, where that file does not hold it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run."""
    precision: Precision = "auto"
    """Precision of the networks, as in `reenact`."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the output if it exists."""

    def run(self) -> None:
        """Check everything, make the head once, then write its views."""
        check_turntable(self.show, self.arc_deg, self.seconds, flag)
        check_face_number("--face", self.face)
        device = chosen_device(self.device)
        share_cores(device)
        source = find_source(self.source, self.source_params)
        others = [path for path in (self.driving, self.person) if path is not None]
        if self.person is not None:
            check_person_file(self.person)
        check_output(self.out, self.overwrite, VIDEO_ENDINGS, sources=[self.source, *source.files, *others])
        with (
            closing(LazyProvider(self.faces)) as finder,
            Pipeline.from_pretrained(
                self.weights, device=device, precision=self.precision, faces=finder, static=self.static
            ) as pipeline,
        ):
            began = time.perf_counter()
            frames = pipeline.turntable(
                self.source, show=self.show, driving=self.driving, arc_deg=self.arc_deg, seconds=self.seconds,
                face=self.face, source_params=self.source_params, person=self.person,
            )  # fmt: skip
            with progress_bar(total=frame_count(self.seconds), desc="turntable") as bar:
                pipeline.save(
                    counted(frames, bar), self.out, overwrite=self.overwrite, watermark=self.watermark,
                    certificate=self.certificate, key=self.key,
                )  # fmt: skip
        logger.info("%s: %g s of film in %.1f s", self.out, self.seconds, time.perf_counter() - began)
