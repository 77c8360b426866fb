"""Clips whose pictures move, and their protocol.

What more than torch is needed for is imported where it is used: beside a GPU little may be installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from triportrait.train.evaluation.protocols.records import Protocol


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """A folder of three clips with the protocol of Table 1."""
    from tests.train.evaluation_protocols.moving_clips import SIZE_PX, write_clip
    from triportrait import cli

    folder = tmp_path_factory.mktemp("protocol") / "clips"
    for person in range(3):
        write_clip(folder / f"person{person}", person)
    assert cli.main(["evaluate", "protocol", str(folder), "--size", str(SIZE_PX), "--seed", "4"]) == 0
    return folder


@pytest.fixture
def protocol(clips) -> Protocol:
    from triportrait.train.evaluation.protocols.records import read_protocol

    return read_protocol(clips / "p4d-table1.jsonl")
