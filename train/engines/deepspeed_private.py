"""The private members of DeepSpeed that `zero` needs, in one place: each says what the public interface lacks."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.optional_packages import install, reason

VERSION = "0.19.8"  # whose private members these are
logger = logging.getLogger(__name__)


def load_deepspeed() -> Any:
    """Import DeepSpeed so that it stays quiet and builds no extension at its first start.

    Raises: `InputError` where it is missing or of another version, whose private members may be others.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    try:
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
        import deepspeed
        import deepspeed.ops
    except Exception as error:  # it ends with kinds of its own where it lacks a compiler or a newer torch
        raise InputError(
            f"deepspeed: expected it where training runs on several processes, it {reason(error, 'deepspeed')}; "
            f"{install('train')}"
        ) from error
    check_version(deepspeed.__version__)
    if os.environ["DS_ACCELERATOR"] == "cpu":  # on a GPU, to ask makes every rank probe all builders
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", verbose=False)
    return deepspeed


def check_version(version: str) -> None:
    """Raises: `InputError` for another version than `VERSION`."""
    if version.partition("+")[0] != VERSION:
        raise InputError(
            f"deepspeed: expected version {VERSION}, whose private members this engine uses, got {version}; "
            f"{install('train')}"
        )


def remove_module_hooks(optimizer: Any) -> None:
    """At stage 3 the hooks of layers release weights that methods of the whole network, and R1, still use."""
    optimizer.parameter_offload._remove_module_hooks()


def keep_adding_gradients(optimizer: Any) -> None:
    """At stage 3 gradients of a second micro-batch would not be added: no forward pass goes through the engine."""
    optimizer.clear_backward_seen_flag()


def forget_gradients(optimizer: Any, stage: int, offload: bool) -> None:
    """Stage 3, and moments on the CPU, keep the last gradient of a weight that a loss does not reach, and would step
    along it again."""
    if stage == 3:
        optimizer.grad_partitions_flat_buffer.zero_()
    if offload:
        for flat in getattr(
            optimizer, "fp32_partitioned_groups_flat" if stage == 3 else "single_partition_of_fp32_groups"
        ):
            if flat.grad is not None:
                flat.grad.zero_()


def link_moments(optimizer: Any) -> None:
    """At stages 1 and 2 only the moments of the first group are linked, as that is done when it has moved."""
    optimizer._hp_optimizer_states_linked = False
    optimizer._lazy_init_hp_params_optimizer_state()


def partition_of(parameter: Tensor) -> Tensor:
    """Return what this rank holds of a weight: a part, flat, at stage 3; else the whole."""
    return getattr(parameter, "ds_tensor", parameter)


def is_partitioned(parameter: Tensor) -> bool:
    """Return whether this rank holds a part of the weight alone."""
    return hasattr(parameter, "ds_tensor")


@contextmanager
def without_scalars(module: nn.Module) -> Iterator[None]:
    """Give weights without dimensions one until the end of the context: they cannot be sent to the other ranks.

    Such a weight can be in no group.
    """
    scalars = [p for p in module.parameters() if p.dim() == 0]
    for parameter in scalars:
        parameter.data = parameter.data.reshape(1)
    yield
    for parameter in scalars:
        if hasattr(parameter, "ds_shape"):
            parameter.ds_shape = torch.Size(())
        else:
            parameter.data = parameter.data.reshape(())
