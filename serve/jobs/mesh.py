"""`triportrait mesh SOURCE OUT.glb`: a portrait's head as a mesh that other programs open."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.core.gpus import chosen_device
from triportrait.core.person import check_person_file
from triportrait.core.safe_text import literal
from triportrait.core.weights import named_weights
from triportrait.serve.animation import check_face_number
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.providers import FaceKind, LazyProvider
from triportrait.serve.head_meshes import MeshOptions
from triportrait.serve.jobs.reenact import progress_bar
from triportrait.serve.media.meshes.mesh_file import HeadMesh, check_mesh_output
from triportrait.serve.media.meshes.sequence import MOST_FRAMES, MeshSequence
from triportrait.serve.pipeline import Pipeline
from triportrait.serve.precision import Precision
from triportrait.serve.reenactor import PreparedSource
from triportrait.serve.source_and_driving import DrivingFrames, find_source
from triportrait.serve.threads import share_cores
from triportrait.serve.weight_loading import need_faces

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mesh:
    """Make a mesh of a portrait's head: metres, y up, the face towards +z, colours that need no light."""

    source: tyro.conf.Positional[Path]
    """The portrait: a picture, a folder of pictures (its first is taken) or a video (its first frame)."""
    out: tyro.conf.Positional[Path]
    """The result: .glb (texture inside), .ply (colours of the vertices) or .obj (with .mtl and .png beside it); with
    --sequence a folder."""
    driving: Annotated[Path | None, tyro.conf.arg(metavar="FRAME", help_behavior_hint="")] = None
    """Whose expression and neck pose the head has: a picture, or a video, of which --frame says which. Default: its
    own."""
    frame: int = 1
    """Which frame of a driving video, from 1."""
    sequence: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Make a mesh for each driving frame, OUT/000000.glb and on. A sequence that was interrupted goes on where it
    stopped; --overwrite begins anew."""
    format: Literal["glb", "ply", "obj"] = "glb"
    """The kind of the files of a sequence."""
    frames: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Use the first N driving frames of a sequence only."""
    resolution: int = 256
    """Nodes of the density grid along each edge of the box, which is 43 cm; 512 takes eight times as long as 256."""
    level: str = "auto"
    """The raw density at which the surface lies; `auto` is where a viewer sees it. The published script has 25."""
    triangles: int = 50_000
    """Keep at most so many triangles; 0 keeps all."""
    smooth: int = 0
    """Smooth the surface so many times, without shrinking it."""
    texture_size: Annotated[int | None, tyro.conf.arg(metavar="PX", help_behavior_hint="")] = None
    """The side of the texture. Default: four times the network's picture."""
    colour: Literal["texture", "vertices"] = "texture"
    """What carries the colours of a .glb."""
    neck: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Turn the neck as the driving head does; `--no-neck` keeps it straight."""
    published_grid: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Look where the published script looks, up to one node beside the grid, to compare with its meshes."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Weights folder, or `demo`, or `rule`. Default: $TRIPORTRAIT_WEIGHTS, else `demo`."""
    person: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Show the head refined for its person, as in `reenact`."""
    source_params: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder with the source's published per-picture files, or with landmarks/."""
    driving_params: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder with such files of the driving frames."""
    faces: FaceKind = "auto"
    """What finds faces where no file tells, as in `reenact`."""
    face: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Which face of the portrait, counted from the left; the largest by default."""
    driving_face: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Which face of the driving frames, likewise."""
    static: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Take the static synthesizer, for its weights."""
    watermark: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Mark the texture with an invisible watermark; `--no-watermark` leaves it out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run."""
    precision: Precision = "auto"
    """Precision of the networks, as in `reenact`."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the output if it exists."""

    def run(self) -> None:
        """Check everything, make the head, then its mesh."""
        options = self._options()
        check_face_number("--face", self.face)
        check_face_number("--driving-face", self.driving_face)
        device = chosen_device(self.device)
        share_cores(device)
        source = find_source(self.source, self.source_params)
        driving = None if self.driving is None else DrivingFrames.open(self.driving, self.driving_params, self.frames)
        inputs = (self.source, *source.files, *([] if driving is None else [*driving.files]))
        if self.person is not None:
            check_person_file(self.person)
            inputs = (*inputs, self.person)
        sequence = self._sequence(driving, inputs) if self.sequence else None
        if sequence is None:
            if self.frames is not None:
                raise InputError("--frames: expected --sequence beside it, got none; add it, or name one by --frame")
            check_mesh_output(self.out, self.overwrite, inputs)
        with ExitStack() as stack:
            finder = stack.enter_context(closing(LazyProvider(self.faces)))
            picture = source.read(finder, self.face, need_faces(named_weights(self.weights)))
            pipeline = stack.enter_context(
                Pipeline.from_pretrained(
                    self.weights, device=device, precision=self.precision, faces=finder, static=self.static
                )
            )
            prepared = pipeline.prepare(picture, face=self.face, person=self.person)
            if sequence is None:
                face = self._driving_face(pipeline, driving)
                self._write(pipeline, prepared, face, options, self.out, self.overwrite)
                return
            assert driving is not None
            first = sequence.begin(self.overwrite)
            for index, face in self._faces(pipeline, driving):
                if index >= first:  # what a stop left half of, an OBJ without its text, is made anew
                    self._write(pipeline, prepared, face, options, sequence.file(index), overwrite=True)

    def _options(self) -> MeshOptions:
        try:
            level: float | Literal["auto"] = "auto" if self.level == "auto" else float(self.level)
        except ValueError as error:
            raise InputError(f"--level: expected auto or a number, got {literal(self.level)}; choose one") from error
        vertices = (self.format if self.sequence else self.out.suffix.lower()[1:]) == "ply"
        options = MeshOptions(
            self.resolution, level, self.triangles or None, self.smooth, self.texture_size,
            "vertices" if vertices else self.colour, self.published_grid,
        )  # fmt: skip
        options.check()
        if self.colour == "vertices" and (self.format if self.sequence else self.out.suffix.lower()[1:]) == "obj":
            raise InputError("--colour: expected texture, which an OBJ has, got vertices; leave it out, or write a PLY")
        if not 1 <= self.frame <= MOST_FRAMES:
            raise InputError(f"--frame: expected 1 to {MOST_FRAMES}, got {self.frame}; choose another")
        if self.sequence and self.frame != 1:
            raise InputError(
                f"--frame: expected none beside --sequence, got {self.frame}; use --frames for the first ones"
            )
        if self.frames is not None and not 1 <= self.frames <= MOST_FRAMES:
            raise InputError(f"--frames: expected 1 to {MOST_FRAMES}, got {self.frames}; choose another")
        return options

    def _sequence(self, driving: DrivingFrames | None, inputs: tuple[Path, ...]) -> MeshSequence:
        if driving is None or driving.clip.frame_count == 1:
            what = "none" if driving is None else f"{self.driving}, one picture"
            raise InputError(f"--sequence: expected a driving video, got {what}; name one, or leave --sequence out")
        made = {**asdict(self), "files": [[str(p), p.stat().st_size] for p in inputs if p.is_file()]}
        for name in ("out", "overwrite", "frames", "device", "weights"):
            made.pop(name)
        made["weights"] = named_weights(self.weights)
        made_by = hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()
        sequence = MeshSequence(self.out, self.format, made_by)
        sequence.check(self.overwrite, inputs)
        return sequence

    def _driving_face(self, pipeline: Pipeline, driving: DrivingFrames | None) -> AlignedFace | None:
        if driving is None:
            return None
        for index, face in self._faces(pipeline, driving, self.frame - 1):
            if index == self.frame - 1:
                if not face.is_known:
                    raise InputError(
                        f"{self.driving}: expected a face in frame {self.frame}, none was found; choose another"
                    )
                return face
        raise InputError(f"--frame: expected one of the frames of {self.driving}, got {self.frame}; it has fewer")

    def _faces(
        self, pipeline: Pipeline, driving: DrivingFrames, only: int | None = None
    ) -> Iterator[tuple[int, AlignedFace]]:
        """Follow the driving face; frames other than `only` are not looked at if it is given."""
        tracker = pipeline.tracker(smooth=self.sequence, driving_face=self.driving_face)
        with closing(driving.clip.frames(self.frames)) as frames:
            for frame in frames:
                if only is None or frame.index == only:
                    yield frame.index, driving.face(frame, tracker)

    def _write(
        self, pipeline: Pipeline, prepared: PreparedSource, face: AlignedFace | None, options: MeshOptions, out: Path,
        overwrite: bool,
    ) -> None:  # fmt: skip
        began = time.perf_counter()
        with progress_bar("node", total=options.resolution**3, unit_scale=True, desc="densities") as bar:
            mesh: HeadMesh = pipeline.mesh(
                prepared, face, options, neck=self.neck, watermark=self.watermark,
                progress=lambda done, total: bar.update(done - bar.n),
            )  # fmt: skip
        mesh.save(out, overwrite)
        logger.info(
            "%s: %d triangles at raw density %.1f in %.1f s",
            out, len(mesh.triangles.faces), mesh.level, time.perf_counter() - began,
        )  # fmt: skip
