"""docs/train/deviations.md: each field that it names is in the preset paper, with the value that it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from triportrait.train.presets import STAGE_PRESETS

PAGE = (Path(__file__).parents[2] / "docs/train/deviations.md").read_text(encoding="utf-8")
VALUES = re.findall(r"`([a-z0-9_.]+)` = (\"\w+\"|[\w.]+\w)", PAGE)


def value(name: str) -> Any:
    found: Any = json.loads(json.dumps(STAGE_PRESETS["paper"]().to_dict()))
    for part in name.split("."):
        found = found[part]
    return found


@pytest.mark.parametrize("name, said", VALUES, ids=[name for name, _ in VALUES])
def test_a_field_has_the_value_that_the_page_says(name, said):
    assert value(name) == json.loads(said)


def test_every_field_that_the_page_names_is_one():
    named = set(re.findall(r"`((?:cast|precision|stage1|stage2)(?:\.[a-z0-9_.]+)?)`", PAGE))
    assert len(VALUES) >= 12
    assert {"stage2.camera_p", "cast.cameras.sampled", "stage1.own_view"} <= named
    for name in named:
        value(name)
