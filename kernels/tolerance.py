"""Judge an operator by one rule, in its tests and in the bench before anything is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from triportrait.kernels.dispatch import Backend, use_backend

Operator = Callable[..., Tensor | tuple[Tensor, ...]]


def assert_agrees(
    op: Operator, inputs: Sequence[Tensor | None], factor: float = 2.0, floor: float = 2e-6, absolute: float = 0.0
) -> None:
    """Check that the kernel is as accurate as PyTorch is in the same dtype, in every output and every gradient.

    The truth is the definition in float64. The kernel may err `factor` times as much as the definition does in the
    inputs' own dtype, or as rounding the largest true value does, where PyTorch happens to be luckier; plus `floor` of
    that value, plus `absolute`.
    Everything that is floating point is differentiated, with outputs weighted at random.

    Raises: `AssertionError` names the output or gradient that is off.
    """
    truth, same, kernel = _run(op, inputs, "reference", True), _run(op, inputs, "reference", False), _run(op, inputs)
    assert truth.keys() == same.keys() == kernel.keys(), f"{sorted(kernel)} are differentiable, not {sorted(truth)}"
    for name, true in truth.items():
        result, base = kernel[name], same[name]
        assert result.dtype == base.dtype, f"{name}: {result.dtype}, not {base.dtype}"
        assert result.shape == true.shape, f"{name}: {list(result.shape)}, not {list(true.shape)}"
        if not base.is_floating_point():
            assert torch.equal(result, base), f"{name}: other numbers than the definition's"
            continue
        finite = true.isfinite()
        assert torch.equal(result.isfinite(), finite), f"{name}: not finite elsewhere than it should be"
        if finite.any():
            error, base_error = ((x.double() - true)[finite].abs().max() for x in (result, base))
            largest = true[finite].abs().max()
            # half a unit; Triton's interpreter truncates where it stores bfloat16
            rounding = torch.finfo(base.dtype).eps / (1 if base.dtype == torch.bfloat16 else 2)
            allowed = factor * max(base_error, largest * rounding) + floor * largest + absolute
            assert error <= allowed, (
                f"{name}: off by {error:.3g}, allowed {allowed:.3g}, PyTorch in {base.dtype} {base_error:.3g}"
            )


def _run(
    op: Operator, inputs: Sequence[Tensor | None], backend: Backend = "triton", widen: bool = False
) -> dict[str, Tensor]:
    """Run an operator on fresh leaves and return its outputs and gradients by name."""
    leaves: list[Tensor | None] = []
    for x in inputs:  # fresh leaves: x.to(x.dtype) is x itself, and gradients would pile up in it
        if x is not None:
            x = x.detach().clone()
            if x.is_floating_point():
                x = (x.double() if widen else x).requires_grad_()
        leaves.append(x)
    with use_backend(backend):
        out = op(*leaves)
        outputs = (out,) if isinstance(out, Tensor) else out
        results = {f"output {i}": y.detach() for i, y in enumerate(outputs)}
        rng = torch.Generator().manual_seed(0)
        weighted = [(y, torch.randn(y.shape, generator=rng, dtype=torch.float64)) for y in outputs]
        weighted = [(y, d.to(y)) for y, d in weighted if y.requires_grad]
        if weighted:
            torch.autograd.backward([y for y, _ in weighted], [d for _, d in weighted])
    for i, x in enumerate(leaves):
        if x is not None and x.grad is not None:
            results[f"gradient of input {i}"] = x.grad
    return results
