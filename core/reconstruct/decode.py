"""The decoder from canonical and detail features to planes (section 3.1), and the parts of Ψ together."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.config import DecoderConfig, ModelConfig
from triportrait.core.pixel_shuffle import pixel_shuffle
from triportrait.core.reconstruct.attention import PatchEmbed, SelfBlock, initialize_transformer
from triportrait.core.reconstruct.canonicalize import MotionTransfer, Neutralizer
from triportrait.core.reconstruct.encoders import (
    LEAK,
    BackgroundEncoder,
    DetailEncoder,
    GlobalEncoder,
    initialize_encoders,
)

PLANE_STD = 0.15  # of the last convolution's fresh weights: the planes of a fresh network differ


class PlaneDecoder(nn.Module):
    """Convolutions, one transformer block at half the size, convolutions: features in, planes out."""

    def __init__(self, config: DecoderConfig, canonical_width: int, detail_width: int, plane_width: int) -> None:
        super().__init__()
        head = (canonical_width + detail_width, *config.head_widths)
        tail = (config.token_width // 4 + canonical_width, *config.tail_widths)
        self.head = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(head))
        self.patch_embed = PatchEmbed(head[-1], config.token_width)
        self.blocks = nn.ModuleList(
            SelfBlock(config.token_width, config.num_heads, config.mlp_width, config.kv_reduction)
            for _ in range(config.num_blocks)
        )
        self.tail = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(tail))
        self.out = nn.Conv2d(tail[-1], 3 * plane_width, 3, padding=1)

    def detail_partial(self, detail: Tensor) -> Tensor:
        """Compute the first convolution's partial sum over the detail features [B, C2, H, W], its bias included."""
        first = self.head[0]
        assert isinstance(first, nn.Conv2d)
        return F.conv2d(detail, first.weight[:, -detail.shape[1] :], first.bias, padding=1)

    def forward(self, canonical: Tensor, detail: Tensor | None, detail_partial: Tensor | None = None) -> Tensor:
        """Decode canonical [B, C1, H, W] and detail features [B, C2, H, W] to planes [B, 3, H, W, C], channels last.

        The planes are xy, yz, zx in the canonical frame; see `kernels.triplane.sample_triplane` for their axes. The
        result of `detail_partial` may stand in for the detail features, which are then not read.
        """
        first, *others = self.head
        assert isinstance(first, nn.Conv2d)
        if detail_partial is None:
            assert detail is not None, "give the detail features or their partial sum"
            x = first(torch.cat([canonical, detail], dim=1))
        else:
            x = detail_partial + F.conv2d(canonical, first.weight[:, : canonical.shape[1]], padding=1)
        x = F.leaky_relu(x, LEAK)
        for conv in others:
            x = F.leaky_relu(conv(x), LEAK)
        tokens, grid = self.patch_embed(x)
        for block in self.blocks:
            tokens = block(tokens, grid)
        x = torch.cat([pixel_shuffle(tokens.mT.unflatten(2, grid)), canonical], dim=1)
        for conv in self.tail:
            x = F.leaky_relu(conv(x), LEAK)
        return self.out(x).unflatten(1, (3, -1)).permute(0, 1, 3, 4, 2).contiguous()


class Reconstructor(nn.Module):
    """The parts of Ψ(I_s, v_s, v_d), by which `Portrait4D` turns a source picture and two motions into planes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        encoder, transformer, width = config.encoder, config.transformer, config.render.plane_width
        self.global_encoder = GlobalEncoder(encoder)
        self.detail_encoder = DetailEncoder(encoder)
        self.background_encoder = BackgroundEncoder(encoder, width)
        self.neutralizer = Neutralizer(encoder, transformer)
        self.transfer = MotionTransfer(transformer)
        self.plane_decoder = PlaneDecoder(config.decoder, transformer.canonical_width, encoder.detail_widths[-1], width)

    def initialize(self) -> None:
        """Draw fresh weights as the published training starts from (ImageNet's trunk weights aside)."""
        initialize_encoders(self.detail_encoder, self.background_encoder)
        for part in (self.neutralizer, self.transfer, self.plane_decoder):
            initialize_transformer(part)
        nn.init.normal_(self.plane_decoder.out.weight, 0, PLANE_STD)
