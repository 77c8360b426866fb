"""`triportrait doctor`: one screen that says what this machine can run, and what to install for the rest."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from triportrait.core.errors import InputError
from triportrait.core.sentences import LONGEST_SENTENCE, shown
from triportrait.core.weights import DEMO, DEMO_FOLDER

Verdict = Literal["ok", "other", "missing", "broken", "none"]


class Finding(NamedTuple):
    """One row: what, how it is, and what to do about it."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Doctor:
    """Say what this machine can run: Python, torch, CUDA, Triton, xFormers, DALI, DeepSpeed, video codecs, weights."""

    weights: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Weights folder to look into, `demo` or `rule`. Default: $TRIPORTRAIT_WEIGHTS."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"], help_behavior_hint="")] = False
    """Show where an error came from."""

    def run(self) -> None:
        """Print the screen."""
        findings = list(examine(self.weights))
        width = max(len(f.name) for f in findings)
        for finding in findings:
            print(shown(f"{finding.name:{width}}  {finding.verdict:7}  {finding.detail}", LONGEST_SENTENCE))
        print(f"\n{_summary({f.name: f for f in findings})}")


def examine(weights: str | None) -> Iterator[Finding]:
    """All rows. Heavy packages are looked up, not imported, except torch, Triton and PyAV."""
    yield _python()
    yield Finding("machine", "ok", f"{platform.machine()}, {os.cpu_count()} cores, {_memory()}, {platform.system()}")
    yield _torch()
    yield _cuda()
    yield _package("Triton", "triton", "3.6", "3.8", "comes with the extra cpu or gpu")
    yield _package("xFormers", "xformers", "0.0.35", None, "only with a GPU: pip install 'triportrait[xformers]'")
    yield _dali()
    yield _package("DeepSpeed", "deepspeed", "0.19.8", None, "only for training: pip install 'triportrait[train]'")
    yield _package("lpips", "lpips", "0.1.4", None, "only for training: pip install 'triportrait[train]'")
    yield _package("C2PA", "c2pa-python", "0.38.1", "0.39", "only for manifests: pip install 'triportrait[provenance]'")
    yield _codecs()
    yield _weights(weights)


def _python() -> Finding:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding("Python", "ok" if good else "other", version if good else f"{version}; wanted 3.11 or 3.12")


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "memory unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def _torch() -> Finding:
    row = _package("torch", "torch", "2.11", "2.14", "pip install 'triportrait[cpu]', with a GPU triportrait[gpu]")
    if row.verdict in ("missing", "broken"):
        return row
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Finding(
            "torch", "broken", f"{row.detail} is installed but does not load ({_line(error)}); install it again"
        )
    return Finding("torch", row.verdict, f"{row.detail}, {torch.get_num_threads()} threads")


def _cuda() -> Finding:
    card = _nvidia_smi()
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError):
        return Finding("CUDA", "none", f"{card or 'no NVIDIA driver'}; torch is needed first")
    if torch.cuda.is_available():
        names = [
            f"{torch.cuda.get_device_name(i)} (sm_{''.join(map(str, torch.cuda.get_device_capability(i)))}, "
            f"{torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)"
            for i in range(torch.cuda.device_count())
        ]
        return Finding("CUDA", "ok", f"{torch.version.cuda}: {', '.join(names)}")
    if card and torch.version.cuda is None:
        return Finding(
            "CUDA", "missing", f"{card} is there, but this torch is a CPU build: pip install 'triportrait[gpu]'"
        )
    return Finding("CUDA", "none", f"{card or 'no NVIDIA driver'}; the network runs on the CPU, seconds a frame")


def _nvidia_smi() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines.splitlines()[0] if lines else None


