"""Which attention runs, decided here and nowhere else, and the modules built on it.

Letters: B batch, N query tokens, K key tokens, D token width, H W the grid of the tokens.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.kernels.attention import WIDEST, attend_wide
from triportrait.kernels.dispatch import runs_triton
from triportrait.kernels.dwconv import depthwise_gelu

XFORMERS_MAX_HEAD_WIDTH = 256  # wider heads leave the fused kernels of xFormers and of PyTorch


@cache
def has_xformers() -> bool:
    """True when xFormers is installed; looked up once."""
    return importlib.util.find_spec("xformers") is not None


def backend_for(device_type: str, head_width: int, dtype: torch.dtype) -> Literal["xformers", "wide", "torch"]:
    """On CUDA our kernel for wide heads in half precision, and xFormers for narrow ones where it is installed.

    Float32 and what no kernel takes goes PyTorch's own way.
    """
    if device_type != "cuda":
        return "torch"
    if head_width <= XFORMERS_MAX_HEAD_WIDTH:
        return "xformers" if has_xformers() else "torch"
    half = dtype in (torch.float16, torch.bfloat16)
    return "wide" if half and head_width <= WIDEST and head_width % 16 == 0 else "torch"


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention over all keys, scaled by the root of the head width.

    Args:
        query: [B, N, heads, width].
        key, value: [B, K, heads, width].

    Returns:
        [B, N, heads * width].
    """
    chosen = backend_for(query.device.type, query.shape[-1], query.dtype)
    if chosen == "xformers":
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
        """[B, N, D] -> [B, N, D], with H * W = N."""
        x = self.fc1(tokens).unflatten(1, grid)  # [B, H, W, hidden]
        weight, bias = self.depthwise.weight, self.depthwise.bias
        assert bias is not None
        return self.fc2(depthwise_gelu(x, weight, bias).flatten(1, 2))


class PatchEmbed(nn.Module):
    """A feature map becomes tokens, one for each 2x2 cell, in reading order."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, width, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(width)

    def forward(self, feature: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """[B, C, 2H, 2W] -> tokens [B, H*W, D] and (H, W)."""
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
        self, tokens: Tensor, grid: tuple[int, int], motion_tokens: Tensor | None, motion_scale: float | Tensor = 1.0
    ) -> Tensor:
        """[B, N, D] -> [B, N, D]. No motion tokens: the static synthesizer, whose cross-attention is off."""
        if motion_tokens is not None:
            tokens = tokens + motion_scale * self.cross_attention(self.cross_norm(tokens), motion_tokens)
        tokens = tokens + self.self_attention(self.self_norm(tokens))
        return tokens + self.mlp(self.mlp_norm(tokens), grid)


class SelfBlock(nn.Module):
    """Self-attention over reduced keys, then the MLP, each behind its norm."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, reduction: int) -> None:
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, num_heads, reduction)
        self.mlp_norm, self.mlp = nn.LayerNorm(width), ConvMlp(width, mlp_width)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        tokens = tokens + self.self_attention(self.self_norm(tokens), grid=grid)
        return tokens + self.mlp(self.mlp_norm(tokens), grid)


def initialize_transformer(module: nn.Module) -> None:
    """The published initialisation of everything made of blocks.

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
