"""Stands where the trainer of `personalize` does, for tests of what comes before and after the learning."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tests.core.persons import person_of
from triportrait.core.person import Person
from triportrait.serve.image_tensors import to_uint8
from triportrait.train import personal

S = 128


class StandIn:
    """Stands where the trainer does: it takes one step, and gives a person whose planes are all 0.5."""

    def __init__(self) -> None:
        self.forgotten: list[Path] = []
        self.module = SimpleNamespace(
            RefineConfig=personal.RefineConfig,
            GivenPictures=personal.GivenPictures,
            refine=self.refine,
            forget=self.forgotten.append,
        )
        self.steps: list[dict[str, Any]] = [{}]
        self.told: dict[str, Any] = {}

    def refine(self, portrait, encoder, given, config, progress, should_stop, state, previews) -> Person:
        self.told = {"portrait": portrait, "given": given, "config": config, "state": state, "previews": previews}
        for number, step in enumerate(self.steps):
            if should_stop():
                break
            told = personal.RefineStep(number + 1, 10, 9.0, 0.5, 20.0)
            progress(dataclasses.replace(told, **step))
        crop = to_uint8(given.image[:1])[0]
        return dataclasses.replace(
            person_of(portrait, crop), planes=torch.full_like(person_of(portrait).planes, 0.5), card={"steps": 1}
        )
