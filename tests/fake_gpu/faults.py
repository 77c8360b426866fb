"""These faults, which only a GPU would show, are put into the product by hand: each has to turn a run red.

`python -m tests.fake_gpu.faults OUT.json` runs a small network without each fault and with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.fake_gpu.device import start_again_with_library
from tests.fake_gpu.libraries import Xformers
from tests.fake_gpu.runs import Run, face, reenactor, running, train
from triportrait.core.config import tiny
from triportrait.core.reconstruct import attention
from triportrait.serve.precision import use_precision
from triportrait.serve.reenactor import Reenactor
from triportrait.train import presets
from triportrait.train.objectives import discriminator


@dataclass(frozen=True)
class Fault:
    """A fault is planted by replacing attributes.

    Attributes:
        planted: what takes the place of what: owner, name, value.
        run: what shows it.
        error: what the run ends with, the class and a part of the sentence.
        xformers: which one is installed.
    """

    planted: tuple[tuple[Any, str, Any], ...]
    run: Callable[[Run], None]
    error: tuple[str, str]
    xformers: Xformers = "absent"


def serve_little(run: Run) -> None:
    """Serve a frame of a small network from graphs."""
    engine = reenactor(tiny())
    use_precision(engine, "fp16")
    engine.capture(1, marked=[False])
    engine.reenact(engine.prepare(face(engine.image_size)), face(engine.image_size, 0.1))


def train_little(run: Run) -> None:
    """Run a step of a small network's first stage, whose discriminator is on."""
    train(run, "stage1", presets.tiny_stages())


def _inside_graph(does: Callable[[Tensor], object]) -> tuple[Any, str, Any]:
    """Return a view that does something more, with the planes."""
    original = Reenactor.frame_view

    def view(self: Reenactor, planes: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        does(planes)
        return original(self, planes, *others)

    return Reenactor, "frame_view", view


def _pins_expanded() -> tuple[Any, str, Any]:
    """Return an upload that pins a number once for each of several places."""
    original = Reenactor.upload

    def upload(self: Reenactor, tensor: Tensor) -> Tensor:
        torch.zeros(1).expand(4).pin_memory()
        return original(self, tensor)

    return Reenactor, "upload", upload


_ASKED = (attention, "has_xformers", cache(lambda: True)), (attention, "xformers_runs", lambda query, key, value: True)
_HALF = SimpleNamespace(**{**vars(torch), "bfloat16": torch.float16})
FAULTS: dict[str, Fault] = {
    "xFormers, built for another CUDA, is used because it is installed": Fault(
        _ASKED, serve_little, ("NotImplementedError", "No operator found"), "another CUDA"
    ),
    "xFormers, which refuses every call, is used because it is installed": Fault(
        _ASKED, serve_little, ("NotImplementedError", "No operator found"), "no operator"
    ),
    "the discriminator computes in float16 without a scale": Fault(
        ((discriminator, "torch", _HALF),), train_little, ("FloatingPointError", "float16")
    ),
    "a graph asks for a number": Fault(
        (_inside_graph(lambda planes: planes.sum().item()),), serve_little, ("NotCapturable", "waits for the device")
    ),
    "a graph reads a tensor back": Fault(
        (_inside_graph(lambda planes: planes.cpu()),), serve_little, ("NotCapturable", "device to host")
    ),
    "a graph takes numbers from the host": Fault(
        (_inside_graph(lambda planes: planes.new_tensor([1.0, 2.0])),), serve_little,
        ("NotCapturable", "host to device"),
    ),
    "a graph has as many rows as numbers are not 0": Fault(
        (_inside_graph(lambda planes: planes.nonzero()),), serve_little, ("NotCapturable", "nonzero")
    ),
    "a graph allocates memory of the host": Fault(
        (_inside_graph(lambda planes: torch.empty(4, pin_memory=True)),), serve_little, ("NotCapturable", "pinned")
    ),
    "a frame pins numbers that lie in one place": Fault(
        (_pins_expanded(),), serve_little, ("RuntimeError", "more than one element of the written-to tensor")
    ),
}  # fmt: skip


def outcome(fault: Fault, planted: bool) -> str | None:
    """Return how the fault's run ends: None, or its error."""
    patches = [mock.patch.object(*replaced) for replaced in fault.planted if planted]
    try:
        for patch in patches:
            patch.start()
        with running("fault", {}, fault.xformers) as run:
            fault.run(run)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        for patch in patches:
            patch.stop()
    return None


def main() -> None:
    """Write how each run ended, without its fault and with it; runs that differ by the fault alone are run once."""
    without = {(fault.run, fault.xformers): fault for fault in FAULTS.values()}
    sound = {kind: outcome(fault, False) for kind, fault in without.items()}
    ended = {
        name: [sound[fault.run, fault.xformers], outcome(fault, True), fault.error] for name, fault in FAULTS.items()
    }
    Path(sys.argv[1]).write_text(json.dumps(ended))


if __name__ == "__main__":
    start_again_with_library()
    main()
