"""The process in which a visitor's portrait is refined: frames go on beside it, and it can be killed.

It reads its work from its input, pickled by the server, and says on its output how far it is, a JSON object a line. The
photograph comes and stays in memory; the one file that is written is the person's. When the input ends, so that nobody
waits any more, the process removes the file's folder and ends.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import math
import os
import pickle
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.person import Person, save_person
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.personalizing import TRAINER, given_pictures, named, refine_config
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.weight_loading import load_weights, need_faces

SOURCE = "a photo of a live session"  # what the file calls its picture; the visitor's name for it is not known
PREVIEW_PX = 144  # the side of each picture that shows how far it is
LONGEST_LINE = 1 << 20
LONGEST = 1.5  # times the minutes that were asked for
_NICE = 10
_TELL_S, _PREVIEW_S = 0.25, 1.0  # between two messages, and two with a picture


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be done.

    Attributes:
        face: the portrait, aligned.
        weights, device: as of the server.
        minutes: how long to refine.
        path: where the person's file is written, alone in its folder.
        threads: of the CPU.
        trainer: the module that refines.
    """

    face: AlignedFace
    weights: str
    device: str
    minutes: float
    path: Path
    threads: int
    trainer: str = TRAINER


def main() -> None:
    """Do one piece of work."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    with suppress(OSError, AttributeError):
        os.nice(_NICE)
    work: Work = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_input, args=(work.path.parent,), daemon=True).start()

    def tell(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    try:
        torch.set_num_threads(work.threads)
        person = _refined(work, tell)
        save_person(work.path, person)
        tell(told="done")
    except (MemoryError, torch.OutOfMemoryError):
        tell(told="failed", memory=True, reason="out of memory")
    except Exception as error:
        reason = str(error) if isinstance(error, InputError) else traceback.format_exc(limit=-3)
        tell(told="failed", memory=False, reason=reason[-2000:])


def _end_with_input(folder: Path) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _refined(work: Work, tell: Callable[..., None]) -> Person:
    reenactor = Reenactor(*load_weights(work.weights), work.device)
    source = reenactor.prepare(work.face)
    given = given_pictures(reenactor, source, [work.face], masks=need_faces(work.weights))
    config = refine_config(work.minutes, None, None, 0)
    refine = importlib.import_module(work.trainer).refine
    latest = time.monotonic() + LONGEST * 60 * work.minutes  # what was reached by then is as good as it gets here

    def is_late() -> bool:
        return time.monotonic() > latest

    person = refine(reenactor.portrait, reenactor.motion_encoder, given, config, _Teller(tell), is_late, previews=True)
    return named(person, SOURCE, work.weights)


class _Teller:
    """Tells how far it is, as often as a page can use it."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._began_s, self._told_s, self._shown_s = time.monotonic(), -math.inf, -math.inf

    def __call__(self, step: Any) -> None:
        now = time.monotonic()
        if now - self._told_s < _TELL_S:
            return
        self._told_s = now
        passed_s, left_s = now - self._began_s, max(0.0, float(step.seconds_left))  # steps are unknown at first
        message = {"told": "step", "share": passed_s / max(passed_s + left_s, 1e-9), "seconds_left": left_s}
        if step.preview is not None and now - self._shown_s >= _PREVIEW_S:
            self._shown_s = now
            message["preview"] = base64.b64encode(_small_jpeg(step.preview)).decode()
        self._tell(**message)


def _small_jpeg(preview: Tensor) -> bytes:
    """Encode the second and the third of the pictures [S, k S, 3]: the portrait as it is now, and from the side."""
    side = preview.shape[0]
    shown = preview[:, side : 3 * side] if preview.shape[1] >= 3 * side else preview[:, -side:]
    image = Image.fromarray(np.ascontiguousarray(shown.cpu().numpy()))
    width = PREVIEW_PX * shown.shape[1] // side
    out = io.BytesIO()
    image.resize((width, PREVIEW_PX), Image.Resampling.LANCZOS).save(out, "JPEG", quality=85)
    return out.getvalue()
