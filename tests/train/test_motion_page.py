"""The page about motion encoders: its complete example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/train/motion.md"


@pytest.mark.parametrize("number", range(2))
def test_an_example_of_the_page_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 2
    exec(compile(blocks[number], str(PAGE), "exec"), {})
    assert [path.name for path in tmp_path.iterdir()] == [["units"], ["mine"]][number]
    assert {path.name for path in next(tmp_path.iterdir()).iterdir()} == {"motion.safetensors", "motion.json"}
