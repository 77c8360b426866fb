"""Record which kernels an operator launches, and with which arguments; none runs, as it gets meta tensors.

So what is compiled and counted is what is launched, with the real constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from triportrait.kernels.dispatch import use_backend
from triportrait.profiling.cases import CASES, LAUNCHED, Sizes, make_inputs

_TYPES = {
    torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int64: "i64",
    torch.int32: "i32",
}  # fmt: skip
DIVISOR = 16  # Triton specialises on pointers and integers that are divisible by it


@dataclass(frozen=True)
class Launch:
    """A kernel and how it is launched.

    Attributes:
        kernel: the jitted function.
        grid: programs along each axis.
        signature: argument -> Triton's name of its type, "constexpr" for constants.
        constants: argument -> value; an integer that is 1 is a constant, too.
        divisible: the pointers and integers that are divisible by 16.
        options: num_warps and num_stages.
        integers: argument -> value of every whole number, constants included.
    """

    kernel: Any
    grid: tuple[int, ...]
    signature: dict[str, str]
    constants: dict[str, Any]
    divisible: tuple[str, ...]
    options: dict[str, int]
    integers: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Join the names of the module and of the function."""
        module = self.kernel.fn.__module__.removeprefix("triportrait.kernels.").replace(".", "_")
        return f"{module}.{self.kernel.fn.__name__.strip('_').removesuffix('_kernel')}"

    def program(self) -> tuple[Any, ...]:
        """Return a key that is equal for launches of one program, except for what Triton knows of their integers."""
        constants = [p.name for p in self.kernel.params if p.is_constexpr]
        return self.name, tuple((k, str(self.constants[k])) for k in constants), tuple(self.options.items())

    def binary(self) -> tuple[Any, ...]:
        """Return a key that is equal for launches that Triton compiles once."""
        kinds = tuple(sorted(self.signature.items()))
        constants = tuple(sorted((name, str(value)) for name, value in self.constants.items()))
        return self.name, kinds, constants, tuple(sorted(self.divisible)), tuple(sorted(self.options.items()))


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Record launches inside a `with` block instead of making them."""
    from triton.runtime.jit import JITFunction

    launches: list[Launch] = []

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(_launch(self, grid, arguments, options))

    original = JITFunction.run
    JITFunction.run = run
    try:
        yield launches
    finally:
        JITFunction.run = original


def launches_of(name: str, sizes: Sizes, dtype: torch.dtype, backward: bool) -> list[Launch]:
    """List the launches of a case, forward, and backward if asked for; of equal programs the largest."""
    case = (CASES | LAUNCHED)[name]
    with FakeTensorMode():  # a frame's inputs without their memory
        fakes = [None if x is None else x if x.dim() else int(x) for x in make_inputs(name, sizes, dtype)]
    inputs = [torch.empty(x.shape, dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x for x in fakes]
    with recorded() as launches, use_backend("triton"):
        if not (backward and case.differentiable):
            with torch.no_grad():
                case.op(*inputs)
        else:
            leaves = [x.requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
            out = case.op(*leaves)
            outputs = [y for y in ((out,) if isinstance(out, Tensor) else out) if y.requires_grad]
            torch.autograd.backward(outputs, [torch.empty_like(y) for y in outputs])
    largest: dict[Any, Launch] = {}
    for launch in launches:
        other = largest.setdefault(launch.program(), launch)
        if math.prod(launch.grid) > math.prod(other.grid):
            largest[launch.program()] = launch
    return list(largest.values())


def _launch(kernel: Any, grid: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    names = kernel.arg_names
    values = dict(zip(names, arguments, strict=False))
    values |= {name: options.pop(name) for name in list(options) if name in names}
    signature, constants, divisible = {}, {}, []
    for parameter in kernel.params:
        value = values[parameter.name]
        unspecialized = parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1 and not unspecialized):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[parameter.name] = "*" + _TYPES[value.dtype]
            if value.storage_offset() * value.element_size() % DIVISOR == 0:  # the allocator aligns by more
                divisible.append(parameter.name)
        elif isinstance(value, bool):
            signature[parameter.name] = "i1"
        elif isinstance(value, int):
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % DIVISOR == 0 and not unspecialized:
                divisible.append(parameter.name)
        else:
            signature[parameter.name] = "fp32"
    sizes = tuple(grid) if isinstance(grid, tuple | list) else (grid,)
    integers = {name: value for name, value in values.items() if type(value) is int}
    return Launch(kernel, sizes, signature, constants, tuple(divisible), options, integers)
