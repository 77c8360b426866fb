"""Counts what was kept and dropped of films, and writes the page that shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from triportrait.core.safe_text import shown
from triportrait.train.data.films.listing import Films
from triportrait.train.data.films.one_film import Outcome, Shot
from triportrait.train.data.kept_and_dropped import Tile, write_kept_and_dropped

REPORT, PAGE = "report.json", "page.html"
MOST_OTHERS = 1000  # names of other files that a report lists
MOST_SAID = 200  # characters below a picture


def counts_of(outcomes: Iterable[Outcome], films: Films) -> dict[str, Any]:
    """Count films, shots and frames: what was found is what was kept and what was dropped, by reason."""
    dropped_films, dropped_shots = Counter[str](), Counter[str]()
    flaws, faces = Counter[str](), Counter[str]()
    kept = shots = clips = read = frames = 0
    for outcome in outcomes:
        read += outcome.frames
        faces["networks" if outcome.faces == "networks" else "landmark files"] += 1
        kept += outcome.reason is None
        dropped_films.update([] if outcome.reason is None else [outcome.reason])
        for shot in outcome.shots:
            shots += 1
            flaws.update(shot.flaws)
            if shot.entry is not None:
                clips += 1
                frames += shot.entry["frames"]
            elif shot.reason is not None:
                dropped_shots[shot.reason] += 1
    return {
        "films": {"found": len(films.names), "kept": kept, "dropped": _sorted(dropped_films)},
        "shots": {"found": shots, "kept": clips, "dropped": _sorted(dropped_shots)},
        "frames": {"read": read, "kept": frames, "flaws": _sorted(flaws)},
        "faces": _sorted(faces),
        "other_files": {"found": len(films.others), "names": list(films.others[:MOST_OTHERS])},
    }


def line_of(counts: Mapping[str, Any]) -> str:
    """Return the counts in a sentence."""
    films, shots = counts["films"], counts["shots"]
    others = counts["other_files"]["found"]
    return (
        f"{films['kept']} of {films['found']} films{_because(films['dropped'])}, "
        f"{shots['kept']} clips of {shots['found']} shots{_because(shots['dropped'])}"
        + f"; {others} other files left out"
        * bool(others)
    )


def log_lines(outcome: Outcome) -> Iterator[str]:
    """Give the lines of the log about a film: none where all of it is well."""
    if outcome.reason is not None:
        said = f": {outcome.said[0]}" if outcome.said else ""
        yield f"{shown(outcome.film)} was left out, {outcome.reason}{said}"
    elif outcome.said:
        yield f"{shown(outcome.film)}: {outcome.said[0]}"


def write_page(path: Path, films: Films, counts: Mapping[str, Any], outcomes: Iterable[tuple[Path, Outcome]]) -> None:
    """Write the page. Raises: `OSError` where the disk refuses."""

    def tiles() -> Iterator[Tile]:
        for folder, outcome in outcomes:
            for shot in outcome.shots:
                yield Tile(_picture(folder / shot.picture), outcome.film, shot.reason, _said(shot))
            if not outcome.shots:
                picture = None if outcome.picture is None else _picture(folder / outcome.picture)
                said = outcome.said[0] if outcome.said else ""
                yield Tile(picture, outcome.film, outcome.reason, shown(said, MOST_SAID))

    numbers = {
        "films": (counts["films"]["found"], counts["films"]["kept"], counts["films"]["dropped"]),
        "shots": (counts["shots"]["found"], counts["shots"]["kept"], counts["shots"]["dropped"]),
    }
    write_kept_and_dropped(path, f"{films.folder.resolve().name}: what became of the films", line_of(counts), numbers,
                           tiles())  # fmt: skip


def _picture(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _said(shot: Shot) -> str:
    where = f"frames {shot.first_frame} to {shot.first_frame + shot.frames - 1}"
    error = "" if shot.error_px is None else f", {shot.error_px:.1f} px"
    flaws = ", ".join(f"{count} {flaw}" for flaw, count in shot.flaws.items())
    kept = "" if shot.entry is None else f", {shot.entry['frames']} kept"
    return f"{where}{kept}{error}" + (f"; {flaws}" if flaws else "")


def _because(dropped: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{count} {reason}' for reason, count in dropped.items())})" if dropped else ""


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
