"""A small motion encoder of any size: a face crop becomes the numbers of its expression.

It stands where PD-FGC stands in the published network. It is learned from faces whose numbers are known: the nine of
procedural heads, as in the tiny preset, or the parameters of tracked faces.
Letters: B batch, M width of the motion vector.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.motion.encoder import MotionColumns, MotionEncoder

AXES = ("jaw", "smile", "pucker", "blink_left", "blink_right", "brow_left", "brow_right", "gaze_x", "gaze_y")
SPREAD = (0.30, 0.39, 0.24, 0.28, 0.28, 0.42, 0.46, 0.48, 0.48)  # standard deviations: the units of the numbers
GAZE = slice(AXES.index("gaze_x"), AXES.index("gaze_y") + 1)  # 1 is the rim of the eye; x to the head's left, y up
HEAD_COLUMNS = MotionColumns(dict.fromkeys(AXES, 1), SPREAD)  # of procedural heads
GROUPS = 8
LEAK = 0.1


class SmallMotionEncoder(MotionEncoder):
    """The small motion encoder v, from a face crop to M numbers of its expression.

    Args:
        motion_width: M.
        crop_size: side of the crop in pixels, to be halved as often as there are widths.
        widths: channels at a half, a quarter, an eighth ... of it, multiples of 8.
        columns: what it was trained to read; None: the nine numbers of procedural heads, where M is 9.
        name: for the card.

    Raises:
        ValueError: sizes that make no network.
    """

    architecture = "small"

    def __init__(
        self,
        motion_width: int = 9,
        crop_size: int = 64,
        widths: tuple[int, ...] = (32, 64, 96, 128),
        columns: MotionColumns | None = None,
        name: str = "small",
    ) -> None:
        super().__init__()
        if columns is None and motion_width == HEAD_COLUMNS.width:
            columns = HEAD_COLUMNS
        self.columns, self.name = columns, name
        shrinking = 2 ** len(widths)
        known = columns is None or columns.width == motion_width
        halved = crop_size >= shrinking and crop_size % shrinking == 0
        if not known or not halved or motion_width < 1 or any(w < 1 for w in widths):
            raise ValueError(f"small motion encoder: no network has sizes {motion_width}, {crop_size}, {widths}")
        self.crop_size: int = crop_size
        self.motion_width, self.widths = motion_width, tuple(widths)
        steps = list(itertools.pairwise((3, *widths)))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in steps)
        self.refine = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for _, b in steps)
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, b) for _, b in steps)
        cells = (crop_size // 2 ** len(widths)) ** 2
        self.hidden = nn.Linear(cells * widths[-1], 2 * widths[-1])
        self.out = nn.Linear(2 * widths[-1], motion_width)
        for layer in (*self.shrink, *self.refine, self.hidden):
            nn.init.kaiming_normal_(layer.weight, LEAK)
            nn.init.zeros_(layer.bias)

    @property
    def of_drawn_heads(self) -> bool:
        """Tell whether it knows procedural heads alone: nobody noted whose parameters it reads."""
        return self.columns is None or self.columns.widths == HEAD_COLUMNS.widths

    def to_dict(self) -> dict[str, int | tuple[int, ...]]:
        """Return the arguments that make this network again, for the card beside its weights."""
        return {"motion_width": self.motion_width, "crop_size": self.crop_size, "widths": self.widths}

    def forward(self, crop: Tensor) -> Tensor:
        """Turn crops [B, 3, crop_size, crop_size] in [-1, 1], from `motion_crop`, into motion [B, M]."""
        x = crop
        for shrink, refine, norm in zip(self.shrink, self.refine, self.norms, strict=True):
            x = F.leaky_relu(shrink(x), LEAK)
            x = F.leaky_relu(norm(x + refine(x)), LEAK)
        return self.out(F.leaky_relu(self.hidden(x.flatten(1)), LEAK))
