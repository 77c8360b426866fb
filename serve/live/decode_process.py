"""The process in which uploaded pictures are decoded: it can be killed, which a thread cannot.

It reads requests from its input and writes answers to its output, one after the other, until its input ends. It has
no network, no torch and no files of its own; its processor time and its memory are limited.
"""

from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress
from typing import BinaryIO

import numpy as np
from PIL import Image

from triportrait.core.errors import InputError
from triportrait.serve.live.uploads import decode

REQUEST = struct.Struct("<QI")  # bytes of the file that follows; longest side that is wanted, pixels
ANSWER = struct.Struct(
    "<?II"
)  # whether pixels follow; then their height and width, else the length of a sentence and 0
CPU_S = 10.0  # of the processor, for a picture
_MEMORY = 4 << 30
_NICE = 5


def shrunk(image: np.ndarray, longest_px: int) -> np.ndarray:
    """Return a picture, uint8 [H, W, 3], made smaller where its longer side is above `longest_px`."""
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= longest_px:
        return image
    size = max(1, round(width * longest_px / longest)), max(1, round(height * longest_px / longest))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def main() -> None:
    """Decode until the input ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    with suppress(OSError, AttributeError):
        os.nice(_NICE)
    _limit_memory()
    while (head := requests.read(REQUEST.size)) and len(head) == REQUEST.size:
        length, longest_px = REQUEST.unpack(head)
        body = requests.read(length)
        if len(body) < length:
            return
        _limit_time()
        _answer(body, longest_px, answers)


def _answer(body: bytes, longest_px: int, answers: BinaryIO) -> None:
    try:
        image = np.ascontiguousarray(shrunk(decode(body), longest_px))
    except InputError as error:
        sentence = str(error).encode()
        answers.write(ANSWER.pack(False, len(sentence), 0))
        answers.write(sentence)
    else:
        answers.write(ANSWER.pack(True, *image.shape[:2]))
        answers.write(image.data)
    answers.flush()


def _limit_memory() -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time() -> None:
    """Let the system kill this process when its next picture takes longer than it may."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = round(used.ru_utime + used.ru_stime + CPU_S) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
