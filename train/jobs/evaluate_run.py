"""`triportrait evaluate run PROTOCOL --weights W --out R` renders the pairs of a protocol with our network."""

from __future__ import annotations

import logging
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from triportrait import __version__
from triportrait.core.checkpoint import read_card, weights_folder
from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.weights import named_weights
from triportrait.serve.controls import Controls
from triportrait.serve.faces.alignment import middle_square
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.providers import FaceKind, LazyProvider
from triportrait.serve.faces.tracker import cut_out
from triportrait.serve.pipeline import Pipeline
from triportrait.serve.precision import Precision
from triportrait.serve.reenactor import PreparedSource
from triportrait.serve.source_and_driving import SourcePicture
from triportrait.serve.weight_loading import RULE, files_of, need_faces
from triportrait.train.engines.ranks import one_error_message, process_group
from triportrait.train.evaluation.protocols.frames import check_clips, resized
from triportrait.train.evaluation.protocols.records import CameraName, read_protocol
from triportrait.train.evaluation.protocols.running import check_run, run_protocol

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Render every pair of a protocol with our network; a run that was stopped goes on where it was."""

    protocol: tyro.conf.Positional[Path]
    """The protocol file."""
    out: Annotated[Path, tyro.conf.arg(metavar="R", help_behavior_hint="")]
    """The folder of results: a folder of PNGs for each pair, and results.json."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Weights folder, `demo` or `rule`, as of `reenact`."""
    method: str = "ours"
    """The name in tables."""
    faces: FaceKind = "auto"
    """What finds the face in the protocol's pictures: the fetched networks (auto: where they are), or none: the motion
    is read off the middle of each picture, and the neck is still."""
    static: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Keep the source's own expression: the static synthesizer, as a baseline."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run."""
    precision: Precision = "auto"
    """Precision of the networks, as of `reenact`."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Begin anew where the folder holds results of another run."""

    def run(self) -> None:
        """Check everything, then render pair by pair."""
        from tqdm import tqdm

        with one_error_message(), process_group() as ranks, closing(LazyProvider(self.faces)) as finder:
            with ranks.raise_on_all_ranks():
                protocol = read_protocol(self.protocol)
                check_clips(protocol)
                name = named_weights(self.weights)
                check_run(self.out, protocol, {}, True)  # a bad folder is told before the networks are loaded
            pipeline = Pipeline.from_pretrained(
                self.weights, device=self.device, precision=self.precision, faces=finder, static=self.static
            )
            with ranks.raise_on_all_ranks():
                if finder() is None and need_faces(name):
                    raise InputError(
                        "--faces: these weights need faces, and nothing finds them; run `triportrait fetch faces`"
                    )
                card = self._card(name, pipeline, finder() is not None)
                card = check_run(self.out, protocol, card, self.overwrite)
            renderer = PipelineRenderer(pipeline, finder, protocol.head.size_px)
            total = sum(pair.frames for pair in protocol.pairs[ranks.rank :: ranks.size])
            hidden = None if ranks.first and logger.isEnabledFor(logging.INFO) else True
            with pipeline, tqdm(total=total, unit="frame", desc="evaluate run", file=sys.stderr, disable=hidden) as bar:
                failed = run_protocol(self.out, protocol, renderer, card, ranks, self.overwrite, bar.update)
            if ranks.first:
                total_pairs = len(protocol.pairs)
                for pair, sentence in failed.items():
                    logger.warning("%s: %s", pair, sentence)
                if len(failed) == total_pairs:
                    raise InputError(
                        f"{self.out}: none of {len(failed)} pairs could be rendered; mend what is named above"
                    )
                print(f"{self.out}: {total_pairs - len(failed)} of {total_pairs} pairs of {protocol.head.name}")

    def _card(self, weights: str, pipeline: Pipeline, faces: bool) -> dict[str, Any]:
        """Return what results.json says of the method."""
        files = {Path(file).name: sha256(Path(file)) for file in files_of(weights)} if weights != RULE else {}
        return {
            "method": self.method, "program": f"triportrait {__version__}", "weights": weights, "sha256": files,
            "static": self.static, "precision": pipeline.precision, "device": pipeline.device.type,
            "made_px": pipeline.image_size, "faces": faces, "watermark": False, "trained": _trained(weights),
        }  # fmt: skip


def _trained(weights: str) -> dict[str, Any]:
    """Return preset and images of the training that made weights, as far as their card tells."""
    provenance = {} if weights == RULE else read_card(weights_folder(weights), "portrait").get("provenance")
    told = provenance if isinstance(provenance, dict) else {}
    return {key: told[key] for key in ("preset", "images seen") if key in told}


class PipelineRenderer:
    """Renders by the library, each driving frame by itself: its picture is aligned, and its face is found in it.

    Args:
        finder: gives what finds faces. size_px: S of the protocol's pictures.
    """

    def __init__(self, pipeline: Pipeline, finder: LazyProvider, size_px: int) -> None:
        self.pipeline, self.finder, self.size_px = pipeline, finder, size_px
        self.flame = pipeline.tracker(smooth=False).flame
        self.last: AlignedFace | None = None

    def prepare(self, source: np.ndarray) -> PreparedSource:
        """See `Renderer`."""
        face = self._face(source)
        picture = SourcePicture("source", face.crop, face.tracking)
        return self.pipeline.prepare(picture)

    def begin(self) -> None:
        """See `Renderer`."""
        self.last = None

    def render(self, prepared: Any, driving: np.ndarray, camera: CameraName) -> np.ndarray:
        """See `Renderer`; a frame without a face keeps the motion of the one before."""
        face = self._face(driving)
        if face.tracking.landmarks is None and self.last is not None:
            face = self.last
        self.last = face
        controls = Controls(fixed_camera(), neck=False) if camera == "front" else Controls()
        return resized(self.pipeline.frame(prepared, face, controls).image, self.size_px)

    def _face(self, image: np.ndarray) -> AlignedFace:
        size, provider = self.pipeline.image_size, self.finder()
        faces = [] if provider is None else provider.find(image)
        if not faces:
            return AlignedFace.middle(image, size)
        return cut_out(image, faces[0], middle_square(image), size, flame=self.flame)
