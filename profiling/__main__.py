"""`python -m triportrait.profiling OUT.json`: `triportrait profile all` without the packages of the command line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import torch

if __name__ == "__main__":
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported
    from triportrait.core.errors import InputError
    from triportrait.profiling.figures import part_names, profile

    parser = argparse.ArgumentParser(prog="python -m triportrait.profiling", description=__doc__, allow_abbrev=False)
    parser.add_argument("out", metavar="OUT.json", type=Path, help="the file to write, part by part")
    parser.add_argument(
        "--part", action="append", default=[], metavar="NAME", help=f"some of {', '.join(part_names())}"
    )
    parser.add_argument("--resume", action="store_true", help="keep what the file has, and measure the rest")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    words = [word for part in arguments.part for word in ("--part", part)]
    command = " ".join(["python -m triportrait.profiling", arguments.out.name, *words])
    try:
        if arguments.out.suffix != ".json":
            raise InputError(f"out: expected a .json file, got {arguments.out}; name one")
        profile(command, arguments.out, arguments.part, arguments.resume)
    except InputError as error:
        print(f"profiling: {error}", file=sys.stderr)
        raise SystemExit(2) from None
