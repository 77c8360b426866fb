"""The first tests on a GPU: `pytest -m first` tells in two minutes whether the product works there.

They need torch, Triton, numpy, safetensors and pytest; those of serving, in tests/serve, need Pillow besides.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests import first
from triportrait.core.psnr import psnr
from triportrait.kernels.dispatch import MIN_CAPABILITY, runs_triton
from triportrait.kernels.tolerance import assert_agrees
from triportrait.kernels.trial_launch import launch
from triportrait.profiling.cases import CASES
from triportrait.profiling.frame import MIN_DB
from triportrait.serve.media.provenance.watermark import Watermark, read

pytestmark = [pytest.mark.gpu, pytest.mark.first]
DEVICE = "cuda"
LEARNED = 0.5  # at least so much of all gradients by weights is not zero,
ADVERSARY = 0.9  # and so much by pixels: float16 leaves 0.4 to 0.6 of the adversary's


def test_triton_launches_on_this_card():
    assert torch.cuda.get_device_capability() >= MIN_CAPABILITY
    launch(torch.device("cuda", torch.cuda.current_device()))
    assert runs_triton(x=torch.empty(1, device=DEVICE)), "else a frame would be PyTorch's own, compared with itself"


@pytest.mark.parametrize("kind", first.HEADS)
def test_attention_is_its_definition(kind):
    result, inputs = first.attention(kind, DEVICE)
    query, key, value = (x.double().transpose(1, 2) for x in inputs)
    expected = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    assert (result.double() - expected).abs().max() < 2e-2


def test_every_kernel_agrees_with_its_definition():
    """Forward, in bfloat16; each is named that does not."""
    wrong = {}
    for name in first.FORWARD:
        inputs = first.operator_inputs(name, DEVICE)
        floor = CASES[name].floor_in(first.HALF)
        try:
            with torch.no_grad():
                assert_agrees(CASES[name].op, inputs, floor=floor)
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"
    assert not wrong


def test_a_march_agrees_with_its_definition_forward_and_backward():
    case = CASES["march_train"]
    assert_agrees(case.op, first.operator_inputs("march_train", DEVICE), floor=case.floor_in(first.HALF))


def test_a_frame_of_the_published_sizes_is_pytorch_s():
    truth = first.frame(None, DEVICE)
    image = first.frame(first.HALF, DEVICE)
    assert truth.shape == (1, 3, 512, 512)
    assert psnr(image, truth, (truth.max() - truth.min()).item()) >= MIN_DB["ours bf16"]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_step_of_training_moves_both_networks(stage):
    phases = first.train_step(stage, DEVICE)
    assert {"main", "discriminator", "R1"} <= phases.keys()
    for name, phase in phases.items():
        assert all(math.isfinite(loss) for loss in phase.losses.values()), (name, phase.losses)
        assert learned(phase.gradients) > LEARNED, name
    assert learned(phases["main"].adversary) > ADVERSARY, "the discriminator's gradient does not reach the generator"


def learned(gradients: list[torch.Tensor]) -> float:
    """The share of gradients that are finite and not 0."""
    moved = sum(int((grad.isfinite() & (grad != 0)).sum()) for grad in gradients)
    assert all(bool(grad.isfinite().all()) for grad in gradients)
    return moved / max(1, sum(grad.numel() for grad in gradients))


def test_a_watermark_made_on_the_device_is_read():
    pictures, marked = first.marked(DEVICE)
    assert marked.device.type == DEVICE
    assert read(list(marked.cpu())).message == first.MESSAGE
    on_host = Watermark(first.MESSAGE).mark(pictures)
    assert (marked.cpu().int() - on_host.int()).abs().max() <= 1
