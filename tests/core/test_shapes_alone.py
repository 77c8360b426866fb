"""Networks of shapes alone: nothing is drawn, and nothing of torch's compiler is imported to load weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from triportrait.core.config import genhead_tiny, tiny
from triportrait.core.genhead.generator import GenHead
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.shapes_alone import shapes_alone

ROOT = Path(__file__).parents[2]


def test_they_are_those_of_networks_with_numbers():
    for make in (lambda: Portrait4D(tiny()), lambda: GenHead(genhead_tiny()), SmallMotionEncoder):
        with shapes_alone():
            alone = make().state_dict()
        drawn = make().state_dict()
        assert {name: (t.shape, t.dtype) for name, t in alone.items()} == {
            name: (t.shape, t.dtype) for name, t in drawn.items()
        }
        assert {t.device.type for t in alone.values()} == {"meta"}
    assert torch.empty(2).normal_().any(), "outside of it numbers are drawn"


def test_weights_are_loaded_without_torch_s_compiler():
    """Its import takes longer than all else that a command does before it begins."""
    code = (
        "import sys; from triportrait.core.checkpoint import load_pair, weights_folder\n"
        "load_pair(weights_folder('demo')); print(sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
