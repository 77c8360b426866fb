"""`triportrait track FILM OUT`: the parameters of the face in each frame of a film, in the published layout."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from triportrait.core.errors import InputError
from triportrait.core.gpus import chosen_device
from triportrait.core.tracking.clip_fit import Method
from triportrait.core.tracking.head_model import HeadModel, load_head_model
from triportrait.core.tracking.reconstructor_start import ReconstructorStart
from triportrait.core.weights import OPEN_HEAD
from triportrait.serve.animation import check_face_number
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.providers import FaceKind, LazyProvider
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.jobs.reenact import progress_bar
from triportrait.serve.media.video.clips import Frame
from triportrait.serve.media.video.decoders import Decoding
from triportrait.serve.media.video.writer import VideoWriter
from triportrait.serve.source_and_driving import DrivingFrames, Frames
from triportrait.serve.threads import share_cores
from triportrait.serve.tracked.curves import write_curves
from triportrait.serve.tracked.film_fit import fit_film
from triportrait.serve.tracked.fitted_frames import FittedFrames
from triportrait.serve.tracked.folder import (
    CURVES,
    OVERLAY,
    POOR_FIT_PX,
    QUALITY,
    Segment,
    TrackFolder,
    check_folder,
    check_room,
    written_folder,
)
from triportrait.serve.tracked.following_pass import check_can_follow, follow_faces
from triportrait.serve.tracked.overlay import Overlay, overlay_size
from triportrait.serve.tracked.person_mask import person_mask
from triportrait.serve.tracked.starts import FilmStart

SIZES = (64, 2048)  # px of the aligned pictures

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Track:
    """Follow the face of a film and fit a head model to it: parameters, aligned pictures, an overlay film, curves."""

    film: tyro.conf.Positional[Path]
    """A video, a folder of pictures or a picture."""
    out: tyro.conf.Positional[Path]
    """The folder that is made, in the published layout, which `reenact` reads; it appears when it is whole."""
    head_model: Annotated[str, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = OPEN_HEAD
    """The head model: `open-head`, the package's own, or FLAME: a file, or a weights folder that holds it."""
    params: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder with landmarks/ of another tracker, or with 3dldmks_align/ of aligned pictures. Default: looked for beside
    the film."""
    size: int = 512
    """The side of the aligned pictures, pixels."""
    frames: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Take the first N frames only."""
    faces: FaceKind = "auto"
    """What finds faces where no file tells, as in `reenact`."""
    face: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Which face, counted from the left where it is first seen; the largest by default."""
    one_person: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """All shots show one person, who has one shape; else each shot has its own."""
    smooth: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Smooth where the aligned pictures lie, against jitter; `--no-smooth` takes each frame's face as it was found."""
    overlay: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Write overlay.mp4: the mesh and the landmarks over the film."""
    segment: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Write segs/: where the person is in each aligned picture, where the network that tells was fetched."""
    start: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Begin the fit of FLAME 2020 at what a reconstructor says: a folder with Deep3DFaceRecon (recon3d) and
    Portrait4D's mapper (flame_mapper), as `triportrait convert` writes them."""
    method: Method = "solve"
    """How to fit: `solve` all frames of a shot at once, or each by itself by the `published` schedule, which is
    hundreds of times as slow."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to solve; faces are found on the CPU."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace a folder that this command made."""

    def run(self) -> None:
        """Check everything, follow the face, fit, then draw what was fitted."""
        self._check()
        device = chosen_device(self.device)
        share_cores(device)
        model = load_head_model(self.head_model)
        start = None if self.start is None else FilmStart(ReconstructorStart.load(self.start, model, device))
        driving = DrivingFrames.open(self.film, self.params, self.frames, Decoding.on("auto", device))
        sources = [self.film, *driving.files]
        check_folder(self.out, self.overwrite, sources)
        count = driving.clip.frame_count
        check_room(self.out, min(count, self.frames or count) if count else self.frames, self.size)
        began = time.perf_counter()
        with closing(LazyProvider(self.faces)) as finder:
            tracker = FaceTracker(
                None if driving.known is not None else finder(), self.size,
                smooth=self.smooth and not driving.clip.is_pictures, face=self.face,
            )  # fmt: skip
            check_can_follow(driving, tracker, self.frames)
            with written_folder(self.out, self.overwrite, sources) as folder:
                fitted = self._track(driving, tracker, model, folder, device, start)
        seconds = time.perf_counter() - began
        for sentence in (*driving.new_warnings(), *said_of(fitted, driving, self.face)):
            logger.warning("%s", sentence)
        logger.info("%s: %s, %.1f s", self.out, summary_line(fitted), seconds)

    def _check(self) -> None:
        check_face_number("--face", self.face)
        if self.frames is not None and self.frames < 1:
            raise InputError(f"--frames: expected at least 1, got {self.frames}")
        if self.method == "published" and self.one_person:
            raise InputError(
                "--one-person: expected with --method solve, as the published one fits each frame by itself"
            )
        smallest, largest = SIZES
        if not smallest <= self.size <= largest:
            raise InputError(f"--size: expected {smallest} to {largest} px, got {self.size}; the published size is 512")

    def _track(
        self, driving: DrivingFrames, tracker: FaceTracker, model: HeadModel, folder: TrackFolder, device: torch.device,
        start: FilmStart | None,
    ) -> FittedFrames:  # fmt: skip
        logger.info(
            "the fit begins at %s", "the mean face" if start is None else f"the reconstructor's in {self.start}"
        )
        segment: Segment | None = person_mask() if self.segment else None
        if self.segment and segment is None:
            logger.info("segs/ is left out: the network that tells persons is not there (`triportrait fetch faces`)")

        def take(frame: Frame, face: AlignedFace) -> None:
            folder.add_picture(frame.index, face.crop, segment)
            if start is not None:
                start.add(frame.image, face)

        faces = follow_faces(driving, tracker, self.frames, take, _bar("follow the face"))
        with progress_bar(total=len(faces), desc="fit") as bar:
            fitted = fit_film(
                faces, model, provider=tracker.provider, film=not driving.clip.is_pictures,
                one_person=self.one_person, start=start, method=self.method, device=device,
                progress=lambda done, total: bar.update(done - bar.n),
            )  # fmt: skip
        folder.add_fit(fitted)
        if start is not None:
            folder.add_quick(fitted, start.quick_records())
        folder.add_quality(fitted)
        write_curves(folder.root / CURVES, fitted)
        if self.overlay:
            self._draw(driving, fitted, model, folder.root / OVERLAY)
        folder.add_summary({
            "film": self.film.name, "head_model": fitted.model.to_dict(), "size": self.size, "smooth": tracker.smooth,
            "one_person": self.one_person, "start": None if start is None else "recon3d", "method": self.method,
            **counts_of(fitted),
        })  # fmt: skip
        return fitted

    def _draw(self, driving: DrivingFrames, fitted: FittedFrames, model: HeadModel, path: Path) -> None:
        clip = driving.clip
        size = overlay_size(*clip.size_px)
        overlay = Overlay(fitted, model, size)
        with (
            VideoWriter(path, size_px=size, fps=clip.fps) as video,
            closing(clip.frames(self.frames)) as frames,
            closing(_bar("draw")(frames, clip.frame_count or 0)) as shown,
        ):
            for frame in shown:
                video.write(overlay.draw(frame.image, frame.index), frame.time_s)


