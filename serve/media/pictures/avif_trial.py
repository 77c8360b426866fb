"""An AVIF is decoded in a process of its own first: what work it asks for stands nowhere, and a process can be ended.

The file of a film of many hidden frames is as small as that of a photograph, and libavif decodes without looking at a
clock. The trial has limits on processor time and memory; a file that keeps them is then read as any other picture.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from PIL import Image

from triportrait.core.errors import InputError

CPU_S, WALL_S = 30, 120  # of the processor, and of the clock, for all pictures of a file
MEMORY = 8 << 30  # bytes of address space
MOST_PICTURES = 3000
_REFUSED = 3


def check_avif(path: Path, cpu_s: int = CPU_S) -> None:
    """Check that an AVIF is decoded within the limits; damage that Pillow tells is left to whoever reads it.

    Raises:
        InputError: it holds too many pictures, takes too long, or ends the process that decodes it.
    """
    try:
        stat = path.stat()
    except OSError:
        return  # whoever opens it says so
    sentence = _tried(os.fspath(path), stat.st_size, stat.st_mtime_ns, cpu_s)
    if sentence is not None:
        raise InputError(f"{path}: {sentence}")


@lru_cache(1024)
def _tried(path: str, size: int, changed_ns: int, cpu_s: int) -> str | None:
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
    words = [sys.executable, "-c", code, path, str(cpu_s)]
    nothing = subprocess.DEVNULL
    try:
        ended = subprocess.run(words, stdin=nothing, stdout=nothing, stderr=nothing, timeout=WALL_S).returncode
    except subprocess.TimeoutExpired:
        return f"this AVIF takes more than {WALL_S} s to decode; save it as PNG or JPEG"
    if ended == _REFUSED:
        return f"an AVIF of at most {MOST_PICTURES} pictures is wanted, this one holds more; make a video of it"
    if ended:
        return f"this AVIF takes more than {cpu_s} s of a processor or {MEMORY >> 30} GB, or is damaged; save it as PNG"
    return None


def main() -> None:
    """Decode all pictures of the file that the command line names, within limits."""
    path, cpu_s = sys.argv[1], int(sys.argv[2])
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.MAX_IMAGE_PIXELS = None  # the header's size was looked at before
    try:
        with Image.open(path, formats=("AVIF",)) as picture:
            count = getattr(picture, "n_frames", 1)
            if count > MOST_PICTURES:
                sys.exit(_REFUSED)
            for number in range(count):
                picture.seek(number)
                picture.load()
    except (OSError, ValueError, SyntaxError, EOFError, RuntimeError):
        pass  # told by whoever reads it
