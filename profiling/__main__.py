"""`python -m triportrait.profiling OUT.json`: `triportrait profile all` without the packages of the command line."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import torch

if __name__ == "__main__":
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported
    from triportrait.profiling.figures import profile

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(sys.argv) != 2 or not sys.argv[1].endswith(".json"):
        arguments = " ".join(sys.argv[1:]) or "nothing"
        print(f"out: expected the one file OUT.json, got {arguments}; name it", file=sys.stderr)
        raise SystemExit(2)
    out = Path(sys.argv[1])
    profile(f"python -m triportrait.profiling {out.name}", out)