def counts_of(fitted: FittedFrames) -> dict[str, Any]:
    """Count what became of the frames."""
    faces = fitted.faces
    reasons = [unseen.why for unseen in faces.unseen.values()]
    return {
        "frames": len(faces) + len(faces.unseen),
        "tracked": len(faces),
        "left_out": {why: reasons.count(why) for why in sorted(set(reasons))},
        "poor_fit": int((fitted.error_px > POOR_FIT_PX).sum()),
        "shots": len(np.unique(faces.shots)),
        "error_px": {
            "median": round(float(np.median(fitted.error_px)), 3),
            "largest": round(float(fitted.error_px.max()), 3),
        },
    }


def summary_line(fitted: FittedFrames) -> str:
    """Word what was made, in one line."""
    counts = counts_of(fitted)
    frames, shots, error = counts["frames"], counts["shots"], counts["error_px"]
    return (
        f"a face in {counts['tracked']} of {frames} frame{'s' * (frames != 1)}, {shots} shot{'s' * (shots != 1)}; "
        f"{fitted.model.name} fits its landmarks to {error['median']:.1f} px of 512 (median), "
        f"{error['largest']:.1f} px at most"
    )


def said_of(fitted: FittedFrames, driving: DrivingFrames, face: int | None) -> list[str]:
    """Word what a user should know of the frames, one sentence for each kind of failure."""
    faces, counts, name = fitted.faces, counts_of(fitted), driving.name
    said = [
        f"{name}: {count} of {counts['frames']} frames left out ({why}); {QUALITY} names them"
        for why, count in counts["left_out"].items()
    ]
    if counts["poor_fit"]:
        said.append(
            f"{name}: in {counts['poor_fit']} frames the model is over {POOR_FIT_PX:g} px off the landmarks; "
            f"{QUALITY} names them"
        )
    if faces.most_faces > 1 and face is None:
        said.append(f"{name}: up to {faces.most_faces} faces; the largest was followed, --face N takes another")
    return said


def _bar(words: str) -> Callable[[Frames, int], Frames]:
    return lambda frames, total: progress_bar(iterable=frames, total=total or None, desc=words)
