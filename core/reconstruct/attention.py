"""Decide, here and nowhere else, which attention runs, and build modules on it.

Letters: B batch, N query tokens, K key tokens, D token width, H W the grid of the tokens.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from triportrait.core.optional_packages import MISSING, fault
from triportrait.kernels.attention import MAX_HEAD_WIDTH, attend_wide
from triportrait.kernels.dispatch import runs_triton
from triportrait.kernels.dwconv import depthwise_gelu

XFORMERS_MAX_HEAD_WIDTH = 256  # wider heads leave the fused kernels of xFormers and of PyTorch
_runs: dict[tuple[Any, ...], bool] = {}  # kind of tensors -> whether xFormers takes them


@cache
def has_xformers() -> bool:
    """Tell whether xFormers is installed and loads; it is looked up once.

    A wheel built for another CUDA imports, and its compiled part does not load: then every operator refuses.
    """
    why = fault("xformers") or fault("xformers.ops")
    if why is not None:
        if why != MISSING:
            _warn_unused(why)
        return False
    try:
        from xformers import _cpp_lib
    except Exception:  # another version keeps its flag elsewhere: the call decides
        return True
    loaded = bool(getattr(_cpp_lib, "_built_with_cuda", True))
    if not loaded:
        _warn_unused("is installed but its compiled part does not load: it was built for another torch or CUDA")
    return loaded


def backend_for(device_type: str, head_width: int, dtype: torch.dtype) -> Literal["xformers", "wide", "torch"]:
    """Choose what computes attention: on CUDA our kernel for wide heads in half precision, xFormers for narrow ones.

    PyTorch's own attention takes float32, whatever no kernel takes, and everything that xFormers does not run here.
    """
    if device_type != "cuda":
        return "torch"
    if head_width <= XFORMERS_MAX_HEAD_WIDTH:
        return "xformers" if has_xformers() else "torch"
    half = dtype in (torch.float16, torch.bfloat16)
    return "wide" if half and head_width <= MAX_HEAD_WIDTH and head_width % 16 == 0 else "torch"


def xformers_runs(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Tell whether xFormers computes attention of such tensors, [B, N, heads, width]; a call on one image decides.

    It is tried once for each device, dtype, shape and layout, and with gradients apart, backward included: a build has
    operators for some of them. What it raises later, in the work itself, is raised.
    """
    if torch.compiler.is_compiling():  # the compiler has PyTorch's attention as an operator of its own
        return False
    inputs = (query, key, value)
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    layouts = [(x.dtype, x.shape[1:], x.stride(), x.storage_offset() % 8) for x in inputs]
    kind = (type(query), query.device, *layouts, learns, torch.are_deterministic_algorithms_enabled())
    if kind not in _runs:
        _runs[kind] = _try_xformers(inputs, learns)
    return _runs[kind]


