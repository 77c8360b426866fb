"""The short form of the soak: two minutes, four sessions, three of which misbehave."""

from __future__ import annotations

from tests.serve.soak import soak


def test_the_server_outlives_sessions_that_misbehave():
    lines: list[str] = []
    held = soak(2.0, 4, lines.append)
    print("\n".join(lines))
    assert held, "\n".join(lines)
