"""Time a reenacted frame, as the user waits for it: whole and part by part, with the source cached and not.

Ways: `eager fp32`, plain PyTorch; `eager tf32`, plain PyTorch with TF32 products; `compiled`, what `torch.compile`
makes of that; `ours`, the kernels with TF32 products; `ours bf16`, the kernels under bfloat16 autocast; `ours on a
CPU`, what runs where no kernel does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from triportrait.core.config import PRESETS, ModelConfig
from triportrait.core.psnr import psnr
from triportrait.kernels.dispatch import INTERPRETED, Backend
from triportrait.profiling.frame_parts import PARTS, Frame, make_frame, part_hooks
from triportrait.profiling.markdown import markdown_table
from triportrait.profiling.measurement import failure, numerics, percentiles, timed


class Way(NamedTuple):
    """How a frame is computed."""

    backend: Backend
    tf32: bool = True
    compiled: bool = False
    bf16: bool = False


WAYS = {
    "eager fp32": Way("reference", tf32=False),
    "eager tf32": Way("reference"),
    "compiled": Way("reference", compiled=True),
    "ours": Way("auto"),
    "ours bf16": Way("auto", bf16=True),
    "ours on a CPU": Way("auto", tf32=False),
}
MIN_DB = {"ours": 60.0, "ours bf16": 50.0, "ours on a CPU": 70.0}  # against eager fp32, of the picture's range
REPETITIONS = 20  # of a frame in parts
REPETITIONS_ON_CPU = 3  # of a whole frame, and of one in parts; an interpreted one takes seconds and runs once
BETWEEN = "between parts"

logger = logging.getLogger(__name__)


def config_for(device: str) -> ModelConfig:
    """Return the published network on a GPU, elsewhere one small enough to be interpreted: 64 px from 8 x 8 rays."""
    if device == "cuda":
        return PRESETS["portrait4d_v2"]()
    tiny = PRESETS["tiny"]()
    render = dataclasses.replace(tiny.render, plane_size=32, neural_size=8, superres_widths=(16, 16, 16))
    neck = dataclasses.replace(tiny.neck, fine_size=4, coarse_size=3)
    return dataclasses.replace(tiny, preset="bench", image_size=64, render=render, neck=neck)


def bench(config: ModelConfig, device: str) -> list[dict[str, Any]]:
    """Time a frame in each way; one that does not show the picture of `eager fp32` has no times.

    Args:
        config: the network's sizes.
        device: cuda or cpu; a CPU runs `eager fp32`, `ours on a CPU`, and `ours` where the kernels are interpreted
            and the network is no preset, but small.
    """
    frame = make_frame(config, device)
    rows, truth = [], None
    for name, way in WAYS.items():
        interpreted = name == "ours" and INTERPRETED and config.preset not in PRESETS
        on_cpu = interpreted or name in ("eager fp32", "ours on a CPU")
        on_gpu = name != "ours on a CPU"
        if not (on_gpu if device == "cuda" else on_cpu):
            continue
        logger.info("frame: %s", name)
        row: dict[str, Any] = {"way": name}
        rows.append(row)
        with _computed(way, name, device), torch.inference_mode():
            try:
                image = _whole(frame)()
            except Exception as error:  # a rival may fail, and its row says so
                row["red"] = failure(error)
                continue
            truth = image if truth is None else truth
            row["psnr_dB"] = round(_psnr(image, truth), 2)
            if row["psnr_dB"] < MIN_DB.get(name, 40.0):
                row["red"] = f"{row['psnr_dB']} dB against eager fp32, {MIN_DB.get(name, 40.0)} are wanted"
                continue
            try:
                row |= _times(frame, device, way.compiled, interpreted and device == "cpu")
            except Exception as error:
                row["red"] = failure(error)
    return rows


def _times(frame: Frame, device: str, compiled: bool, interpreted: bool) -> dict[str, Any]:
    source = frame.portrait.cache(frame.prepare())

    def cached() -> Tensor:
        return frame.render(frame.reenact(source))

    calls: dict[str, Callable[[], object]] = {"frame, source cached": cached}
    if not interpreted and not compiled:  # PyTorch's compiler takes minutes for each
        head = frame.reenact(source)
        calls = {
            "frame, nothing cached": _whole(frame),
            **calls,
            "new view of cached planes": lambda: frame.render(head),
        }
    if compiled:
        calls = dict.fromkeys(calls, _compiled(frame))
    limits = () if device == "cuda" else (0.0, 0, 1) if interpreted else (0.0, 1, REPETITIONS_ON_CPU)
    figures: dict[str, Any] = {name: timed([call], device, *limits) for name, call in calls.items()}
    if not compiled and not interpreted:  # hooks would break the graphs of one, and the other takes seconds
        figures["parts"] = _parts(frame, device)
        medians = {name: times["p50"] for name, times in figures["parts"].items()}
        figures["utilisation"] = utilisation(medians, figures["frame, source cached"]["p50"])
    return figures


def utilisation(parts_ms: dict[str, float], frame_ms: float) -> dict[str, float]:
    """Divide the time of a frame whose source is cached among its parts.

    Args:
        parts_ms: of each part; those that run once per source are left out.
        frame_ms: of the whole frame.

    Returns:
        The share of each part, largest first, and under `BETWEEN` what no part takes: the host's launches, and what
        lies between modules. Together they are 1, unless the parts took longer alone than the frame did.
    """
    shares = {name: ms / frame_ms for name, ms in parts_ms.items() if PARTS.get(name) != "source"}
    shares[BETWEEN] = max(0.0, 1 - sum(shares.values()))
    return {name: round(share, 4) for name, share in sorted(shares.items(), key=lambda each: -each[1])}


def compile_once(config: ModelConfig, device: str) -> int:
    """Let PyTorch compile the frame that is timed; its cache keeps what it makes. Return 1 if it failed, else 0."""
    frame = make_frame(config, device)
    try:
        with _computed(WAYS["compiled"], "compiled", device), torch.inference_mode():
            _compiled(frame)()
    except Exception:  # its row says why
        return 1
    return 0


def _compiled(frame: Frame) -> Callable[[], Tensor]:
    source = frame.portrait.cache(frame.prepare())
    return torch.compile(lambda: frame.render(frame.reenact(source)), dynamic=False)


def times_of_parts(config: ModelConfig, way: str) -> dict[str, float]:
    """Measure the median milliseconds of each part on this GPU in one of the ways."""
    frame = make_frame(config, "cuda")
    with _computed(WAYS[way], way, "cuda"), torch.inference_mode():
        return {name: times["p50"] for name, times in _parts(frame, "cuda").items()}


def _parts(frame: Frame, device: str) -> dict[str, dict[str, float]]:
    """Measure the milliseconds of each part of a frame of which nothing is cached."""
    milliseconds: dict[str, list[float]] = {}
    gpu = device == "cuda"
    repetitions, warm_up = (REPETITIONS, 2) if gpu else (REPETITIONS_ON_CPU, 1)
    for repetition in range(repetitions + warm_up):
        marks: dict[str, list[Any]] = {}

        def mark(name: str, marks: dict[str, list[Any]] = marks) -> None:
            now: Any = torch.cuda.Event(enable_timing=True) if gpu else time.perf_counter()
            if gpu:
                now.record()
            marks.setdefault(name, []).append(now)

        with part_hooks(frame, mark, mark):
            _whole(frame)()
        if gpu:
            torch.cuda.synchronize()
        if repetition < warm_up:
            continue
        for name, at in marks.items():
            pairs = zip(at[::2], at[1::2], strict=True)
            milliseconds.setdefault(name, []).append(
                sum(start.elapsed_time(end) if gpu else 1e3 * (end - start) for start, end in pairs)
            )
    return {name: dataclasses.asdict(percentiles(each)) for name, each in milliseconds.items()}


def _whole(frame: Frame) -> Callable[[], Tensor]:
    return lambda: frame.render(frame.reenact(frame.prepare()))


@contextlib.contextmanager
def _computed(way: Way, name: str, device: str) -> Iterator[None]:
    """Compute frames in this way inside a `with` block."""
    backend: Backend = "triton" if name == "ours" and device == "cpu" else way.backend
    with numerics(backend, way.tf32), torch.autocast(device, torch.bfloat16, enabled=way.bf16):
        yield


def _psnr(image: Tensor, truth: Tensor) -> float:
    """Return the PSNR in dB, the peak being the truth's range; 99 where they are equal."""
    return min(99.0, psnr(image, truth, (truth.max() - truth.min()).item() or 1.0))


