"""Keep what a step that was not finite began from, for `triportrait train replay`.

run/diverged/checkpoints/STAGE_IMAGES    the networks, a checkpoint as any other
run/diverged/micro_N.safetensors         micro-batch N, where it was not finite: tensors by flat names, the rest as JSON
run/diverged/begin.json                  where the networks that are only asked lie on this machine
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.core.files import check_tensor_file, parsed_json
from triportrait.train.runs.flatten import flattened, rebuilt

DIVERGED = "diverged"
BEGIN = "begin.json"
RANDOM = "rng"


@dataclass(frozen=True)
class KeptMicroBatch:
    """A micro-batch as a phase of a step found it.

    Attributes:
        number: over all ranks. stage, phase: by name.
        images_seen: before the step.
        batch: as the stage draws it. handed_on: what earlier phases of the step left.
        rng: state of its random numbers. drawn_on: the kind of device that draws them, cpu or cuda.
    """

    number: int
    stage: str
    phase: str
    images_seen: int
    batch: Any
    handed_on: dict[str, Any]
    rng: Tensor
    drawn_on: str = "cpu"


def keep_micro(run: Path, micro: KeptMicroBatch) -> None:
    """Write a micro-batch beside the networks.

    Raises:
        InputError: the disk refuses.
    """
    tensors = {RANDOM: micro.rng}
    card: dict[str, Any] = {
        name: getattr(micro, name) for name in ("number", "stage", "phase", "images_seen", "drawn_on")
    }
    for name in ("batch", "handed_on"):
        card[name], flat = flattened(getattr(micro, name), name)
        tensors |= flat
    path = run / DIVERGED / f"micro_{micro.number}.safetensors"
    try:
        with replacing(path, only_writer=True) as part:
            save_file(tensors, part, {"card": json.dumps(card)})
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: the batch could not be written ({error}); free some space") from error


def kept_micros(run: Path) -> list[Path]:
    """Return the micro-batches of a run that were not finite, by their numbers."""
    paths = (run / DIVERGED).glob("micro_*.safetensors")
    return sorted(paths, key=lambda path: (len(path.name), path.name))


def read_micro(path: Path, batches: dict[str, Any], handed_on: Any) -> KeptMicroBatch:
    """Return what `keep_micro` wrote.

    Args:
        batches: the type of a batch, by the stage's name. handed_on: the type of what phases leave to each other.

    Raises:
        InputError: it is damaged, or of a stage that is not named.
    """
    try:
        check_tensor_file(path)
        with safe_open(path, "pt") as file:
            card = parsed_json(file.metadata()["card"])
            # copied, as a file aligns tensors otherwise than memory does, and sums differ by that in the last bits
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        batch = rebuilt(batches[card["stage"]], card["batch"], tensors, "batch")
        key = "handed_on" if "handed_on" in card else "made"  # as it was called before
        left = rebuilt(dict[str, handed_on], card[key], tensors, key)
        numbers = (int(card["number"]), card["stage"], card["phase"], int(card["images_seen"]))
        drawn_on = card.get("drawn_on", "cpu")  # runs of version 0.1 drew on the CPU alone
        if drawn_on not in ("cpu", "cuda"):
            raise ValueError(drawn_on)
        return KeptMicroBatch(*numbers, batch, left, tensors[RANDOM], drawn_on)
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a micro-batch that a run kept, it is damaged; run it again") from error
