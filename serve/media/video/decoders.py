"""Who decodes films: libav on the CPU, NVDEC through libav, or DALI.

A film is decoded by hardware only as far as it comes out as the CPU decodes it: with the same times, and the same
pictures (NVDEC) or pictures of nearly the same colours (DALI). For what does not, one sentence goes to the log and the
CPU decodes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import av

from triportrait.core.optional_packages import line
from triportrait.serve.media.video.dali_film import DaliFault, decoded_by_dali, why_not_dali
from triportrait.serve.media.video.decoding import Reads, Tally, decoded
from triportrait.serve.media.video.nvdec import decoded_by_nvdec, why_not_nvdec
from triportrait.serve.media.video.timestamps import Clock

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DecoderChoice = Literal["auto", "av", "dali", "nvdec"]
FilmDecoder = Literal["av", "dali", "nvdec"]


@dataclass(frozen=True)
class Decoding:
    """Says who is asked to decode films.

    Attributes:
        choice: `av` is libav on the CPU; `nvdec` and `dali` are tried for each film; `auto` is NVDEC where the network
            runs on a GPU, as it keeps all that the file says, which DALI does not read.
        gpu: the number of the GPU that the network runs on; None on a CPU, where DALI decodes on the CPU.
    """

    choice: DecoderChoice = "av"
    gpu: int | None = None

    @classmethod
    def on(cls, choice: DecoderChoice, device: torch.device) -> Decoding:
        """Return the choice beside a network on `device`."""
        return cls(choice, (device.index or 0) if device.type == "cuda" else None)

    @property
    def wanted(self) -> FilmDecoder:
        """Return who decodes what can be decoded so."""
        if self.choice == "auto":
            return "av" if self.gpu is None else "nvdec"
        return self.choice


CPU_DECODES = Decoding()


def film_decoder(name: str, reads: Reads, decoding: Decoding, is_cut_off: bool, by_dts: bool) -> FilmDecoder:
    """Choose who decodes a film, by decoding its first pictures in both ways.

    Args:
        name: what the sentence in the log calls it.
        reads: opens the film, with or without hardware.
        is_cut_off: the file is shorter than its head says.
        by_dts: only the order of decoding is known of its pictures.
    """
    wanted = decoding.wanted
    if wanted == "av":
        return wanted
    if is_cut_off:
        why: str | None = "is cut off, and hardware shows damaged pictures differently"
    elif wanted == "nvdec":
        why = why_not_nvdec(reads, decoding.gpu or 0)
    else:
        why = why_not_dali(reads, decoding.gpu, by_dts)
    if why is None:
        return wanted
    logger.log(
        logging.INFO if decoding.choice == "auto" else logging.WARNING,
        "%s: %s; the CPU decodes it instead of %s", name, why, "NVDEC" if wanted == "nvdec" else "DALI",
    )  # fmt: skip
    return "av"


def decoded_by(
    decoder: FilmDecoder, reads: Reads, gpu: int | None, tally: Tally, clock: Clock, by_dts: bool,
    gives_up: Callable[[str], None],
) -> Iterator[av.VideoFrame]:  # fmt: skip
    """Decode a film on hardware as `decoding.decoded` does; from the first damage on the CPU decodes.

    Args:
        decoder: `nvdec` or `dali`.
        gives_up: hears why, in a few words, before the CPU takes over.
    """
    given, why = 0, None
    frames = (
        decoded_by_nvdec(reads, gpu or 0, tally, clock, by_dts)
        if decoder == "nvdec"
        else decoded_by_dali(reads, gpu, tally, clock)
    )
    with closing(frames):
        while True:
            try:
                frame = next(frames, None)
            except (av.FFmpegError, DaliFault) as error:
                why = f"its decoder fails ({line(error)})"
                break
            if tally.is_damaged:
                why = "is damaged, and hardware shows damaged pictures differently"
                break
            if frame is None:
                return
            yield frame
            given += 1
    gives_up(f"{why}; from picture {given + 1} on the CPU decodes it")
    tally.reset()
    with reads(None) as (container, stream):
        yield from islice(decoded(container, stream, tally, clock, by_dts), given, None)
