"""Time the rasteriser on a CPU against its definition: `python -m docs.rasterizer.speed` takes two minutes."""

from __future__ import annotations

import sys
import time

import torch

from triportrait.kernels.dispatch import use_backend
from triportrait.profiling.cases import CASES, make_inputs
from triportrait.profiling.markdown import markdown_table

SIDE = 512
GLOBES = ((16, 16), (49, 51), (173, 174))  # rings and sectors: 500, 5,000 and 60,000 faces
MOST_DEFINED = 6000  # faces of which the definition draws a picture in a minute
REPEATS = 7


def seconds(rings: int, sectors: int, repeats: int) -> float:
    """Return the CPU seconds of a picture, the least of some."""
    inputs = make_inputs("rasterize", dict(B=1, rings=rings, sectors=sectors, H=SIDE, W=SIDE), torch.float32)
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        CASES["rasterize"].op(*inputs)
        taken.append(time.process_time() - began)
    return min(taken)


def main() -> None:
    """Print the table."""
    rows = []
    for rings, sectors in GLOBES:
        faces, by_rows = 2 * rings * sectors + 2, seconds(rings, sectors, REPEATS)
        cells = [f"{faces:,}", f"{by_rows * 1e3:.1f}", "-", "-"]
        if faces < MOST_DEFINED:
            with use_backend("reference"):
                defined = seconds(rings, sectors, 1)
            cells[2:] = f"{defined * 1e3:.0f}", f"{defined / by_rows:.0f}"
        rows.append(cells)
    columns = ("faces", "rows, CPU ms", "definition, CPU ms", "ratio")
    sys.stdout.write(f"{SIDE} x {SIDE}, {torch.get_num_threads()} threads\n\n{markdown_table(columns, rows)}\n")


if __name__ == "__main__":
    main()
