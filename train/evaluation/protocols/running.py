"""Renders the pairs of a protocol into a folder of results, clip by clip; a run that was killed goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np

from triportrait.core.atomic import put_folder, write_text
from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.picture_file import write_picture
from triportrait.train.engines.ranks import Ranks
from triportrait.train.evaluation.protocols.frames import clip_frames
from triportrait.train.evaluation.protocols.records import CameraName, Pair, Protocol
from triportrait.train.evaluation.protocols.results import CARD, CARD_KIND, VERSION, read_card


class Renderer(Interface):
    """Makes frames of a source and driving frames."""

    def prepare(self, source: np.ndarray) -> Any:
        """Read a source uint8 [S, S, 3] once."""
        ...

    def render(self, prepared: Any, driving: np.ndarray, camera: CameraName) -> np.ndarray:
        """Make the frame uint8 [S, S, 3] of a driving frame uint8 [S, S, 3]; frames of a pair come in order."""
        ...

    def begin(self) -> None:
        """Forget the driving frames before: another clip begins."""
        ...


def check_run(folder: Path, protocol: Protocol, card: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Check before any work that results can be made in a folder, or go on there; return what its card is to say.

    Raises:
        InputError: it holds results of another protocol, method or weights, or something else.
    """
    whole = {"kind": CARD_KIND, "version": VERSION, "protocol": protocol.sha256, "name": protocol.head.name} | card
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for results, a file is there; name another")
    before = read_card(folder) if folder.is_dir() else {}
    if before and before != whole:
        differs = sorted(key for key in {*before, *whole} if before.get(key) != whole.get(key))
        if not overwrite:
            raise InputError(
                f"{folder}: expected to go on with the same run, got another {', '.join(differs)}; name another folder,"
                " or pass --overwrite to begin anew"
            )
    if not before and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: expected an empty folder or a run to go on with, got other files; name another")
    return whole


def run_protocol(
    folder: Path,
    protocol: Protocol,
    renderer: Renderer,
    card: dict[str, Any],
    ranks: Ranks,
    overwrite: bool = False,
    tell: Callable[[int], None] = lambda frames: None,
) -> dict[str, str]:
    """Render every pair that is not there yet.

    A pair appears whole. Each rank takes every `ranks.size`-th pair.

    Args:
        card: from `check_run`.
        overwrite: begin anew.
        tell: hears how many more frames are there.

    Returns:
        Pair -> the sentence that says why it could not be made.
    """
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite and read_card(folder) != card:
            _clear(folder, protocol)
        write_text(folder / CARD, json.dumps(card, indent=1) + "\n")
    ranks.barrier()
    failed: dict[str, str] = {}
    prepared: tuple[tuple[str, int], Any] | None = None
    for pair in protocol.pairs[ranks.rank :: ranks.size]:
        if (folder / pair.name).is_dir():
            tell(pair.frames)
            continue
        key = (pair.source, pair.source_frame)
        try:
            if prepared is None or prepared[0] != key:
                (source,) = clip_frames(protocol, *key, 1)
                prepared = (key, renderer.prepare(source))
            _run_pair(folder, protocol, pair, renderer, prepared[1], tell)
        except InputError as error:
            failed[pair.name] = str(error)
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            failed[pair.name] = f"{folder / pair.name}: it could not be written ({reason}); free some space"
    merged: dict[str, str] = {}
    for some in ranks.all_gather(failed):
        merged |= some
    return {pair.name: merged[pair.name] for pair in protocol.pairs if pair.name in merged}


def _run_pair(
    folder: Path, protocol: Protocol, pair: Pair, renderer: Renderer, prepared: Any, tell: Callable[[int], None]
) -> None:
    part = folder / f".{pair.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        renderer.begin()
        seconds, count = 0.0, 0
        for image in clip_frames(protocol, pair.driving, pair.first, pair.frames):
            began = time.perf_counter()
            result = renderer.render(prepared, image, pair.camera)
            seconds += time.perf_counter() - began
            write_picture(part / f"{count:06d}.png", result)
            count += 1
            tell(1)
        said = {"frames": count, "seconds": round(max(seconds, 1e-6), 6)}
        write_text(folder / f"{pair.name}.json", json.dumps(said) + "\n")
        put_folder(part, folder / pair.name, folder / f".{pair.name}.old")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _clear(folder: Path, protocol: Protocol) -> None:
    """Remove the results of a run before, and nothing else."""
    for pair in protocol.pairs:
        shutil.rmtree(folder / pair.name, ignore_errors=True)
        (folder / f"{pair.name}.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "scores", ignore_errors=True)
