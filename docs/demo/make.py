"""Make the two demo assets: `python docs/demo/make.py` (needs the extra `mesh` for scikit-image).

portrait.jpg  the face of scikit-image's `astronaut` (Eileen Collins, NASA, public domain), cropped as the network wants
driving.mp4   the same face, turned, moved and with a warped mouth, with a tone: something to drive with
"""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import skimage.data
from PIL import Image
from scipy.ndimage import map_coordinates

FOLDER = Path(__file__).parent
SIZE, FPS, FRAMES, RATE = 512, 8, 24, 48_000
LEFT, TOP, SIDE = 132, 22, 184  # puts the eyes and the mouth where the alignment puts them


def portrait() -> np.ndarray:
    """Return the aligned crop, uint8 [512, 512, 3]."""
    crop = Image.fromarray(skimage.data.astronaut()).crop((LEFT, TOP, LEFT + SIDE, TOP + SIDE))
    return np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def driving(image: np.ndarray, t: float) -> np.ndarray:
    """Return the portrait at time t of a 3 s loop."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    roll = math.radians(4) * math.sin(2 * math.pi * t / 3)
    dx, dy = x - 256 - 10 * math.sin(2 * math.pi * t / 3), y - 256 - 4 * math.cos(2 * math.pi * t / 1.5)
    u, v = 256 + math.cos(roll) * dx + math.sin(roll) * dy, 256 - math.sin(roll) * dx + math.cos(roll) * dy
    opening = 14 * max(0.0, math.sin(2 * math.pi * t / 1.0))
    near_mouth = np.exp(-(((u - 256) / 60) ** 2) - ((v - 375) / 55) ** 2)
    v = v - opening * near_mouth
    return np.stack([map_coordinates(image[..., c], [v, u], order=1, mode="nearest") for c in range(3)], -1)


def main() -> None:
    """Write both files."""
    image = portrait()
    Image.fromarray(image).save(FOLDER / "portrait.jpg", quality=92)
    with av.open(str(FOLDER / "driving.mp4"), "w") as out:
        video = out.add_stream("libx264", rate=FPS, options={"crf": "23"})
        video.width = video.height = SIZE
        video.pix_fmt = "yuv420p"
        audio = out.add_stream("aac", rate=RATE, layout="mono")
        for i in range(FRAMES):
            out.mux(video.encode(av.VideoFrame.from_ndarray(driving(image, i / FPS), "rgb24")))
        out.mux(video.encode())
        seconds = np.arange(RATE * FRAMES // FPS) / RATE
        tone = 0.1 * np.sin(2 * np.pi * 220 * seconds) * np.clip(np.sin(2 * np.pi * seconds), 0, None)
        for start in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024].astype(np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = RATE, start
            out.mux(audio.encode(frame))
        out.mux(audio.encode())


if __name__ == "__main__":
    main()
