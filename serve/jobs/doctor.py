"""`triportrait doctor`: one screen that says what this machine can run, and what to install for the rest."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from triportrait.core.errors import InputError
from triportrait.core.faces.models import BLENDSHAPES_FOLDER, COMMAND, MODELS, load_model, models_folder, models_state
from triportrait.core.gpus import first_gpu, why_unused
from triportrait.core.optional_packages import install, line
from triportrait.core.safe_text import LONGEST_SENTENCE, shown
from triportrait.core.weights import DEMO, DEMO_FOLDER, KNOWS, named_weights
from triportrait.serve.library_trials import Trial, tried

Verdict = Literal["ok", "other", "missing", "broken", "none"]


class Finding(NamedTuple):
    """Says in one row what was looked at, how it is, and what to do about it."""

    name: str
    verdict: Verdict
    detail: str


class Library(NamedTuple):
    """Names a library that is looked for.

    Attributes:
        packages: those that may hold it. least, below: the versions that triportrait is written for.
        extra: the extra of triportrait that installs it. use: what it is for, for the row of one that is missing.
        mend: the end of the row of one that does not run: what to do, or why nothing is to be done.
    """

    name: str
    packages: tuple[str, ...]
    least: str
    below: str | None
    extra: str
    use: str
    mend: str = "; install it again"


LIBRARIES = (
    Library("torch", ("torch",), "2.11", "2.16", "cpu", "with a GPU the extra gpu, else "),
    Library("Triton", ("triton",), "3.6", "3.10", "cpu", "comes with the extra cpu or gpu: ",
            "; a C compiler is needed beside it; without it PyTorch's operators run, slower"),
    Library("xFormers", ("xformers",), "0.0.35", None, "xformers", "only with a GPU, where PyTorch's does as well: ",
            "; PyTorch's attention runs, nothing is lost"),
    Library("DALI", ("nvidia-dali-cuda130", "nvidia-dali-cuda120"), "2.1.0", None, "dali",
            "only for training on clips and --decoder dali: ", "; PyAV decodes instead"),
    Library("DeepSpeed", ("deepspeed",), "0.19.8", None, "train", "only for training: "),
    Library("lpips", ("lpips",), "0.1.4", None, "train", "only for training: "),
    Library("live", ("fastapi",), "0.163", None, "serve", "only for `triportrait live`: "),
    Library("llvmlite", ("llvmlite",), "0.45", None, "faces", "finds faces on a CPU in a third of the time: ",
            "; PyTorch runs the networks that find faces, slower"),
    Library("provenance", ("c2pa-python",), "0.38.1", "0.39", "provenance", "only for manifests: "),
)  # fmt: skip


@dataclass(frozen=True)
class Doctor:
    """Say what this machine can run: Python, torch, the GPU, which libraries are found, load and run, the networks that
    find faces, video codecs, weights."""

    weights: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Weights folder to load, `demo` or `rule`. Default: $TRIPORTRAIT_WEIGHTS, else `demo`."""

    def run(self) -> int:
        """Print the screen; 1 where reenact cannot run with these weights, else 0."""
        findings = list(examine(self.weights))
        width = max(len(f.name) for f in findings)
        for finding in findings:
            print(shown(f"{finding.name:{width}}  {finding.verdict:7}  {finding.detail}", LONGEST_SENTENCE))
        rows = {finding.name: finding for finding in findings}
        print(f"\n{_summary(rows)}")
        return 0 if can_run(rows) else 1


def examine(weights: str | None) -> Iterator[Finding]:
    """Give all rows. What is installed is tried in a process of its own, so that none of it can end this one."""
    packages = {library.name: _package(library) for library in LIBRARIES}
    installed = [name for name, row in packages.items() if row.verdict != "missing"]
    has_card = "torch" in installed and first_gpu() is not None
    trials = tried(tuple([*installed, "video", *(["CUDA"] if has_card else [])]))
    rows = {name: _with_trial(row, trials.get(name)) for name, row in packages.items()}
    yield _python()
    yield Finding("machine", "ok", f"{platform.machine()}, {os.cpu_count()} cores, {_memory()}, {platform.system()}")
    yield _numpy()
    yield (torch := _torch(rows.pop("torch")))
    loads = torch.verdict in ("ok", "other")
    yield _cuda(loads, trials.get("CUDA"))
    yield from rows.values()
    yield _face_models(loads)
    yield _codecs(trials["video"])
    yield _weights(weights, loads)


