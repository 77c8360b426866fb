"""Who finds faces, where the networks are missing or damaged."""

from __future__ import annotations

import logging

import pytest

from triportrait.core.errors import InputError
from triportrait.core.faces.models import FOLDER
from triportrait.serve.faces import providers


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_networks_that_cannot_be_used(real_faces, how, monkeypatch, tmp_path, caplog):
    """By itself nothing finds faces, and a line says why; where they are asked for by name, that is one sentence."""
    monkeypatch.setenv("TRIPORTRAIT_CACHE", str(tmp_path))
    if how == "damaged":
        (tmp_path / FOLDER).mkdir()
    caplog.set_level(logging.INFO)
    finder = providers.LazyProvider()
    assert not finder.missing, "nobody has asked yet"
    assert finder() is None
    assert finder.missing
    (record,) = caplog.records
    assert f"are {how}" in record.getMessage()
    assert record.levelname == ("WARNING" if how == "damaged" else "INFO")
    assert "run `triportrait fetch faces` once" in record.getMessage()
    with pytest.raises(InputError, match=rf"^face models: .* are {how}.* run `triportrait fetch faces` once"):
        providers.face_provider("networks")
