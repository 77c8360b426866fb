"""Stub attention libraries compute nothing and refuse what the real ones refuse, by their documented rules."""

from __future__ import annotations

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.fake_gpu.device import FakeGpu

Xformers = Literal["absent", "whole", "another CUDA", "no operator"]
HALF = (torch.float16, torch.bfloat16)
Calls = Counter[tuple[str, str, int]]  # backend, dtype, bytes of a score matrix


class _Attention(torch.autograd.Function):
    """Attention [B, heads, N, width] is one launch forward and one backward here."""

    @staticmethod
    def forward(ctx: Any, gpu: FakeGpu, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        gpu.launched("attention")
        ctx.gpu = gpu
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        ctx.gpu.launched("attention")
        return None, *(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def refusals_of_xformers(query: Tensor, key: Tensor, value: Tensor) -> list[str]:
    """List why none of xFormers' operators takes tensors [B, N, heads, width]; flash or CUTLASS is enough."""
    inputs = query, key, value
    if any(x.dim() != 4 for x in inputs):
        return ["expected BMHK tensors"]
    if len({x.dtype for x in inputs}) > 1:
        raise ValueError("Query/Key/Value should either all have the same dtype")  # it knows no autocast
    width, size = query.shape[-1], query.element_size()
    reasons = []
    if any(x.device.type != "cuda" for x in inputs):
        reasons.append("device is not cuda")
    if query.dtype not in (torch.float32, *HALF):
        reasons.append(f"dtype {query.dtype} is not supported")
    if any(x.stride(-1) != 1 for x in inputs):
        reasons.append("the last dimension is not contiguous")
    aligned = all(stride * size % 16 == 0 for x in inputs for stride in x.stride()[:3])
    offset = any(x.storage_offset() * size % 16 for x in inputs)
    if width * size % 16 or not aligned or offset:
        reasons.append("rows are not aligned to 16 bytes")
    if key.shape[:3] != value.shape[:3] or query.shape[2:] != key.shape[2:] or query.shape[0] != key.shape[0]:
        reasons.append("shapes disagree")
    return reasons


def backend_of_torch(query: Tensor, key: Tensor, value: Tensor, capability: tuple[int, int]) -> str:
    """Name the first of PyTorch's fused kernels that takes tensors [B, heads, N, width], else "math"."""
    inputs = query, key, value
    width, dense = query.shape[-1], all(x.stride(-1) == 1 and x.shape[2] > 0 for x in inputs)
    if len({x.shape[-1] for x in inputs}) > 1 or not dense:
        return "math"
    if query.dtype in HALF and width <= 256 and width % 8 == 0:
        return "flash"
    narrowest = 8 if query.dtype in HALF else 4
    if query.dtype in (torch.float32, *HALF) and width % narrowest == 0:
        return "efficient"
    return "math"


@contextlib.contextmanager
def attention_libraries(gpu: FakeGpu, xformers: Xformers = "absent") -> Iterator[Calls]:
    """Put stubs in the place of PyTorch's attention on CUDA tensors and of xFormers, and count their calls.

    Args:
        xformers: not installed; whole; built for another CUDA, so that it imports, knows that its compiled part did
            not load, and every operator refuses; or refusing without knowing.
    """
    calls: Calls = Counter()
    original = F.scaled_dot_product_attention

    def count(backend: str, query: Tensor, key: Tensor) -> None:
        scores = math.prod(query.shape[:3]) * key.shape[2] * query.element_size()
        calls[backend, str(query.dtype).removeprefix("torch."), scores if backend.endswith("math") else 0] += 1

    def of_torch(query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if query.device.type != "cuda" or arguments or options:
            return original(query, key, value, *arguments, **options)
        if torch.is_autocast_enabled("cuda"):
            query, key, value = (x.to(torch.get_autocast_dtype("cuda")) for x in (query, key, value))
        if len({x.dtype for x in (query, key, value)}) > 1:
            raise RuntimeError("Expected query, key, and value to have the same dtype")
        count(f"torch {backend_of_torch(query, key, value, gpu.capability)}", query, key)
        return _Attention.apply(gpu, query, key, value)  # type: ignore[no-any-return]

    def of_xformers(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        reasons = refusals_of_xformers(query, key, value)
        if xformers != "whole":
            reasons.append("xFormers wasn't build with CUDA support")
        if reasons:
            raise NotImplementedError(
                "No operator found for `memory_efficient_attention_forward` with inputs: " + "; ".join(reasons)
            )
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        count("xformers", query, key)
        return _Attention.apply(gpu, query, key, value).transpose(1, 2)  # type: ignore[no-any-return]

    modules: dict[str, ModuleType | None] = {"xformers": None}
    if xformers != "absent":
        package, ops, compiled = (ModuleType(f"xformers{name}") for name in ("", ".ops", "._cpp_lib"))
        package.__path__ = []  # type: ignore[attr-defined]
        package.ops, package._cpp_lib, ops.memory_efficient_attention = ops, compiled, of_xformers  # type: ignore[attr-defined]
        compiled._built_with_cuda = xformers != "another CUDA"  # type: ignore[attr-defined]
        modules = {module.__name__: module for module in (package, ops, compiled)}
    with mock.patch.dict(sys.modules, modules), mock.patch.object(F, "scaled_dot_product_attention", of_torch):
        yield calls