def table(rows: list[dict[str, Any]]) -> str:
    """Tabulate the rows: medians and tails in milliseconds, then the parts of a frame."""
    names = "frame, source cached", "frame, nothing cached", "new view of cached planes"
    columns = ["way", *(f"{name} p50 / p90 / p99 ms" for name in names), "peak MB", "dB to eager fp32"]
    lines = []
    for row in rows:
        if "red" in row:
            lines.append([row["way"], f"no figure: {row['red']}", "", "", "", row.get("psnr_dB", "-")])
            continue
        cells = [f"{row[n]['p50']:.2f} / {row[n]['p90']:.2f} / {row[n]['p99']:.2f}" if n in row else "-" for n in names]
        peak = row.get("frame, nothing cached", {}).get("peak_MB")
        lines.append([row["way"], *cells, "-" if peak is None else peak, row["psnr_dB"]])
    whole, split = markdown_table(columns, lines), [row for row in rows if row.get("parts")]
    if not split:
        return whole
    parts = [[part, *(f"{row['parts'][part]['p50']:.3f}" for row in split)] for part in split[0]["parts"]]
    tables = f"{whole}\n{markdown_table(['part, p50 ms', *(row['way'] for row in split)], parts)}"
    busy = "".join(f"- {row['way']}: {_shares(row['utilisation'])}\n" for row in split if "utilisation" in row)
    return f"{tables}\nShares of a frame whose source is cached:\n\n{busy}" if busy else tables


def _shares(shares: dict[str, float]) -> str:
    """Word the shares of a frame from 1 % on, and name the largest."""
    listed = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items() if share >= 0.01)
    return f"{listed}; the bottleneck is {max(shares, key=shares.__getitem__)}."
