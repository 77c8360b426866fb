"""`triportrait prepare videos DIR STORE` makes a clip store for stage 2 of a folder of films."""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, read_json
from triportrait.train.data.clip_store.store import ClipStore
from triportrait.train.data.films.listing import Who, identities_of, list_films
from triportrait.train.data.films.many import Place, make_store
from triportrait.train.data.films.options import FilmOptions
from triportrait.train.data.films.report import PAGE, REPORT, line_of
from triportrait.train.data.parallel import MOST_GPU_PROCESSES, MOST_PROCESSES, cores
from triportrait.train.data.split import check_share
from triportrait.train.engines.ranks import launched_ranks
from triportrait.train.jobs.ablation_options import OptionalFloat, OptionalInt, OptionalPath, OptionalStr
from triportrait.train.jobs.prepare_shared import device_of_rank, progress_bar, report, split_off

OF_HEADS = "an option of `prepare head-videos`, which films procedural heads and was `prepare videos`,"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Videos:
    """Write a clip store for stage 2 from a folder of films: faces are followed shot by shot, judged, fitted by a head
    model, cut out and segmented. A command that was stopped goes on; processes of `torchrun` share the films."""

    renamed: ClassVar[dict[str, str]] = dict.fromkeys(("--count", "--fps", "--antialias", "--overwrite"), OF_HEADS)

    places: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR STORE", help_behavior_hint="")
    ] = ()
    """The folder of films, and the folder to make."""
    size: int = FilmOptions.size
    """Side of the aligned pictures in px, an even number from 64 on."""
    frames: int = FilmOptions.frames
    """Frames of a clip, drawn from the frames of its window that have no flaw."""
    fewest: OptionalInt = None
    """Frames that a clip may have where fewer are without a flaw; by default --frames."""
    window: int = FilmOptions.window
    """Consecutive frames of a shot, its first ones with a face, that are looked at, at the film's own rate."""
    seed: int = FilmOptions.seed
    """Chooses the frames of the clips."""
    minutes: float = FilmOptions.minutes
    """How much of each film is read, from its start."""
    head_model: str = FilmOptions.head_model
    """The head model that is fitted: `open-head`, the package's own, or FLAME's file or folder."""
    motion: OptionalStr = None
    """Weights folder of the motion encoder whose features are stored; by default none are, and training reads them off
    the pictures."""
    most_enlarged: float = FilmOptions.most_enlarged
    """How much larger than in its film a face may come out; others are too small."""
    most_outside: float = FilmOptions.most_outside
    """Share of the aligned square that may lie beyond the film's picture; others are cut off."""
    most_blur: float = FilmOptions.most_blur
    """Blur of an aligned picture at 256 px, from 0, sharp, to 1 (Crete et al. 2007)."""
    most_turned_deg: float = FilmOptions.most_turned_deg
    """Angle between where the head looks and where the camera is."""
    most_hidden: float = FilmOptions.most_hidden
    """Share of the face that the segmentation takes for something else than a person; more is an occluded face."""
    most_outliers: int = FilmOptions.most_outliers
    """Landmarks of 70 that may miss the fitted head; more are an occluded face, too."""
    most_error_px: float = FilmOptions.most_error_px
    """Distance of the landmarks from the fitted head, root mean square, in pixels of 512."""
    other_face: float = FilmOptions.other_face
    """Size of another face, over that of the followed one, from which on a shot shows two people."""
    most_flawed: float = FilmOptions.most_flawed
    """Share of a window's frames that may have a flaw; these frames are left out."""
    who: Who = "folder"
    """Whose a film is: `folder`, films in one folder below DIR are one person's and those right in it are each of
    another; `film`, each film is of another person. VFHQ's names say it themselves."""
    identities: OptionalPath = None
    """A text file that says it instead, with a line FILM<tab>PERSON for each film, FILM as below DIR."""
    split: OptionalFloat = None
    """Share of the identities that are held out of training; a hash of each decides. By default none is."""
    workers: OptionalInt = None
    """Processes that work on films; by default one per core, up to 8, or up to 4 with a GPU."""
    device: str = "auto"
    """Where fits, segmentation and motion are computed: auto, cpu or cuda. Faces are found on the CPU."""

    def run(self) -> None:
        """Check everything, then read film by film."""
        source, out = self._named()
        rank, size, local = launched_ranks()
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(FilmOptions)}
        options = FilmOptions(**given | {"fewest": self.frames if self.fewest is None else self.fewest})
        device = device_of_rank(self.device, local)
        workers = self._workers(device)
        films = list_films(source)
        identities = identities_of(films, self.who, self.identities)
        if self.split is not None:
            check_share(self.split, 0, identities.values(), str(source))
        if rank == 0:
            if films.others:
                logger.info("%s: %d other files are left out, the first is %s", source, len(films.others),
                            films.others[0])  # fmt: skip
            if self.motion is None:
                logger.info("no --motion: no motion is stored, training reads it off the pictures")
        with progress_bar("film", len(films.names)) as progress:
            made = make_store(films, identities, out, options, device, workers, Place(rank, size), progress)
        if made is None:
            return
        held = split_off(out, self.split, self.identities)
        if made.already_there:
            report(out, f"{out}: its {made.written} clips are there already, nothing was done{held}")
            return
        counts = read_json(out / REPORT, MOST_INDEX)
        frames = sum(ClipStore(out).frames_of)
        report(out, f"{line_of(counts)}; {frames:,} frames of {self.size} px{held}; {out / PAGE} shows them")

    def _named(self) -> tuple[Path, Path]:
        """Return DIR and STORE. Raises: `InputError` where they are not two, or one lies in the other."""
        if len(self.places) != 2:
            got = " ".join(map(str, self.places)) or "nothing"
            raise InputError(
                f"DIR STORE: expected a folder of films and the store to make, got {got}; videos of procedural heads "
                "are made by `prepare head-videos OUT` now"
            )
        source, out = self.places
        inside = source.resolve() in (out.resolve(), *out.resolve().parents)
        if inside:
            raise InputError(f"{out}: expected a store outside {source}, whose films are read; name another folder")
        return source, out

    def _workers(self, device: str) -> int:
        """Return how many processes work. Raises: `InputError`."""
        if self.workers is not None and not 1 <= self.workers <= 256:
            raise InputError(f"workers: expected 1 to 256, got {self.workers}; choose another")
        if self.workers is not None:
            return self.workers
        beside = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1))
        return max(1, min(cores() // beside, MOST_PROCESSES if device == "cpu" else MOST_GPU_PROCESSES))
