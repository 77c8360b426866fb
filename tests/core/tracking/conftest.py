"""A head model of made-up tables, from the plainest of files."""

from __future__ import annotations

import pytest

from tests.core.tracking import head_files as files
from tests.core.tracking.head_files import SPLIT
from triportrait.core.tracking.head_model import load_head_model


@pytest.fixture(scope="module")
def content():
    return files.entries()


@pytest.fixture(scope="module")
def first(content, tmp_path_factory):
    """The model of the plainest layout, with landmarks from a file."""
    folder = tmp_path_factory.mktemp("FLAME2020")
    (folder / "landmark_embedding_with_eyes.npy").write_bytes(files.object_array(files.landmark_dictionary()))
    path = files.as_npz(folder / "generic_model.npz", content)
    return load_head_model(path, "2020", directions=SPLIT, assets=[folder / "landmark_embedding_with_eyes.npy"])
