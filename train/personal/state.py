"""Where a refinement stands, on the disk: a killed one goes on, and on a CPU ends with the same file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.core.files import check_tensor_file, parsed_json

logger = logging.getLogger(__name__)
UNKNOWN_STEPS = 10**9  # until minutes have become steps
_NUMBERS = ("step", "steps", "stale", "compared_at", "best_psnr", "aside_psnr", "before_psnr",
            "before_aside_psnr")  # fmt: skip


class State:
    """What a refinement is after a step.

    Args:
        key: what decides the result; a state of another key is not gone on from.
        steps: in all, as far as it is known.
        learned: the parameters by name.
        adam: their optimizer.

    Attributes:
        step: steps that were taken.
        stale: comparisons with what is kept aside that brought nothing, in a row.
        compared_at: the step of the last comparison.
        best: values at the best comparison; None before the first.
        best_psnr, aside_psnr: dB: the best and the last comparison.
        before_psnr, before_aside_psnr: dB at the start: pictures to learn from, and those kept aside.
    """

    def __init__(
        self, key: Mapping[str, Any], steps: int, learned: Mapping[str, nn.Parameter], adam: torch.optim.Optimizer
    ) -> None:
        self.key, self.learned, self.adam = key, learned, adam
        self.step, self.steps, self.stale, self.compared_at = 0, steps, 0, 0
        self.best: dict[str, Tensor] | None = None
        self.best_psnr = self.before_psnr = self.before_aside_psnr = 0.0
        self.aside_psnr: float | None = None

    def compared(self, psnr: float, better_db: float) -> None:
        """Note a comparison with what is kept aside; the best values are kept."""
        self.aside_psnr, self.compared_at = psnr, self.step
        self.stale = 0 if psnr > self.best_psnr + better_db else self.stale + 1
        if psnr > self.best_psnr:
            self.best_psnr = psnr
            self.best = {name: value.detach().clone() for name, value in self.learned.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        named = {f"learned.{name}": value.detach() for name, value in self.learned.items()}
        for name, value in self.learned.items():
            named |= {f"adam.{name}.{part}": tensor for part, tensor in self.adam.state[value].items()}
        return named | {f"best.{name}": value for name, value in (self.best or {}).items()}


def write_state(path: Path, state: State) -> None:
    """Write a state; a disk that refuses is told of, and the refinement goes on."""
    numbers = {name: getattr(state, name) for name in _NUMBERS}
    told = json.dumps({"key": state.key, **numbers})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
    try:
        with replacing(path, only_writer=True) as part:
            save_file(tensors, part, {"state": told})
    except (OSError, SafetensorError, InputError) as error:
        logger.warning("%s: the state could not be saved (%s); a kill would begin anew", path, error)


def read_state(path: Path, state: State) -> bool:
    """Go on from a saved state, if there is one of the same pictures, weights and numbers; return whether."""
    try:
        header = check_tensor_file(path)
        told = parsed_json(header.pop("__metadata__", {}).get("state", "null"))
        if not isinstance(told, dict) or told.get("key") != json.loads(json.dumps(state.key)):
            logger.info("%s: this state is of other pictures, weights or numbers; the refinement begins anew", path)
            return False
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in header}
        _take(state, told, tensors)
    except FileNotFoundError:
        return False
    except (OSError, SafetensorError, ValueError, KeyError, InputError, RuntimeError) as error:
        logger.warning("%s: not a whole state (%s); the refinement begins anew", path, type(error).__name__)
        return False
    logger.info("%s: goes on after step %d of %d", path, state.step, state.steps)
    return True


def _take(state: State, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    learned = {name: tensors[f"learned.{name}"] for name in state.learned}
    moments = {
        name: {part: tensors[f"adam.{name}.{part}"] for part in ("step", "exp_avg", "exp_avg_sq")}
        for name in state.learned
    }
    numbers = {name: told[name] for name in _NUMBERS}
    for name, parameter in state.learned.items():
        if any(t.shape != parameter.shape for t in (learned[name], moments[name]["exp_avg"])):
            raise ValueError(name)
    with torch.no_grad():
        for name, parameter in state.learned.items():
            parameter.copy_(learned[name])
            state.adam.state[parameter] = {
                part: value.clone().to("cpu" if part == "step" else parameter.device)
                for part, value in moments[name].items()
            }
    best = {name.removeprefix("best."): tensor for name, tensor in tensors.items() if name.startswith("best.")}
    state.best = {name: value.to(state.learned[name].device) for name, value in best.items()} or None
    for name, value in numbers.items():
        setattr(state, name, value)


def forget(path: Path) -> None:
    """Remove a state whose refinement is done; a disk that refuses is told of."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: it could not be removed (%s); remove it by hand", path, error.strerror)
