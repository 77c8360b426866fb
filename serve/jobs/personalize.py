"""`triportrait personalize SOURCE… OUT`: pictures of one person become a small file that shows this person refined."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, Literal, Self

import tyro

from triportrait.core.atomic import replacing
from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.gpus import chosen_device
from triportrait.core.person import Person
from triportrait.core.weights import named_weights
from triportrait.serve.animation import check_face_number
from triportrait.serve.faces.providers import FaceKind, LazyProvider
from triportrait.serve.jobs.reenact import progress_bar
from triportrait.serve.media.output_file import check_output, reason_of, writing
from triportrait.serve.media.pictures.picture_file import write_picture
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.personal_pictures import listed
from triportrait.serve.personalizing import check_person_output, refine_config, state_of
from triportrait.serve.pipeline import Pipeline
from triportrait.serve.source_and_driving import SourceFile, find_source
from triportrait.serve.threads import share_cores
from triportrait.serve.tracking_files import PICTURES

MOST_TOLD = 1e8  # steps: more are told before the first ones are timed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Personalize:
    """Refine the networks for one person, from one picture or a few. Ctrl-C ends early and writes what was reached."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(help_behavior_hint="(required)")]
    """Pictures of one person, folders of pictures or short films, of which some are taken evenly, 40 in all. The first
    picture is the portrait that `reenact`, `live`, `turntable` and `mesh` then show by --person OUT."""
    out: tyro.conf.Positional[Path]
    """The result: .safetensors. OUT.state beside it, while it is made, lets the same command go on after a kill."""
    minutes: Annotated[float | None, tyro.conf.arg(help_behavior_hint="")] = None
    """How long to learn. Default: 2."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Learn so many steps, however long they take; on one CPU the same number gives the same file again."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Weights folder, or `demo`, or `rule`; the file is for these alone. Default: $TRIPORTRAIT_WEIGHTS, else `demo`."""
    source_params: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder with the published files of each picture, or with landmarks/."""
    faces: FaceKind = "auto"
    """What finds faces where no file tells, as in `reenact`."""
    face: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Which face of the first picture, counted from the left; the largest by default, and in all other pictures.
    Through a film one face is followed; frames in which it jumps, perhaps to somebody else's, are left out."""
    rank: Annotated[int | None, tyro.conf.arg(metavar="R", help_behavior_hint="")] = None
    """Rank of the updates of weights; 0 learns what is added to the planes alone. Default: 8; at the published sizes
    files stay under 20 MB up to 16."""
    seed: int = 0
    """Seed of all random numbers."""
    preview: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Write a picture of how it stands every few seconds, OUT.state.png: the portrait, the same as it is made, from the
    side, and with another expression. The last one becomes OUT with .png."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the output, and the preview, if they exist."""

    def run(self) -> None:
        """Check everything, read the pictures, learn, then write the file."""
        refine_config(self.minutes, self.steps, self.rank, self.seed)
        check_face_number("--face", self.face)
        device = chosen_device(self.device)
        share_cores(device)
        listed(self.sources)
        first = find_source(self.sources[0], self.source_params)
        check_person_output(self.out, self.overwrite, self.sources, named_weights(self.weights), first.files)
        stamp = None
        running = state_of(self.out).with_name(f"{state_of(self.out).name}.png")
        if self.preview:
            stamp = self._checked_preview(first, running)
        began = time.perf_counter()
        with (
            closing(LazyProvider(self.faces)) as finder,
            Pipeline.from_pretrained(self.weights, device=device, precision="fp32", faces=finder) as pipeline,
            _Steps(running, self._preview, stamp, self.overwrite) as steps,
        ):
            person = pipeline.personalize(
                self.sources, self.out, minutes=self.minutes, steps=self.steps, rank=self.rank, seed=self.seed,
                face=self.face, source_params=self.source_params, overwrite=self.overwrite, previews=self.preview,
                progress=steps.show, should_stop=lambda: steps.stopped,
            )  # fmt: skip
        self._tell(person, steps, time.perf_counter() - began)

    @property
    def _preview(self) -> Path:
        return self.out.with_suffix(".png")

    def _checked_preview(self, first: SourceFile, running: Path) -> Stamp:
        """Check that previews can be written, and make what marks them. Raises: `InputError`."""
        inputs = [*self.sources, *first.files]
        check_output(self._preview, self.overwrite, (".png",), inputs)
        check_output(running, True, (".png",), inputs)
        folder = self._preview.absolute().parent
        for source in filter(Path.is_dir, self.sources):
            if folder.resolve() in (source.resolve(), (source / PICTURES).resolve()):
                raise InputError(
                    f"{self._preview}: expected another folder than that of the pictures, {source}, as it would be "
                    "one of them the next time; choose another output, or leave --preview out"
                )
        try:
            return Stamp(sha256(first.path), named_weights(self.weights), composite=True)
        except OSError as error:
            raise InputError(
                f"{first.path}: the picture cannot be read ({reason_of(error)}); check the path"
            ) from error

    def _tell(self, person: Person, steps: _Steps, seconds: float) -> None:
        how_far = f"{steps.done} step{'s' * (steps.done != 1)} in {seconds:.1f} s"
        if steps.stopped:
            logger.info("%s: interrupted, and what was reached by then is in it: %s", self.out, how_far)
        size = self.out.stat().st_size / 1e6
        measured = person.card.get("psnr")
        told = ", ".join(f"{name} {value:.1f} dB" for name, value in measured.items()) if measured else ""
        logger.info("%s: %.1f MB, %s%s", self.out, size, how_far, f"; PSNR {told}" if told else "")
        options = {"--weights": self.weights, "--source-params": self.source_params, "--face": self.face}
        options["--faces"] = None if self.faces == "auto" else self.faces
        given = [str(word) for name, value in options.items() if value is not None for word in (name, value)]
        words = ["triportrait", "reenact", str(self.sources[0]), "DRIVING", "OUT", "--person", str(self.out), *given]
        logger.info("show it with `%s`", shlex.join(words))


