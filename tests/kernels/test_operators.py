"""Every kernel against its definition: values, gradients, batches, layouts, numbers that are none, and who runs.

What one operator alone promises stands in its own file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from tests.slow_cpu import SLOW_CPU
from triportrait.kernels import dispatch
from triportrait.kernels.dispatch import BackendUnavailable, use_backend
from triportrait.kernels.march import operator as march
from triportrait.kernels.march.launch import propose
from triportrait.kernels.tolerance import assert_agrees
from triportrait.profiling.cases import CASES, LAUNCHED, Case, Inputs, Sizes, make_inputs
from triportrait.profiling.cases import DTYPES as NAMED

ALL = sorted(CASES)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [(name, i) for name in ALL for i in range(len(CASES[name].odd))]


def outputs(case: Case, inputs: Inputs, backend: str = "triton") -> tuple[Tensor, ...]:
    with use_backend(backend):  # type: ignore[arg-type]
        out = case.op(*inputs)
    return (out,) if isinstance(out, Tensor) else out


def agreements() -> Iterator[ParameterSet]:
    """Every operator at every size in every dtype it knows; the first size in float32 is in the quick ring."""
    for name, size in SIZES:
        if SLOW_CPU and size:
            continue
        for dtype in DTYPES[:1] if CASES[name].wide_only else DTYPES:
            marks = [pytest.mark.quick] if (size, dtype) == (0, torch.float32) else []
            yield pytest.param(name, size, dtype, id=f"{name}-{size}-{str(dtype).removeprefix('torch.')}", marks=marks)


@pytest.mark.parametrize("name, size, dtype", list(agreements()))
def test_agrees_with_the_definition(name, size, dtype):
    case = CASES[name]
    floor = case.floor_in(dtype)
    assert_agrees(case.op, make_inputs(name, case.odd[size], dtype), floor=floor)


@pytest.mark.parametrize("name, dtype", [(name, dtype) for name, case in LAUNCHED.items() for dtype in case.dtypes])
def test_what_is_launched_besides_agrees_with_the_definition(name, dtype):
    """In the mixed dtypes of autocast, and in those of a training without a warp."""
    case = LAUNCHED[name]
    for sizes in case.odd:
        assert_agrees(case.op, make_inputs(name, sizes, NAMED[dtype]), floor=case.floor_in(NAMED[dtype]))


@pytest.mark.quick
def test_every_operator_is_in_the_quick_ring():
    quick = [case.values[0] for case in agreements() if case.marks]
    assert sorted(quick) == ALL


DEPTHS = {"merge": (0, 1)}  # a step would change the order of those that coincide


@pytest.mark.parametrize("name", [name for name in ALL if CASES[name].differentiable])
def test_gradients_by_finite_differences(name, monkeypatch):
    """Along one random direction through all inputs at once; depths of samples stand still: they carry no gradient."""
    case, step = CASES[name], 1e-6
    inputs = make_inputs(name, case.odd[0], torch.float64)
    proposed: list[Tensor] = []

    def propose_once(*arguments: object) -> Tensor:
        """Fine depths follow the densities, but not their gradients."""
        if not proposed:
            proposed.append(propose(*arguments))
        return proposed[0]

    monkeypatch.setattr(march, "propose", propose_once)
    fixed = DEPTHS.get(name, ())
    leaves = tuple(
        x.requires_grad_() if x is not None and x.is_floating_point() and i not in fixed else x
        for i, x in enumerate(inputs)
    )
    out = outputs(case, leaves)
    weights = [torch.randn_like(y) for y in out]
    total = torch.stack([(y * w).sum() for y, w in zip(out, weights, strict=True)]).sum()
    places = [i for i, x in enumerate(leaves) if x is not None and x.requires_grad]
    gradients_of_total = torch.autograd.grad(total, [leaves[i] for i in places], allow_unused=True)
    used = {i: d for i, d in zip(places, gradients_of_total, strict=True) if d is not None}
    assert used
    towards = {i: torch.randn_like(d) for i, d in used.items()}

    def moved(sign: int) -> Tensor:
        there = [x.detach() + sign * step * towards[i] if i in used else x for i, x in enumerate(inputs)]  # type: ignore[union-attr]
        return torch.stack([(y * w).sum() for y, w in zip(outputs(case, tuple(there)), weights, strict=True)]).sum()

    with torch.no_grad():
        slope = (moved(1) - moved(-1)) / (2 * step)
    slope_by_gradients = torch.stack([(d * towards[i]).sum() for i, d in used.items()]).sum()
    torch.testing.assert_close(slope_by_gradients, slope, rtol=1e-5, atol=1e-6)
    assert bool(proposed) == name.startswith("march")


def shared(name: str, inputs: Inputs) -> list[bool]:
    """Which inputs all members of a batch have in common: weights, faces, numbers."""
    counts = {"field": 2, "bias_act": 1, "dwconv": 1, "nearest_face": 2, "rasterize": 1}
    count = 7 if name.startswith("march") else counts.get(name, len(inputs))
    return [i >= count and not (name == "march_train" and i == len(inputs) - 1) for i in range(len(inputs))]


def pair(name: str) -> Sizes:
    """The sizes of a batch of two: the second ones; of marches on a slow CPU the first ones, two programs an image."""
    case, short = CASES[name], SLOW_CPU and name.startswith("march")
    sizes = {**case.odd[0], "B": 2, "R": 15, "width": 5} if short else case.odd[1]
    assert sizes["B"] == 2, "the second size is the one with a batch"
    return sizes


def second(name: str, inputs: Inputs) -> Inputs:
    """The second member of a batch of two."""
    pairs = zip(inputs, shared(name, inputs), strict=True)
    return tuple(x if x is None or common else x[1:] for x, common in pairs)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_is_its_members(name):
    case = CASES[name]
    inputs = make_inputs(name, pair(name), torch.float32)
    for both, one in zip(outputs(case, inputs), outputs(case, second(name, inputs)), strict=True):
        torch.testing.assert_close(both[1:], one, rtol=0, atol=0, equal_nan=True)


def gradients(case: Case, inputs: Inputs, weigh: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
    """Of each input, from outputs whose gradients are `weigh` of them."""
    leaves = tuple(x.clone().requires_grad_() if x is not None and x.is_floating_point() else x for x in inputs)
    differentiable = [y for y in outputs(case, leaves) if y.requires_grad]
    torch.autograd.backward(differentiable, [weigh(y.detach()) for y in differentiable])
    return [None if x is None else x.grad for x in leaves]


def noise(y: Tensor) -> Tensor:
    """Random numbers of the shape of the last image of y, for every image the same."""
    rng = torch.Generator().manual_seed(1)
    one = torch.randn(y.shape[1:], generator=rng, dtype=torch.float64).to(y.dtype)
    return torch.where(y.isfinite(), one.expand_as(y), 0.0)


GRADED = [(name, torch.float32) for name in ALL if CASES[name].differentiable and name != "march_train"]
GRADED += [("march", torch.float16)]


@pytest.mark.parametrize("name, dtype", GRADED, ids=lambda x: str(x).removeprefix("torch."))
def test_gradients_of_a_member_do_not_depend_on_those_of_another(name, dtype, rows_are_multiplied_alike):
    """The other one's are 10^5 times larger."""
    case = CASES[name]
    inputs = make_inputs(name, pair(name), dtype)

    def louder(y: Tensor) -> Tensor:
        return noise(y) * torch.tensor([1e5, 1.0], dtype=y.dtype).view(2, *(1,) * (y.dim() - 1))

    both, one = gradients(case, inputs, louder), gradients(case, second(name, inputs), noise)
    compared = 0
    for d, alone, common in zip(both, one, shared(name, inputs), strict=True):
        if d is not None and alone is not None and not common:
            torch.testing.assert_close(d[1:], alone, rtol=0, atol=0)
            compared += 1
    assert compared


