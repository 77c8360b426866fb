"""What happens to marked pictures on their way, and pictures to mark: photographs, heads, noise."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.writer import VideoWriter

DOCS = Path(__file__).parents[2] / "docs"
Frames = Sequence[np.ndarray]


def psnr(one: Frames, other: Frames) -> float:
    """dB, over all pictures."""
    error = np.mean((np.stack(one).astype(float) - np.stack(other)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def half(frames: Frames) -> Frames:
    return [resized(frame, frame.shape[1] // 2, frame.shape[0] // 2) for frame in frames]


def jpeg(frames: Frames, quality: int) -> Frames:
    found = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(file)))
    return found


def h264(frames: Frames, crf: int = 18) -> Frames:
    """Through a file as `triportrait reenact` writes it."""
    height, width = frames[0].shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        with VideoWriter(path, size_px=(width, height), fps=25, crf=crf) as video:
            for index, frame in enumerate(frames):
                video.write(frame, index / 25)
        return [frame.image[:height, :width] for frame in open_clip(path).frames()]


def vp8(frames: Frames, bits_per_s: int) -> Frames:
    """As WebRTC carries them: encoded and decoded as the live server's track is."""
    from aiortc.codecs import depayload
    from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder
    from aiortc.jitterbuffer import JitterFrame
    from aiortc.rtcrtpparameters import RTCRtpCodecParameters

    kind = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90_000, payloadType=97)
    encoder, decoder = Vp8Encoder(), Vp8Decoder()
    encoder.target_bitrate = bits_per_s
    found = []
    for index, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
        picture.pts, picture.time_base = index * 3600, Fraction(1, 90_000)
        packets, at = encoder.encode(picture)
        data = b"".join(depayload(kind, packet) for packet in packets)
        found += [f.to_ndarray(format="rgb24") for f in decoder.decode(JitterFrame(data, at))]
    return found


def cut(frames: Frames, share: float) -> Frames:
    """A border is cut off, the rest enlarged."""
    height, width = frames[0].shape[:2]
    y, x = round(share * height), round(share * width)
    return [resized(np.ascontiguousarray(f[y : height - y, x : width - x]), width, height) for f in frames]


def rotated(frames: Frames, degrees: float) -> Frames:
    return [np.asarray(Image.fromarray(f).rotate(degrees, Image.Resampling.BICUBIC)) for f in frames]


def brighter(frames: Frames, gain: float, offset: float) -> Frames:
    return [(f * gain + offset).clip(0, 255).astype(np.uint8) for f in frames]


def photograph(size: int, count: int) -> Frames:
    """The real portrait of the demo, under a camera that drifts and draws nearer."""
    picture = Image.fromarray(read_picture(DOCS / "demo" / "portrait.jpg"))
    found = []
    for i in range(count):
        side = 480 - 1.5 * i
        x, y = 12 + 6 * math.sin(i / 5), 8 + 0.4 * i
        box = (x, y, x + side, y + side)
        found.append(np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box=box)))
    return found


def talking(size: int, count: int) -> Frames:
    """The demo's driving video: a real face that turns and opens its mouth."""
    frames = open_clip(DOCS / "demo" / "driving.mp4").frames(count)
    return [resized(frame.image, size, size) for frame in frames]


def noise(size: int, count: int) -> Frames:
    """Grey noise, another in each frame: the worst that a codec and a reader can meet."""
    rng = np.random.default_rng(3)
    return [
        (128 + 20 * rng.standard_normal((size, size, 1))).clip(0, 255).astype(np.uint8).repeat(3, 2)
        for _ in range(count)
    ]


@torch.no_grad()
def heads(size: int, count: int) -> Frames:
    """A procedural head that talks."""
    from triportrait.train.data.scene_sampling import motion, take_pictures, to_uint8
    from triportrait.train.evaluation.protocol import Sitter, renderer, unseen

    sitter, (_, camera) = Sitter.of(0, 3), unseen(0, 3)
    same = torch.zeros(count, dtype=torch.long)
    view = take_pictures(
        renderer(),
        sitter.identity.take(same),
        motion(7, 3, count, 25),
        sitter.light.take(same),
        camera.take(same),
        size,
    )
    return list(to_uint8(view.image).numpy())


@torch.no_grad()
def network(count: int) -> Frames:
    """What the package's own weights make of the demo's portrait and driving video, 128 px."""
    from triportrait.serve.faces.face import AlignedFace
    from triportrait.serve.reenactor import Reenactor
    from triportrait.serve.weight_loading import load_weights

    reenactor = Reenactor(*load_weights("demo"), torch.device("cpu"), False)
    source = reenactor.prepare(AlignedFace.whole(photograph(reenactor.image_size, 1)[0]))
    driving = talking(reenactor.image_size, count)
    return [reenactor.reenact(source, AlignedFace.whole(frame)) for frame in driving]


def beside(*parts: Frames) -> Frames:
    """Frames side by side."""
    return [np.concatenate(frames, axis=1) for frames in zip(*parts, strict=True)]
