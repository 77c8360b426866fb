"""What a video holds: its pictures, decoded, and its sound."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def frames_of(path: Path) -> np.ndarray:
    """Return the pictures of a video, uint8 [T, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def sound_packets(path: Path) -> list[bytes]:
    """Return the sound of a video, packet by packet."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]
