"""Logs of trainings, compared."""

from __future__ import annotations

from typing import Any

import pytest


def agree(one: list[dict[str, Any]], other: list[dict[str, Any]], rel: float = 1e-4, abs: float = 2e-5) -> None:
    assert [line["step"] for line in one] == [line["step"] for line in other]
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert value == pytest.approx(b[name], rel=rel, abs=abs), (a["step"], name)
