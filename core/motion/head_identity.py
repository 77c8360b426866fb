"""Whose parameters these are: the name of a head model, and a fingerprint by which two of them are told apart.

Parameters of one model mean another face in the next: the expressions of FLAME 2023 are not those of FLAME 2020. Every
set of parameters therefore carries an identity, and no two sets of different models are mixed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.safe_text import LONGEST_NAME, literal, shown

COMPARED = 50  # directions of each kind: a file that leaves later ones out has the same parameters
# Steps of the fingerprint's numbers, scene units: large against the last bits of float32, small against a face.
_STEPS = {"template": 2.0**-15, "shape": 2.0**-20, "expression": 2.0**-20, "regressor": 2.0**-15}
_DIGITS, _SLACK = 4, 1
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))  # no multiple of it is near a multiple of 2 π, so that no weights repeat


@dataclass(frozen=True)
class ModelIdentity:
    """What parameters say of the model that they belong to.

    Attributes:
        name: in words, as `FLAME 2020` or `open head`.
        fingerprint: of its tables, 16 hexadecimal digits; empty where nobody noted it. Compare by `is_same`: the same
            model may differ in the last digit, as tables are rounded.
    """

    name: str
    fingerprint: str

    def to_dict(self) -> dict[str, str]:
        """Return plain JSON values."""
        return {"name": self.name, "fingerprint": self.fingerprint}

    @classmethod
    def from_dict(cls, value: Any, where: str) -> ModelIdentity:
        """Read what `to_dict` gave.

        Raises: `InputError` where it is something else; `where` begins the sentence.
        """
        fields = value if isinstance(value, dict) else {}
        name, digits = fields.get("name"), fields.get("fingerprint")
        if type(name) is not str or type(digits) is not str or not re.fullmatch("([0-9a-f]{16})?", digits):
            raise InputError(
                f"{where}: expected the head model as a name and a fingerprint of 16 hexadecimal digits, got "
                f"{literal(value, LONGEST_NAME)}; make these parameters again"
            )
        if not 0 < len(name) <= LONGEST_NAME:
            raise InputError(f"{where}: expected the name of a head model, got {shown(name)}; make the file again")
        return cls(name, digits)

    def is_same(self, other: ModelIdentity) -> bool:
        """Tell whether parameters of the one are those of the other; where a fingerprint is unknown, names decide."""
        if not self.fingerprint or not other.fingerprint:
            return self.name == other.name
        for mine, others in zip(_numbers(self.fingerprint), _numbers(other.fingerprint), strict=True):
            apart = abs(mine - others)
            if min(apart, (1 << 4 * _DIGITS) - apart) > _SLACK:
                return False
        return True

    def __str__(self) -> str:
        """Name the model and its fingerprint, for sentences."""
        return f"{shown(self.name)} ({self.fingerprint or 'no fingerprint'})"


# Published networks, tables and folders, which say nothing of their model.
PUBLISHED_MODEL = ModelIdentity("FLAME 2020", "")
OPEN_HEAD_MODEL = "open head"  # the name of the package's own


def check_same_model(expected: ModelIdentity, got: ModelIdentity, where: str, whose: str = "the weights") -> None:
    """Refuse to mix parameters of two head models.

    Args:
        expected: the model of what takes the parameters. got: the model that they are of.
        where: the file or folder of the parameters, which begins the sentence.
        whose: what takes them, as `the weights` or `the store`.

    Raises: `InputError` where the models differ.
    """
    if not expected.is_same(got):
        raise InputError(
            f"{shown(where)}: expected parameters of {expected}, the head model of {whose}, got those of {got}; fit "
            "again with that model by --head-model, or name what was made with this one"
        )


def fingerprint(tables: Mapping[str, Tensor], num_shape: int) -> str:
    """Compute what tells models apart: four weighted sums of a model's tables, each as a whole number of 16 bits.

    The same model read from a file of float64, from one of float32 and from a checkpoint's buffers has the same
    numbers, but for one step where a sum lies between two: a hash of rounded tables would be another. Directions beyond
    the first fifty of each kind do not count, nor do those that move nothing.

    Args:
        tables: `template` [U, 3], `shape_directions` [U, 3, K] and `joint_regressor` [J, U], scene units.
        num_shape: how many of the K are shape.
    """
    template = tables["template"].detach().cpu().double()
    directions = tables["shape_directions"].detach().cpu().double().permute(2, 0, 1)  # [K, U, 3]
    parts = {
        "template": template,
        "shape": directions[: min(num_shape, COMPARED)],
        "expression": directions[num_shape : num_shape + COMPARED],
        "regressor": tables["joint_regressor"].detach().cpu().double() @ template,
    }
    sums = {name: round(_weighted_sum(part) / _STEPS[name]) for name, part in parts.items()}
    return "".join(f"{number % (1 << 4 * _DIGITS):0{_DIGITS}x}" for number in sums.values())


def _weighted_sum(values: Tensor) -> float:
    """Sum values with weights that depend on their place alone, about as large as one of them."""
    flat = values.flatten()
    weights = torch.cos(_GOLDEN_ANGLE * torch.arange(1, len(flat) + 1, dtype=torch.float64))
    return float(flat @ weights) / max(values[0].numel() if values.ndim == 3 and len(values) else len(flat), 1) ** 0.5


def _numbers(digits: str) -> list[int]:
    return [int(digits[start : start + _DIGITS], 16) for start in range(0, len(digits), _DIGITS)]
