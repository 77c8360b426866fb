"""Limits how many threads torch's operators on the CPU take beside the other work of a job."""

from __future__ import annotations

import os

import torch


def share_cores(device: torch.device, others: int = 0) -> None:
    """Leave cores to what runs beside the network.

    On a GPU the network needs none: what torch does on the CPU then (the watermark, crops) are small operators, which a
    team of threads only slows down beside face finder and video encoder: 969 ms instead of 17 ms a mark were seen.

    Args:
        device: of the network.
        others: threads that are busy while the network runs on the CPU; $OMP_NUM_THREADS wins over it.
    """
    if device.type != "cpu":
        torch.set_num_threads(1)
    elif others and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() - others))
