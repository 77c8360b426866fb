"""`python -m triportrait.profiling OUT.json`: `triportrait profile all` without the packages of the command line."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import torch

if __name__ == "__main__":
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported
    from triportrait.profiling.everything import profile, write

    say = partial(print, file=sys.stderr, flush=True)
    if len(sys.argv) != 2 or not sys.argv[1].endswith(".json"):
        say(f"out: expected the one file OUT.json, got {' '.join(sys.argv[1:]) or 'nothing'}; name it")
        raise SystemExit(2)
    out = Path(sys.argv[1])
    command = f"python -m triportrait.profiling {out.name}"
    write(profile(command, tell=say, keep=lambda found: write(found, out)), out)