def _python() -> Finding:
    version, least, newest = platform.python_version(), (3, 11), (3, 14)
    good = least <= sys.version_info[:2] <= newest
    tried_ones = f"tried with {'.'.join(map(str, least))} to {'.'.join(map(str, newest))}"
    return Finding("Python", "ok" if good else "other", version if good else f"{version}, {tried_ones}")


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "memory unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def _numpy() -> Finding:
    try:
        numpy = importlib.import_module("numpy")
    except Exception as error:
        return Finding("numpy", "broken", f"does not load ({line(error)}); pip install 'numpy>=1.26'")
    return Finding("numpy", "ok", numpy.__version__)


def _torch(row: Finding) -> Finding:
    if row.verdict in ("missing", "broken"):
        return row
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        return row._replace(verdict="broken", detail=f"{row.detail}, does not load ({line(error)}); install it again")
    return row._replace(detail=f"{row.detail}; {torch.get_num_threads()} threads")


def _cuda(loads: bool, trial: Trial | None) -> Finding:
    name_and_driver = first_gpu()
    if not loads:
        return Finding("CUDA", "none", f"{name_and_driver or 'no NVIDIA driver'}; torch is needed first")
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        names = [
            f"{torch.cuda.get_device_name(i)} (sm_{''.join(map(str, torch.cuda.get_device_capability(i)))}, "
            f"{torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)"
            for i in range(torch.cuda.device_count())
        ]
        driver = f", driver {name_and_driver.rpartition(',')[2].strip()}" if name_and_driver else ""
        detail = f"{torch.version.cuda}{driver}: {', '.join(names)}"
        if trial is not None and trial.fault:
            return Finding("CUDA", "broken", f"{detail}; {trial.words}; take a torch that was built for this card")
        return Finding("CUDA", "ok", detail if trial is None else f"{detail}; {trial.words}")
    if name_and_driver is None:
        return Finding("CUDA", "none", "no NVIDIA driver; the network runs on the CPU, seconds a frame")
    fault = ""
    if torch.version.cuda is not None:
        try:
            torch.cuda.init()
        except Exception as error:
            fault = line(error)
    verdict: Verdict = "missing" if torch.version.cuda is None else "broken"
    return Finding("CUDA", verdict, f"{name_and_driver}: {why_unused(name_and_driver, torch.version.cuda, fault)}")


def _package(library: Library) -> Finding:
    for package in library.packages:
        try:
            version: str | None = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        except KeyError:  # importlib.metadata is to raise it where it gives None today
            version = None
        if not version:  # an interrupted installation leaves this
            return Finding(library.name, "other", f"its metadata names no version{library.mend}")
        if _numbers(version) < _numbers(library.least) or (
            library.below and _numbers(version) >= _numbers(library.below)
        ):
            upto = f" up to below {library.below}" if library.below else ""
            return Finding(library.name, "other", f"{version}, written for {library.least}{upto}")
        return Finding(library.name, "ok", version)
    return Finding(library.name, "missing", f"{library.use}{install(library.extra)}")


def _with_trial(row: Finding, trial: Trial | None) -> Finding:
    """Add to a library's row how it did when it was tried."""
    if trial is None:
        return row
    if not trial.fault:
        return row._replace(detail=f"{row.detail}: {trial.words}")
    library = next(library for library in LIBRARIES if library.name == row.name)
    if trial.missing:
        advice = f"{library.use}{install(library.extra)}"
        return row._replace(verdict="missing", detail=f"{row.detail}, without {trial.missing}; {advice}")
    return row._replace(verdict="broken", detail=f"{row.detail}: {trial.words}{library.mend}")


