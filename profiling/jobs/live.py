"""`triportrait profile live`: the live server, driven over its transport by a client that does what the page does."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from triportrait.core.errors import InputError
from triportrait.core.optional_packages import install, reason

OptionalText = Annotated[str | None, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="")]
OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]


@dataclass(frozen=True)
class Live:
    """Drive `triportrait live` with a video: latency end to end and in parts, frames per second, drops, memory."""

    sessions: int = 1
    """How many sessions drive at a time."""
    seconds: float = 60.0
    """How long, after three seconds that are not counted."""
    fps: float = 30.0
    """Driving frames sent per second."""
    driving: OptionalFile = None
    """The video that drives; by default the one in the package."""
    url: OptionalText = None
    """The address of a running server, as it printed it; by default a server is started here."""
    weights: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "demo"
    """Weights of the server that is started."""
    watermark: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Let the server that is started put a watermark into its pictures; `--no-watermark` leaves it out."""
    out: OptionalFile = None
    """Write the figures into this JSON file, too."""

    def run(self) -> None:
        """Start a server or take the running one, measure it, and print a table."""
        self._check()
        from triportrait.profiling.live.measure import measure, table
        from triportrait.profiling.live.server_process import live_server
        from triportrait.serve.live.inference import EXAMPLES

        driving = self.driving or EXAMPLES / "driving.mp4"
        session = (driving, self.sessions, self.seconds, self.fps, shlex.join(self._words()))
        if self.url is not None:
            figures = measure(self.url, *session)
        else:
            options = ["--weights", self.weights, "--sessions", str(self.sessions)]
            with live_server([*options, *([] if self.watermark else ["--no-watermark"])]) as server:
                figures = measure(server.address, *session)
        if self.out is not None:
            self.out.write_text(json.dumps(figures, indent=1) + "\n")
        print(table(figures), end="")

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
