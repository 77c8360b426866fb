"""What only a GPU shows. Needs torch, Triton, numpy, safetensors and pytest, nothing more.

pytest -m gpu tests/kernels
compute-sanitizer --tool memcheck --error-exitcode 1 python -m pytest -m gpu tests/kernels -k agrees
"""

from __future__ import annotations

import pytest
import torch

from triportrait.kernels.dispatch import use_backend
from triportrait.kernels.tolerance import assert_agrees
from triportrait.profiling.cases import CASES, LAUNCHED, make_inputs, moved
from triportrait.profiling.cases import DTYPES as NAMED

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
AGREEMENTS = [
    pytest.param(name, size, dtype, id=f"{name}-{size}-{str(dtype).removeprefix('torch.')}")
    for name, case in sorted(CASES.items())
    for size in range(len(case.odd))
    for dtype in (DTYPES[:1] if case.wide_only else DTYPES)
]


def on_gpu(name, sizes, dtype, seed=0):
    return moved(make_inputs(name, sizes, dtype, seed), "cuda")


@pytest.mark.parametrize("name, size, dtype", AGREEMENTS)
def test_agrees_with_the_definition(name, size, dtype):
    case = CASES[name]
    floor = case.floor_in(dtype)
    assert_agrees(case.op, on_gpu(name, case.odd[size], dtype), floor=floor)


@pytest.mark.parametrize("name, dtype", [(name, dtype) for name, case in LAUNCHED.items() for dtype in case.dtypes])
def test_what_is_launched_besides_agrees_with_the_definition(name, dtype):
    case = LAUNCHED[name]
    for sizes in case.odd:
        assert_agrees(case.op, on_gpu(name, sizes, NAMED[dtype]), floor=case.floor_in(NAMED[dtype]))


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_whole_frame_agrees_with_the_definition(name):
    """At the size of a frame, where offsets are large and every tile is full."""
    case = CASES[name]
    inputs = on_gpu(name, case.paper, torch.float32)
    with torch.no_grad(), use_backend("triton"):
        result = case.op(*inputs)
    with torch.no_grad(), use_backend("reference"):
        expected = case.op(*inputs)
    both = ((x,) if isinstance(x, torch.Tensor) else x for x in (result, expected))
    for kernel, definition in zip(*both, strict=True):
        if not definition.is_floating_point():
            assert (kernel != definition).float().mean() < 1e-3, "ties that rounding decides"
            continue
        assert torch.equal(kernel.isfinite(), definition.isfinite())
        finite = definition.isfinite()
        error = (kernel - definition)[finite].double().square().mean().sqrt()
        assert error < 1e-3 * definition[finite].double().square().mean().sqrt().clamp(min=1e-9)


def marching(dtype=torch.float16):
    case = CASES["march"]
    inputs = on_gpu("march", case.paper, dtype)

    def run():
        with torch.no_grad(), use_backend("triton"):
            return case.op(*inputs)

    return run


def test_a_march_never_waits_for_the_device_and_a_graph_holds_it():
    run = marching()
    run()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        expected = run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    graph.replay()
    torch.cuda.synchronize()
    for one, other in zip(result, expected, strict=True):
        assert torch.equal(one, other)


def test_a_raster_of_60000_faces_is_the_cpu_s_to_the_bit_and_a_graph_holds_it():
    sizes = dict(B=2, rings=173, sectors=173, H=512, W=512)
    inputs = make_inputs("rasterize", sizes, torch.float32)
    expected = CASES["rasterize"].op(*inputs)
    device_inputs = moved(inputs, "cuda")

    def run():
        with use_backend("triton"):
            return CASES["rasterize"].op(*device_inputs)

    run()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        first = run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = run()
    graph.replay()
    torch.cuda.synchronize()
    for results in zip(expected, first, replayed, strict=True):
        assert torch.equal(results[1].cpu(), results[0])
        assert torch.equal(results[2].cpu(), results[0])


def test_a_march_holds_less_than_20_MB():
    run = marching()
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    outputs = sum(x.numel() * x.element_size() for x in result)
    assert torch.cuda.max_memory_allocated() - before - outputs < 20e6, "planes with their ring, and depths"


def test_deterministic_gradients_repeat_to_the_bit():
    inputs = on_gpu("march", {**CASES["march"].paper, "H": 32, "W": 32}, torch.float32)  # texels with many rays

    def gradient():
        planes = inputs[0].clone().requires_grad_()
        with use_backend("triton"):
            feature, _, opacity = CASES["march"].op(planes, *inputs[1:])
        return torch.autograd.grad(feature.square().sum() + opacity.sum(), planes)[0]

    try:
        torch.use_deterministic_algorithms(True)
        assert torch.equal(gradient(), gradient())
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["march", "march_train", "field", "composite", "attention"])
def test_gradients_of_a_whole_frame_agree_with_the_definition(name):
    case = CASES[name]
    sizes = {**case.paper, "B": 1}
    if "R" in sizes:
        sizes["R"] = 4096  # the definition keeps every sample
    inputs = on_gpu(name, sizes, torch.float32)
    result = []
    for backend in ("triton", "reference"):
        leaves = [x.detach().requires_grad_() if x is not None and x.is_floating_point() else x for x in inputs]
        with use_backend(backend):
            out = case.op(*leaves)
        outputs = [y for y in ((out,) if isinstance(out, torch.Tensor) else out) if y.requires_grad]
        inputs_with_gradient = [x for x in leaves if x is not None and x.requires_grad]
        weights = [torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y) for y in outputs]
        weights = [torch.where(y.isfinite(), w, 0.0) for y, w in zip(outputs, weights, strict=True)]
        result.append(torch.autograd.grad(outputs, inputs_with_gradient, weights, allow_unused=True))
    for one, other in zip(*result, strict=True):
        if one is not None and other is not None:
            error = (one - other).double().square().mean().sqrt()
            assert error < 5e-3 * other.double().square().mean().sqrt().clamp(min=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["triplane", "field", "composite", "grid", "dwconv", "fir_up", "bias_act", "march"])
def test_what_is_no_number_reaches_what_saw_it_and_nothing_else(name, value):
    case = CASES[name]
    inputs = on_gpu(name, case.odd[1], torch.float32)
    where = 1 if name == "composite" else 0
    broken = inputs[where].clone()
    broken[(0, 0, *(size // 2 for size in broken.shape[2:]))] = value
    inputs = (*inputs[:where], broken, *inputs[where + 1 :])
    seen = []
    for backend in ("triton", "reference"):
        with torch.no_grad(), use_backend(backend):
            out = case.op(*inputs)
        seen.append((out,) if isinstance(out, torch.Tensor) else out)
    for kernel, definition in zip(*seen, strict=True):
        assert torch.equal(kernel.isfinite(), definition.isfinite())
