"""Who finds faces, where mediapipe is installed and does not load."""

from __future__ import annotations

import sys

import pytest

from triportrait.core.errors import InputError
from triportrait.serve.faces import providers


def test_a_finder_that_is_installed_and_does_not_load(monkeypatch, caplog):
    """By itself it is left out with a line; where it is asked for by name, its reason is one sentence."""

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "mediapipe":
                raise ImportError("libGL.so.1: cannot open shared object file")

    for name in [name for name in sys.modules if name.partition(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.setattr(providers, "is_installed", lambda: True)
    assert providers.face_provider() is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "no faces are looked for: faces: mediapipe is installed but does not load (libGL.so.1" in record.getMessage()
    with pytest.raises(InputError, match=r"^faces: mediapipe is installed but does not load .* or give landmarks"):
        providers.face_provider("mediapipe")
