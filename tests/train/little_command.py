"""The command `triportrait` with the smallest training in the place of the preset `tiny`, every step in the log.

torchrun --nproc_per_node N little_command.py train stage1 ...
"""

from __future__ import annotations

import sys

from tests.train import little
from triportrait import cli
from triportrait.core.torch_threads import one_thread
from triportrait.train import loop
from triportrait.train.evaluation import probe
from triportrait.train.presets import STAGE_PRESETS

if __name__ == "__main__":
    STAGE_PRESETS["tiny"] = little.adversarial
    loop.LOG_EVERY = 1
    probe.ROWS = 1
    with one_thread():
        sys.exit(cli.main())
