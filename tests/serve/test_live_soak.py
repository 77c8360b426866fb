"""The short form of the soak: two minutes, four sessions, three of which misbehave."""

from __future__ import annotations

from tests.serve.soak import soak


def test_the_server_outlives_sessions_that_misbehave():
    said: list[str] = []
    held = soak(1.0, 4, said.append)
    print("\n".join(said))
    assert held, "\n".join(said)
