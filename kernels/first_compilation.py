"""Whether Triton has its programs on the disk yet, told by a note that stands among them in Triton's own cache."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from triportrait.kernels.language import triton

_NOTE = "triportrait.txt"


class CompilationNote:
    """Notes in Triton's cache that all programs of some work were compiled; who empties the cache takes the note away.

    Another GPU, another Triton, changed kernels and other work have notes of their own.

    Args:
        work: what the programs are for, and all that they depend on beside the above.
        device: a CUDA device on which Triton launches.
    """

    def __init__(self, work: str, device: torch.device) -> None:
        parts = [work, triton.__version__, repr(torch.cuda.get_device_capability(device))]
        parts += [path.read_text("utf-8") for path in sorted(Path(__file__).parent.rglob("*.py"))]
        self._key = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def stands(self) -> bool:
        """Tell whether it was written."""
        return self._cache().get_file(_NOTE) is not None

    def write(self) -> None:
        """Note that all programs were compiled. Raises: `OSError` where the cache cannot be written."""
        self._cache().put("all programs of a first start were compiled\n", _NOTE, binary=False)

    def _cache(self) -> Any:
        from triton.runtime.cache import get_cache_manager

        return get_cache_manager(self._key)


def cache_folder() -> str:
    """Return where Triton keeps compiled programs."""
    from triton import knobs

    return str(knobs.cache.dir)