def _package(name: str, package: str, least: str, below: str | None, advice: str) -> Finding:
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", advice)
    if _numbers(version) < _numbers(least) or (below is not None and _numbers(version) >= _numbers(below)):
        return Finding(
            name, "other", f"{version}; written for {least}{f' up to below {below}' if below else ''}; {advice}"
        )
    return Finding(name, "ok", version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


def _dali() -> Finding:
    for package in ("nvidia-dali-cuda130", "nvidia-dali-cuda120"):
        row = _package("DALI", package, "2.1.0", None, "")
        if row.verdict != "missing":
            return row
    return Finding("DALI", "missing", "only for training on clips: pip install 'triportrait[dali]'")


# what people know -> decoder, encoder
CODECS = {
    "H.264": ("h264", "libx264"),
    "HEVC": ("hevc", None),
    "VP9": ("vp9", "libvpx-vp9"),
    "AV1": ("av1", None),
    "AAC": ("aac", "aac"),
}


def _codecs() -> Finding:
    try:
        av = importlib.import_module("av")
    except (ImportError, OSError) as error:
        return Finding("video", "missing", f"PyAV does not load ({_line(error)}); pip install 'av>=18,<19'")

    def has(codec: str | None, mode: str) -> bool:
        try:
            return codec is not None and av.Codec(codec, mode) is not None
        except ValueError:  # PyAV's UnknownCodecError
            return False

    reads = [name for name, (decoder, _) in CODECS.items() if has(decoder, "r")]
    writes = [name for name, (_, encoder) in CODECS.items() if has(encoder, "w")]
    good = {"H.264", "AAC"} <= set(reads) & set(writes)
    return Finding(
        "video",
        "ok" if good else "broken",
        f"PyAV {av.__version__}: reads {' '.join(reads)}; writes {' '.join(writes)}",
    )


def _weights(weights: str | None) -> Finding:
    named = weights or os.environ.get("TRIPORTRAIT_WEIGHTS")
    advice = "triportrait convert FILE FOLDER, then --weights FOLDER or $TRIPORTRAIT_WEIGHTS"
    if not named:
        return Finding("weights", "missing", f"none are named; {advice}")
    if named == "rule":
        return Finding("weights", "ok", "rule: made from the tensors' names to check the installation; noise")
    folder = DEMO_FOLDER if named == DEMO else Path(named)
    if not folder.is_dir():
        what = "is a file, no weights folder" if folder.exists() else "no such folder"
        return Finding("weights", "missing", f"{folder}: {what}; {advice}")
    needed = ("portrait", "motion")
    found = sorted(p.stem for p in folder.glob("[!.]*.safetensors"))
    lacking = [kind for kind in needed if kind not in found and not (folder / f"{kind}.json").exists()]
    if lacking:
        held = f"holds {', '.join(found)}" if found else "holds no weights"
        return Finding("weights", "missing", f"{folder} {held}; lacking {', '.join(lacking)}: {advice}")
    for kind in sorted({*found, *needed}):
        fault = _fault(folder, kind)
        if fault is not None:
            return Finding("weights", "broken", fault)
    return Finding("weights", "ok", f"{folder}: {', '.join(found)}")


def _fault(folder: Path, kind: str) -> str | None:
    """What is wrong with the card and the header of one network; the tensors themselves are not read."""
    from safetensors import SafetensorError, safe_open

    path = folder / f"{kind}.safetensors"
    try:
        with path.open("rb"):  # safetensors calls everything that it cannot open missing
            pass
        with safe_open(path, framework="numpy") as file:
            if not file.keys():
                return f"{path}: holds no tensors; convert the weights again"
    except OSError as error:
        return f"{path}: it cannot be read ({error.strerror}); convert the weights again"
    except SafetensorError as error:
        return f"{path}: not a whole safetensors file ({_line(error)}); convert the weights again"
    try:
        # Only now: it needs torch, which has a row of its own.
        importlib.import_module("triportrait.core.checkpoint").read_card(folder, kind)
    except InputError as error:
        return str(error)
    except (ImportError, OSError):
        pass
    return None


def _summary(rows: dict[str, Finding]) -> str:
    works: Callable[[str], bool] = lambda name: rows[name].verdict in ("ok", "other")  # noqa: E731
    if not (works("torch") and works("video")):
        return "reenact cannot run: see the rows torch and video."
    where = "on the GPU" if works("CUDA") else "on the CPU"
    if works("weights"):
        return f"reenact can run {where}."
    return f"reenact can run {where} once there are weights; --weights rule checks the installation without them."


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