def _face_models(loads: bool) -> Finding:
    """Tell whether the networks that find faces are in the cache, and load them if torch does."""
    try:
        state = models_state()
        if state.verdict == "missing":
            return Finding(
                "face models", "missing", f"none in {state.folder}; to find faces in raw pictures and videos: {COMMAND}"
            )
        if state.verdict == "damaged":
            return Finding("face models", "broken", f"{state.folder}: {state.detail}; {COMMAND}")
        if loads:
            for name in MODELS:
                load_model(name)
            importlib.import_module("triportrait.core.faces.task_file").load_blendshapes()
    except InputError as error:
        return Finding("face models", "broken", str(error))
    blendshapes = "; and that of blendshapes" if models_folder(BLENDSHAPES_FOLDER).exists() else ""
    return Finding("face models", "ok", f"{len(MODELS)} networks in {state.folder}{blendshapes}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


# what people know -> decoder, encoder
CODECS = {
    "H.264": ("h264", "libx264"),
    "HEVC": ("hevc", None),
    "VP9": ("vp9", "libvpx-vp9"),
    "AV1": ("av1", None),
    "AAC": ("aac", "aac"),
}


def _codecs(trial: Trial) -> Finding:
    fault = trial.fault
    if not fault:
        try:
            av = importlib.import_module("av")
        except Exception as error:
            fault = line(error)
    if fault:
        return Finding("video", "missing", f"PyAV does not load ({fault}); pip install 'av>=18,<19'")

    def has(codec: str | None, mode: str) -> bool:
        try:
            return codec is not None and av.Codec(codec, mode) is not None
        except ValueError:  # PyAV's UnknownCodecError
            return False

    reads = [name for name, (decoder, _) in CODECS.items() if has(decoder, "r")]
    writes = [name for name, (_, encoder) in CODECS.items() if has(encoder, "w")]
    hardware = f"; {trial.runs}" if trial.runs else ""
    verdict: Verdict = "ok" if {"H.264", "AAC"} <= set(reads) & set(writes) else "broken"
    return Finding(
        "video", verdict, f"PyAV {av.__version__}: reads {' '.join(reads)}; writes {' '.join(writes)}{hardware}"
    )


def _weights(weights: str | None, loads: bool) -> Finding:
    """Tell whether the weights that a job would take can be loaded, by loading them."""
    named = named_weights(weights)
    if named == "rule":
        return Finding("weights", "ok", "rule: made from the tensors' names to check the installation; noise")
    if not loads:
        return Finding("weights", "none", f"{named}: torch is needed first")
    try:
        _, encoder = importlib.import_module("triportrait.serve.weight_loading").load_weights(named)
    except InputError as error:
        return Finding("weights", "broken", str(error))
    if named == DEMO and not weights:
        return Finding("weights", "ok", KNOWS.removeprefix("weights "))
    folder = DEMO_FOLDER if named == DEMO else Path(named)
    kinds = sorted(path.stem for path in folder.glob("[!.]*.safetensors"))
    reads = "parameters" if encoder.crop_size is None else f"crops of {encoder.crop_size} px"
    motion = f"{encoder.motion_width} numbers of {reads} by the motion encoder {encoder.name}"
    return Finding("weights", "ok", f"{folder}: {', '.join(kinds)}; {motion}")


def _summary(rows: dict[str, Finding]) -> str:
    working = _working(rows)
    if not {"torch", "video"} <= working:
        return "reenact cannot run: see the rows torch and video."
    where = "on the GPU" if "CUDA" in working else "on the CPU"
    if "weights" in working:
        return f"reenact can run {where}."
    return (
        f"reenact can run {where}, but not with these weights; --weights demo takes the package's own, --weights rule "
        "checks the installation without any."
    )


def can_run(rows: dict[str, Finding]) -> bool:
    """Tell whether reenact runs with the weights that it would take."""
    return {"torch", "video", "weights"} <= _working(rows)


def _working(rows: dict[str, Finding]) -> set[str]:
    return {name for name, row in rows.items() if row.verdict in ("ok", "other")}
