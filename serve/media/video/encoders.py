"""Who encodes H.264: x264 on the CPU, or NVENC, the encoder that a GPU has beside its cores."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Literal

import av

from triportrait.core.errors import InputError

Encoder = Literal["x264", "fast", "nvenc"]
EncoderChoice = Literal["auto", "x264", "nvenc"]
NVENC = "h264_nvenc"


def chosen_encoder(choice: EncoderChoice, on_gpu: bool) -> Encoder:
    """Choose who encodes H.264.

    Args:
        choice: `x264` is its preset `medium`, and the same pictures give the same bytes; `nvenc` is the GPU's own
            encoder, which does not promise that; `auto` is `x264` where the network runs on a CPU, and where it runs on
            a GPU `fast`: NVENC where it opens for the size of the pictures, else x264's preset `veryfast`, which takes
            one core less than half the time of `medium`.
        on_gpu: the network runs on a GPU.

    Raises:
        InputError: NVENC is named and does not open.
    """
    if choice == "nvenc" and not nvenc_opens():
        raise InputError("encoder: expected NVENC, this machine or its libav does not open it; take x264")
    return ("fast" if on_gpu else "x264") if choice == "auto" else choice


def encoder_of(codec: str, encoder: Encoder, crf: int, size_px: tuple[int, int]) -> tuple[str, dict[str, str]]:
    """Give the name of libav's encoder and its options.

    Args:
        codec: libx264 or libvpx-vp9.
        encoder: who encodes H.264; VP9 has one encoder.
        crf: quality on the scale of x264.
        size_px: width and height of the pictures, even.

    Raises:
        InputError: NVENC is named and does not open for this size.
    """
    if codec == "libvpx-vp9":
        # VP9 counts to 63; 4/3 keeps the two scales about level.
        return codec, {"crf": str(min(63, round(crf * 4 / 3))), "b": "0", "cpu-used": "4", "row-mt": "1"}
    if encoder != "x264" and nvenc_opens(*size_px):
        # Its constant quality counts like x264's; unless the bit rate is 0 it would hold that rate instead. Pictures
        # are decoded in the order they are shown in: the last one can be made a key picture then.
        return NVENC, {"preset": "p4", "tune": "hq", "rc": "vbr", "cq": str(crf), "b": "0", "bf": "0"}
    if encoder == "nvenc":
        raise InputError(
            f"encoder: expected NVENC, it does not open for {size_px[0]} x {size_px[1]} px here; take x264"
        )
    return codec, x264_options(crf, "veryfast" if encoder == "fast" else "medium")


def x264_options(crf: int, preset: str = "medium") -> dict[str, str]:
    """Give the options with which x264 writes the same bytes for the same pictures."""
    import torch

    options = {"crf": str(crf), "preset": preset}
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        # x264's macroblock tree reads memory that was never written in its AVX-512 code; in its AVX2 code it does not.
        options["x264-params"] = "asm=AVX2"
    return options


@cache
def nvenc_opens(width: int = 512, height: int = 512) -> bool:
    """Tell whether this libav has NVENC, and a GPU and a driver that encode pictures of a size with it.

    Some GPUs have no NVENC, such as A100 and H100, and it refuses sizes below about 145 px and above 4096.
    """
    try:
        context = av.CodecContext.create(NVENC, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height = width, height
        context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
        context.open()
    except (av.FFmpegError, ValueError):  # no driver; or a libav without it
        return False
    return True