def _try_xformers(inputs: tuple[Tensor, ...], learns: bool) -> bool:
    one = [x.narrow(0, 0, 1).detach() for x in inputs]
    try:
        from xformers.ops import memory_efficient_attention

        if not learns or isinstance(inputs[0], FakeTensor):  # nothing computes the gradient of what has no memory
            return memory_efficient_attention(*one).shape == one[0].shape
        # with hooks of its own: those of a checkpoint around this would count what is saved here
        with torch.autograd.graph.saved_tensors_hooks(_unchanged, _unchanged):
            one = [x.requires_grad_() for x in one]
            result = memory_efficient_attention(*one)
            torch.autograd.grad(result, one, torch.ones_like(result))
        return result.shape == one[0].shape
    except torch.OutOfMemoryError:
        raise
    except Exception:  # NotImplementedError: no operator; others: a library that is not whole
        return False


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _warn_unused(why: str) -> None:
    warnings.warn(f"xFormers {why}; PyTorch's attention runs; see `triportrait doctor`", RuntimeWarning, stacklevel=3)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute softmax attention over all keys, scaled by the root of the head width.

    Args:
        query: [B, N, heads, width].
        key, value: [B, K, heads, width].

    Returns:
        [B, N, heads * width].
    """
    chosen = backend_for(query.device.type, query.shape[-1], query.dtype)
    if chosen == "xformers" and xformers_runs(query, key, value):
        from xformers.ops import memory_efficient_attention

        return memory_efficient_attention(query, key, value).flatten(2)
    if chosen == "wide" and runs_triton(query=query, key=key, value=value):
        return attend_wide(query, key, value).flatten(2)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))  # [B, heads, N, width]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention whose keys and values may come from elsewhere, or from a smaller map of the same tokens."""

    def __init__(self, width: int, num_heads: int, reduction: int = 1) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, reduction, stride=reduction) if reduction > 1 else None
        self.reduce_norm = nn.LayerNorm(width) if reduction > 1 else None

    def forward(self, tokens: Tensor, context: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """Attend from tokens [B, N, D] to the context [B, K, D], or to themselves.

        `grid` = (H, W) with H * W = N is needed where the keys are reduced: 1 / reduction² of the tokens remain.
        """
        if context is None:
            context = tokens
        if self.reduce is not None and self.reduce_norm is not None:
            assert grid is not None
            small = self.reduce(context.mT.unflatten(2, grid))  # [B, D, H/r, W/r]
            context = self.reduce_norm(small.flatten(2).mT)
        query = self.q(tokens).unflatten(2, (self.num_heads, -1))
        key, value = self.kv(context).unflatten(2, (2, self.num_heads, -1)).unbind(2)
        return self.proj(attend(query, key, value))


class ConvMlp(nn.Module):
    """Two linear layers with a depthwise 3x3 convolution and a GELU in between (Mix-FFN)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Run the layers: [B, N, D] -> [B, N, D], with H * W = N."""
        x = self.fc1(tokens).unflatten(1, grid)  # [B, H, W, hidden]
        weight, bias = self.depthwise.weight, self.depthwise.bias
        assert bias is not None
        return self.fc2(depthwise_gelu(x, weight, bias).flatten(1, 2))


class PatchEmbed(nn.Module):
    """Turn a feature map into tokens, one for each 2x2 cell, in reading order."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, width, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(width)

    def forward(self, feature: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Turn [B, C, 2H, 2W] into tokens [B, H*W, D] and (H, W)."""
        x = self.conv(feature)
        return self.norm(x.flatten(2).mT), (x.shape[2], x.shape[3])


class CrossBlock(nn.Module):
    """Cross-attention to motion tokens, then self-attention, then the MLP, each behind its norm (section 3.1)."""

    def __init__(self, width: int, num_heads: int, mlp_width: int) -> None:
        super().__init__()
        self.cross_norm, self.cross_attention = nn.LayerNorm(width), Attention(width, num_heads)
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, num_heads)
        self.mlp_norm, self.mlp = nn.LayerNorm(width), ConvMlp(width, mlp_width)

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], motion_tokens: Tensor | None, motion_scale: Tensor | None = None
    ) -> Tensor:
        """Run the block: [B, N, D] -> [B, N, D]. Without motion tokens the cross-attention is off.

        `motion_scale` [B] multiplies what cross-attention adds; None stands for 1.
        """
        if motion_tokens is not None:
            attended = self.cross_attention(self.cross_norm(tokens), motion_tokens)
            tokens = tokens + (attended if motion_scale is None else motion_scale[:, None, None] * attended)
        tokens = tokens + self.self_attention(self.self_norm(tokens))
        return tokens + self.mlp(self.mlp_norm(tokens), grid)


class SelfBlock(nn.Module):
    """Self-attention over reduced keys, then the MLP, each behind its norm."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, reduction: int) -> None:
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, num_heads, reduction)
        self.mlp_norm, self.mlp = nn.LayerNorm(width), ConvMlp(width, mlp_width)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Run the block: [B, N, D] -> [B, N, D]."""
        tokens = tokens + self.self_attention(self.self_norm(tokens), grid=grid)
        return tokens + self.mlp(self.mlp_norm(tokens), grid)


def initialize_transformer(module: nn.Module) -> None:
    """Initialise everything made of blocks as published.

    The cross-attention's output does not start at zero: the published code sets it to zero and then overwrites it.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv2d):
            fan_out = part.weight[0, 0].numel() * part.out_channels // part.groups
            with torch.no_grad():
                part.weight.normal_(0, (2 / fan_out) ** 0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
