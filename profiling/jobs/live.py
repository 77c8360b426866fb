"""`triportrait profile live`: the live server, driven over its transport by a client that does what the page does."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from triportrait.core.errors import InputError
from triportrait.core.libraries import install, reason

OptionalText = Annotated[str | None, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="")]
OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]


@dataclass(frozen=True)
class Live:
    """Drive `triportrait live` with a video: latency end to end and in parts, frames per second, drops, memory."""

    sessions: int = 1
    """At a time."""
    seconds: float = 60.0
    """For so long, after three seconds that are not counted."""
    fps: float = 30.0
    """Driving frames sent per second."""
    driving: OptionalFile = None
    """What drives; by default the video in the package."""
    url: OptionalText = None
    """A server that runs already, as it printed its address; else one is started here."""
    weights: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "demo"
    """Of the server that is started."""
    watermark: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Let it leave the watermark out."""
    out: OptionalFile = None
    """Write the figures into this JSON file, too."""

    def run(self) -> None:
        """Start the server or take the one that runs, measure, print a table."""
        self._check()
        from triportrait.profiling.live.measure import measure, table
        from triportrait.profiling.live.server_process import live_server
        from triportrait.serve.live.engine import EXAMPLES

        driving = self.driving or EXAMPLES / "driving.mp4"
        asked = (driving, self.sessions, self.seconds, self.fps, shlex.join(self._words()), _tell)
        if self.url is not None:
            found = measure(self.url, *asked)
        else:
            options = ["--weights", self.weights, "--sessions", str(self.sessions)]
            with live_server([*options, *([] if self.watermark else ["--no-watermark"])]) as server:
                found = measure(server.address, *asked)
        if self.out is not None:
            self.out.write_text(json.dumps(found, indent=1) + "\n")
        print(table(found), end="")

    def _check(self) -> None:
        for name, value, least, most in (
            ("--sessions", self.sessions, 1, 64), ("--seconds", self.seconds, 2, 86_400), ("--fps", self.fps, 1, 120),
        ):  # fmt: skip
            if not least <= value <= most:
                raise InputError(f"{name}: expected {least} to {most}, got {value:g}; choose another")
        if self.url is not None and not self.url.startswith("http://"):
            raise InputError(f"--url: expected an address as the server prints it (http://...), got {self.url}")
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise InputError(f"--out: expected a file in a folder that exists, got {self.out}; make the folder")
        try:
            import websockets

            del websockets
        except Exception as error:
            raise InputError(f"profile: websockets {reason(error, 'websockets')}; `{install('serve')}`") from error

    def _words(self) -> list[str]:
        words = ["triportrait", "profile", "live", "--sessions", str(self.sessions), "--seconds", f"{self.seconds:g}"]
        if self.url is None and self.weights != "demo":
            words += ["--weights", Path(self.weights).name]
        if self.driving is not None:
            words += ["--driving", self.driving.name]
        return words if self.watermark else [*words, "--no-watermark"]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
