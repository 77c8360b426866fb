"""The command `triportrait`; its trainings draw the random numbers of their losses on the CPU, wherever they run."""

from __future__ import annotations

import sys
from functools import partial

import torch

from triportrait import cli
from triportrait.train import run_folder

if __name__ == "__main__":
    run_folder.run_stage = partial(run_folder.run_stage, draws_on=torch.device("cpu"))  # type: ignore[assignment]
    sys.exit(cli.main())
