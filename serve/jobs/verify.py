"""`triportrait verify FILE`: whether a file says where it comes from, and whether that still holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from triportrait.core.safe_text import json_text
from triportrait.serve.media.provenance.verify import verify


@dataclass(frozen=True)
class Verify:
    """Read the signed manifest and the invisible watermark of a picture or a video, and compare them.

    Exit code 0: both are there, whole, and agree (a watermark that the manifest says was left out is not missed); 1:
    something is missing or altered; 2: the file cannot be read. Nothing is sent anywhere.
    """

    file: tyro.conf.Positional[Path]
    """A picture or a video; of a video the first 256 frames are looked at, or fewer where those leave no doubt."""
    json: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Print JSON."""

    def run(self) -> int:
        """Print what the file says, and return the exit code."""
        report = verify(self.file)
        print(json_text(report.values(), indent=1) if self.json else "\n".join(report.lines()))
        return 1 if report.missing else 0
