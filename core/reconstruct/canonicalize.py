"""Neutral and motion blocks: global features lose the source's expression and take those of the driving frame (3.1)."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.config import EncoderConfig, TransformerConfig
from triportrait.core.pixel_shuffle import pixel_shuffle
from triportrait.core.reconstruct.attention import CrossBlock, PatchEmbed
from triportrait.core.reconstruct.encoders import LEAK


class MotionTokens(nn.Module):
    """Turn a motion vector into the tokens that the blocks attend to."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_tokens = config.num_motion_tokens
        self.fc1 = nn.Linear(config.motion_width, config.motion_hidden)
        self.fc2 = nn.Linear(config.motion_hidden, config.motion_hidden)
        self.project = nn.Linear(config.motion_hidden, config.num_motion_tokens * config.token_width)

    def forward(self, motion: Tensor) -> Tensor:
        """Turn motion [B, M] into tokens [B, N, D]."""
        x = F.leaky_relu(self.fc2(F.leaky_relu(self.fc1(motion), LEAK)), LEAK)
        return self.project(x).unflatten(1, (self.num_tokens, -1))


class Neutralizer(nn.Module):
    """The first half: the source's own motion v_s is attended to and leaves. It runs once per source."""

    def __init__(self, encoder: EncoderConfig, config: TransformerConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(encoder.global_width, config.token_width)
        self.tokens = MotionTokens(config)
        self.blocks = nn.ModuleList(
            CrossBlock(config.token_width, config.num_heads, config.mlp_width) for _ in range(config.num_neutral_blocks)
        )

    def forward(
        self, feature: Tensor, motion: Tensor | None, motion_scale: Tensor | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Turn global features [B, C, 2H, 2W] and v_s [B, M] into neutral tokens [B, H*W, D] and (H, W).

        Without motion it is the static synthesizer, as it is where `motion_scale` [B] is 0; None stands for 1.
        """
        tokens, grid = self.patch_embed(feature)
        motion_tokens = None if motion is None else self.tokens(motion)
        for block in self.blocks:
            tokens = block(tokens, grid, motion_tokens, motion_scale)
        return tokens, grid


class MotionTransfer(nn.Module):
    """The second half: the driving motion v_d enters, and tokens become canonical features. It runs once per frame."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.tokens = MotionTokens(config)
        self.blocks = nn.ModuleList(
            CrossBlock(config.token_width, config.num_heads, config.mlp_width) for _ in range(config.num_motion_blocks)
        )
        widths = (config.token_width // 4, config.tail_width, config.tail_width, config.canonical_width)
        self.tail = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], motion: Tensor | None, motion_scale: Tensor | None = None
    ) -> Tensor:
        """Turn neutral tokens [B, H*W, D] and v_d [B, M] into canonical features [B, C, 8H, 8W].

        `motion_scale` [B] is as in `Neutralizer.forward`.
        """
        return self.grow(self.apply_motion(tokens, grid, motion, motion_scale), grid)

    def apply_motion(
        self, tokens: Tensor, grid: tuple[int, int], motion: Tensor | None, motion_scale: Tensor | None = None
    ) -> Tensor:
        """Run the motion blocks alone: [B, H*W, D] -> [B, H*W, D]."""
        motion_tokens = None if motion is None else self.tokens(motion)
        for block in self.blocks:
            tokens = block(tokens, grid, motion_tokens, motion_scale)
        return tokens

    def grow(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Turn tokens [B, H*W, D] into canonical features [B, C, 8H, 8W]."""
        x = pixel_shuffle(tokens.mT.unflatten(2, grid))
        x = F.relu(self.tail[0](_double(x)))
        x = F.relu(self.tail[1](_double(x)))
        return self.tail[2](x)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
