"""Tells in the log that a first start on a GPU is longer than others, as Triton compiles the kernels for it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from triportrait.kernels.dispatch import INTERPRETED, runs_triton
from triportrait.kernels.first_compilation import CompilationNote, cache_folder
from triportrait.serve.reenactor import Reenactor

logger = logging.getLogger(__name__)

PROGRAMS = 20  # that a start launches at most, counted without a GPU
PROGRAM_S = 1, 4  # to compile one, measured on one core of a CPU


class FirstStart:
    """Tells once that the kernels are compiled, and once what that took; it is silent where Triton has them already.

    Args:
        reenactor: the network that starts, on its device.
        precision: the precision that was asked for.
        most_batch: the largest batch that is captured.
    """

    def __init__(self, reenactor: Reenactor, precision: str, most_batch: int = 1) -> None:
        self._seconds, self._told = 0.0, False
        self._note: CompilationNote | None = None
        weight = next(reenactor.portrait.parameters())
        if weight.device.type == "cuda" and not INTERPRETED and runs_triton(weight=weight):
            sizes = json.dumps(reenactor.portrait.config.to_dict(), sort_keys=True)
            encoder, neck = reenactor.motion_encoder, reenactor.portrait.neck
            kinds = [json.dumps([encoder.architecture, encoder.to_dict()]), type(neck).__name__]
            note = CompilationNote(f"{sizes} {kinds} {reenactor.static} {precision} {most_batch}", weight.device)
            self._note = None if note.stands else note

    @contextmanager
    def part(self, last: bool = False) -> Iterator[None]:
        """Do a part of the start in a `with` block; the first and the last are told, if there is anything to compile.

        Args:
            last: all programs are compiled when this part is done.
        """
        if self._note is None:
            yield
            return
        if not self._told:
            self._told = True
            logger.info(
                "first start on this GPU: Triton compiles up to %d programs, %d to %d s each, before the first frame; "
                "it keeps them in %s, and later starts do not wait", PROGRAMS, *PROGRAM_S, cache_folder(),
            )  # fmt: skip
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began
        if last:
            logger.info("Triton has compiled its programs: %.1f s with the first frames", self._seconds)
            with suppress(OSError):
                self._note.write()
            self._note = None