@pytest.mark.parametrize("name, dtype", GRADED, ids=lambda x: str(x).removeprefix("torch."))
def test_strided_gradients(name, dtype):
    case = CASES[name]
    inputs = make_inputs(name, pair(name), dtype)

    def turned(y: Tensor) -> Tensor:
        return noise(y).movedim(1, -1).contiguous().movedim(-1, 1)

    plain = gradients(case, inputs, noise)
    assert any(d is not None for d in plain)
    for d, other in zip(plain, gradients(case, inputs, turned), strict=True):
        assert (d is None) == (other is None)
        if d is not None:
            torch.testing.assert_close(d, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_strided_inputs(name):
    case = CASES[name]
    inputs = make_inputs(name, pair(name), torch.float32)
    strided = tuple(
        x.movedim(0, -1).contiguous().movedim(-1, 0) if x is not None and x.dim() > 1 else x for x in inputs
    )
    assert any(not x.is_contiguous() for x in strided if x is not None)
    for plain, other in zip(outputs(case, inputs), outputs(case, strided), strict=True):
        torch.testing.assert_close(plain, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ALL)
def test_a_backend_asked_for_by_name_is_never_swapped(name, monkeypatch):
    case = CASES[name]
    inputs = make_inputs(name, case.odd[0], torch.float32)
    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    with pytest.raises(BackendUnavailable, match=r"expected CUDA tensors, .* is on cpu"):
        outputs(case, inputs)
    monkeypatch.setattr(dispatch, "HAVE_TRITON", False)
    with pytest.raises(BackendUnavailable, match="not installed or does not load"):
        outputs(case, inputs)


SEVERAL = [name for name in ALL if len(make_inputs(name, CASES[name].odd[0], torch.float32)) > 1]


@pytest.mark.parametrize("name", SEVERAL)
def test_tensors_on_several_devices_are_refused_by_name(name):
    case = CASES[name]
    inputs = make_inputs(name, case.odd[0], torch.float32)
    moved = (*inputs[:1], inputs[1].to("meta"), *inputs[2:])  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"^\w+: expected on (cpu|meta) as \w+ is, got (meta|cpu); move it there"):
        case.op(*moved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["triplane", "field", "composite", "grid", "dwconv", "fir_up", "bias_act", "march"])
def test_what_is_no_number_reaches_what_saw_it_and_nothing_else(name, value):
    case = CASES[name]
    inputs = make_inputs(name, pair(name), torch.float32)
    where = 1 if name == "composite" else 0
    broken = inputs[where].clone()  # type: ignore[union-attr]
    broken[(0, 0, *(size // 2 for size in broken.shape[2:]))] = value
    inputs = (*inputs[:where], broken, *inputs[where + 1 :])
    results, definitions = outputs(case, inputs), outputs(case, inputs, "reference")
    for kernel, definition in zip(results, definitions, strict=True):
        assert torch.equal(kernel.isfinite(), definition.isfinite())
    assert not all(x.isfinite().all() for x in definitions) or value == float("inf"), "somebody sees it"
    assert any(x.isfinite().any() for x in definitions), "somebody does not"
