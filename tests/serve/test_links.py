"""Links that lead nowhere or to themselves, at the doors of weights and outputs, are said before any work."""

from __future__ import annotations

import json
import shutil

import pytest

from triportrait.core.errors import InputError
from triportrait.core.weights import DEMO_FOLDER
from triportrait.serve.media.output_file import check_output
from triportrait.serve.weight_loading import load_weights


def test_an_output_that_links_to_itself(tmp_path):
    path = tmp_path / "loop.mp4"
    path.symlink_to(path.name)
    with pytest.raises(InputError, match="a file is wanted"):
        check_output(path, overwrite=False, sources=())


def test_a_neck_that_leads_nowhere(tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(DEMO_FOLDER, folder)
    (folder / "neck.safetensors").unlink()
    (folder / "neck.safetensors").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"neck\.safetensors"):
        load_weights(str(folder))


def test_a_neck_has_no_config(tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(DEMO_FOLDER, folder)
    card = json.loads((folder / "neck.json").read_text())
    (folder / "neck.json").write_text(json.dumps(card | {"config": "x"}))
    with pytest.raises(InputError, match="expected null"):
        load_weights(str(folder))