class _Steps:
    """Shows the steps of a refinement on a bar, writes previews, and notes the first Ctrl-C from the first step on.

    Args:
        running: where previews are written while it runs, beside the state.
        preview: what the last one becomes at the end.
        stamp: marks and signs them; None writes none.
        overwrite: replace what is there at the end.

    Attributes:
        done: steps that were taken.
        stopped: Ctrl-C came; the next one stops at once, as it does before the first step.
    """

    def __init__(self, running: Path, preview: Path, stamp: Stamp | None, overwrite: bool) -> None:
        self._running, self._preview, self._stamp, self._overwrite = running, preview, stamp, overwrite
        self._is_wanted = stamp is not None
        self._bar: Any = None
        self._before: Any = None
        self.done, self.stopped = 0, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listen_no_more()
        if self._bar is not None:
            self._bar.close()
        if kind is None:
            self._keep_last()

    def _keep_last(self) -> None:
        """Give the last preview its own name."""
        if not self._is_wanted:
            return
        try:
            with writing(self._preview):
                if self._running.exists():
                    with replacing(self._preview, self._overwrite) as part:
                        os.replace(self._running, part)
        except InputError as error:
            logger.warning("%s; there is no preview", error)
        finally:
            with suppress(OSError):
                self._running.unlink()

    def show(self, step: Any) -> None:
        """Show where a refinement stands, a `RefineStep` of the trainer."""
        if self._bar is None:
            self._bar = progress_bar("step", total=None, desc="personalize")
            if threading.current_thread() is threading.main_thread():
                self._before = signal.signal(signal.SIGINT, self._note)
            if step.step == 1 and self._is_wanted:  # begun anew: what lies there is of another refinement
                with suppress(OSError):
                    self._running.unlink()
        self.done = step.step
        self._bar.total = step.steps if step.steps < MOST_TOLD else None
        aside = "" if step.aside_psnr is None else f", kept aside {step.aside_psnr:.1f} dB"
        self._bar.set_postfix_str(f"{step.psnr:.1f} dB{aside}", refresh=False)
        self._bar.update(step.step - self._bar.n)
        if step.preview is not None and self._stamp is not None:
            picture = self._stamp.mark(step.preview.numpy())
            try:
                write_picture(self._running, picture, overwrite=True, finish=self._stamp.sign)
            except InputError as error:  # learning goes on without
                logger.warning("%s; no more previews are written", error)
                self._stamp = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        self._listen_no_more()

    def _listen_no_more(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
