"""Make the films on which `prepare videos` and `track` are tried: `python -m docs.tracking.films.make OUT`.

    OUT/films/      what a stranger's folder may hold: two dozen films, four files that are none, and a picture
    OUT/truth.json  what is true of each, and what `prepare videos` has to say of it
    OUT/marks/      NAME.npz with landmarks [T, 68, 2], pixels of the film, and neck [T, 3], radians, for plain films

The same arguments give the same pixels. Most of it shows procedural heads, one film is the photograph of
`docs/faces/moved_photograph.py`. None has numbers beside it: faces are found as those of any film.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from docs.tracking.films.scenes import Scene, Stage

CLOCK = 90_000
Expected = int | tuple[str, ...]
# What `prepare videos` has to find: how many clips it keeps, or one of these reasons why there are none. Films of a
# person lie in a folder of that name; some people have several.
FILMS: dict[str, tuple[Callable[[Stage], Scene], Expected]] = {
    "anna/plain": (lambda stage: stage.person("anna"), 1),
    "anna/again": (lambda stage: stage.person("anna", 1), 1),
    "ben/plain": (lambda stage: stage.person("ben"), 1),
    "ben/again": (lambda stage: stage.person("ben", 1), 1),
    "cleo/plain": (lambda stage: stage.person("cleo"), 1),
    "dan/plain": (lambda stage: stage.person("dan"), 1),
    "eva/plain": (lambda stage: stage.person("eva"), 1),
    "finn/plain": (lambda stage: stage.person("finn"), 1),
    "two_cuts": (lambda stage: stage.two_cuts(), 3),
    "side_by_side": (lambda stage: stage.crowd(2), ("two people",)),
    "ten": (lambda stage: stage.crowd(10), ("two people",)),
    "cleo/phone": (lambda stage: stage.phone("cleo"), 1),
    "finn/uneven": (lambda stage: stage.uneven("finn"), 1),
    "away": (lambda stage: stage.away("eva"), ("face lost", "too short")),
    "nobody": (lambda stage: stage.nobody(), ("no face",)),
    "half_outside": (lambda stage: stage.half_outside("anna", 0.5), ("cut off", "no face")),
    "quarter_outside": (lambda stage: stage.half_outside("ben", 0.25), ("cut off",)),
    "turns_away": (lambda stage: stage.turns_away("dan"), ("turned away", "face lost", "too short")),
    "blurred": (lambda stage: stage.blurred("ben"), ("blurred",)),
    "far": (lambda stage: stage.far("eva"), ("too small",)),
    "occluded": (lambda stage: stage.occluded("cleo"), ("occluded",)),
    "short": (lambda stage: stage.short("anna"), ("too short",)),
    "finn/eight_k": (lambda stage: stage.eight_k("finn"), 1),
    "photograph": (lambda stage: stage.photograph(), 1),
}
# What is no film, or one no longer; ends that no film has are not looked at.
NO_FILMS: dict[str, tuple[str, ...]] = {
    "empty.mp4": ("unreadable",),
    "text.mp4": ("unreadable",),
    "truncated.mp4": ("unreadable", "too short"),
    "corrupt.mp4": ("unreadable",),
    "still.png": ("no film",),
    "picture.mp4": ("unreadable", "too short", "no face"),
    "sound_only.m4a": ("no film",),
    "sound_only.mp4": ("unreadable",),
    "notes.txt": ("no film",),
}


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and make the films."""
    parser = argparse.ArgumentParser(prog="python -m docs.tracking.films.make", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--size", type=int, default=256, help="side of a head's picture in px; frames are wider")
    parser.add_argument("--frames", type=int, default=60, help="frames of a shot")
    parser.add_argument("--only", nargs="*", choices=[*FILMS], help="some of the films")
    asked = parser.parse_args(arguments)
    began = time.monotonic()
    truth = make(asked.out, asked.size, asked.frames, asked.only)
    print(f"{asked.out}: {len(truth)} films in {time.monotonic() - began:.0f} s")


def make(out: Path, size: int, frames: int, only: list[str] | None = None, broken: bool = True) -> dict[str, Any]:
    """Make films; those that are there already stay.

    Args:
        size: side of a head's picture in px. frames: of a shot. only: which films; by default all.
        broken: whether to put files that are no films beside them.

    Returns:
        What is true of each, as in `truth.json`.
    """
    folder, stage, truth = out / "films", Stage(size, frames), {}
    names = only or [*FILMS]
    for name in names:
        scene, expected = FILMS[name][0](stage), FILMS[name][1]
        path, marks = folder / f"{name}.mp4", out / "marks" / f"{name}.npz"
        for place in (path.parent, marks.parent):
            place.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write(path, scene)
        if scene.landmarks:
            places = np.stack(scene.landmarks).astype(np.float32)
            np.savez_compressed(marks, landmarks=places, neck=np.asarray(scene.neck, np.float32))
        says = {"kept": expected} if isinstance(expected, int) else {"kept": 0, "reasons": expected}
        truth[f"{name}.mp4"] = {**scene.truth, "expected": says}
    if broken:
        whole = (folder / f"{names[0]}.mp4").read_bytes()
        for name, reasons in NO_FILMS.items():
            spoil(folder / name, whole)
            truth[name] = {"bytes": (folder / name).stat().st_size, "expected": {"kept": 0, "reasons": reasons}}
    (out / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    return truth


def write(path: Path, scene: Scene) -> None:
    """Encode a scene; the film appears under its name only when it is whole."""
    half = path.with_name(f".{path.name}")
    with av.open(str(half), "w", format="mp4", options={"movflags": "+faststart"}) as file:
        options = {"preset": "ultrafast" if scene.quick else "veryfast", "crf": "18", "threads": "1"}
        stream: Any = file.add_stream("libx264", rate=scene.fps, options=options)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, CLOCK)
        for number, image in enumerate(scene.frames):
            if not number:
                stream.height, stream.width = image.shape[:2]
                if scene.turn_deg:
                    stream.set_display_rotation(scene.turn_deg, False, False)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            frame.pts = scene.times[number] if scene.times else number * CLOCK // scene.fps
            frame.time_base = Fraction(1, CLOCK)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    half.replace(path)


def spoil(path: Path, whole: bytes) -> None:
    """Write a file that is no film, or one no longer, by its name among `NO_FILMS`; `whole` are the bytes of a film."""
    if path.stem == "truncated":  # its index comes first, so that the first half can be seen
        path.write_bytes(whole[: len(whole) // 2])
    elif path.stem == "corrupt":  # from behind its index on, every byte is noise
        start = whole.index(b"mdat") + 4
        noise = np.random.default_rng(1).integers(0, 256, len(whole) - start, dtype=np.uint8)
        path.write_bytes(whole[:start] + noise.tobytes())
    elif path.stem == "sound_only":
        _write_tone(path)
    elif path.stem in ("still", "picture"):
        Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(path, "PNG")
    else:
        path.write_bytes(b"" if path.stem == "empty" else b"This is no film.\n" * 100)


def _write_tone(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as file:
        sound: Any = file.add_stream("aac", rate=48_000)
        for k in range(25):
            wave = 0.2 * np.sin(2 * np.pi * 440 / 48_000 * (np.arange(1024) + 1024 * k))
            piece = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], "fltp", "mono")
            piece.sample_rate, piece.pts = 48_000, 1024 * k
            file.mux(sound.encode(piece))
        file.mux(sound.encode(None))


if __name__ == "__main__":
    sys.exit(main())
