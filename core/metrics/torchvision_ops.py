"""Lets torchvision be imported beside a torch without CUDA, as LPIPS and torchmetrics need it.

PyPI's torchvision is built for CUDA. Where its compiled part does not load, its import ends at operators that nobody
declared; nothing here calls them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from triportrait.core.errors import InputError
from triportrait.core.optional_packages import install, reason

_OPERATORS = ("nms", "qnms")
_kept: list[torch.library.Library] = []  # a declaration lives as long as its object


def declare() -> None:
    """Declare the operators that torchvision's import misses; call it before anything that imports torchvision."""
    if _kept or torch.version.cuda is not None or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")  # a build for CPUs brings its own
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)


@contextmanager
def beside_torchvision(package: str, otherwise: str) -> Iterator[None]:
    """Let the block import a package that imports torchvision.

    Args:
        package: as pip names it.
        otherwise: what a user can do without it.

    Raises:
        InputError: it is missing or does not load.
    """
    try:
        declare()
        yield
    except Exception as error:  # torchvision beside a torch it was not built for raises kinds of its own
        why = reason(error, package.replace("-", "_"))
        raise InputError(f"{package}: it {why}; {install('train')}, or {otherwise}") from error
