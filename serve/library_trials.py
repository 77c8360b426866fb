"""Libraries tried in processes of their own: whether each loads and runs. One that crashes ends its process alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

from triportrait.core.optional_packages import line

TIMEOUT_S = 40.0  # of one library, beside others on a busy machine
_MARK = "triportrait trial: "

# library -> a program that calls `loads()` when all is imported, and `runs(what)` when it has done something. Modules
# of ours are named in them where they hold what a library needs.
PROGRAMS = {
    "torch": """
import torch
loads()
assert (torch.ones(8, 8) @ torch.ones(8, 8)).sum() == 512
runs("on the CPU")
""",
    "CUDA": """
import torch
loads()
for i in range(torch.cuda.device_count()):
    x = torch.ones(64, 64, device=f"cuda:{i}")
    assert (x @ x).sum().item() == 64**3
runs("on every card")
""",
    "Triton": """
import os
os.environ.pop("TRITON_INTERPRET", None)
import torch, triton
from triportrait.kernels.language import HAVE_TRITON
from triportrait.kernels.trial_launch import launch
assert HAVE_TRITON
loads()
if torch.cuda.is_available():
    launch(torch.device("cuda", 0))
    runs("a kernel")
""",
    "xFormers": """
import warnings
import torch
from triportrait.core.reconstruct.attention import has_xformers, xformers_runs
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    if not has_xformers():
        raise ImportError(str(said[-1].message) if said else "it cannot be imported")
loads()
if torch.cuda.is_available():
    x = torch.ones(1, 64, 4, 64, device="cuda", dtype=torch.float16)
    if not xformers_runs(x, x, x):
        raise NotImplementedError("it has no operator for this card; PyTorch's attention runs")
    runs("attention")
""",
    "DALI": """
import torch
from nvidia import dali
loads()
from triportrait.train.data.clip_store.frames import dali_fault
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if (why := dali_fault(device)) is not None:
    raise RuntimeError(why)
runs("a clip decoded, by NVDEC" if device.type == "cuda" else "a clip decoded on the CPU")
""",
    "DeepSpeed": """
import os, torch
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
import deepspeed
loads()
""",
    "lpips": """
from triportrait.core.metrics.torchvision_ops import declare
declare()
import lpips
loads()
import torch
network, x = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False), torch.zeros(1, 3, 64, 64)
assert network(x, x).abs().max() < 1e-6
runs("a comparison")
""",
    "live": """
import fastapi, uvicorn, websockets, aiortc, prometheus_client
loads()
""",
    "llvmlite": """
import llvmlite
loads()
import torch
from triportrait.core.faces.cpu_sampling import sampled_bytes
level = torch.full((1, 3, 4, 4), 7, dtype=torch.uint8)
levels = sampled_bytes(level, torch.ones(1, 2, 2), torch.ones(1, 2, 2), "border", None)
assert levels is not None, "it compiles nothing for this CPU"
assert (levels == 7).all()
runs("a compiled function")
""",
    "provenance": """
import cryptography, c2pa
loads()
c2pa.sdk_version()
""",
    "video": """
import av
loads()
from triportrait.serve.media.video.nvdec_trial import nvdec_fault
why = nvdec_fault()
runs("NVDEC decodes films" if why is None else f"NVDEC does not open: a film {why}")
""",
}
_FRAME = """
import logging, sys
def said(*words):
    print({mark!r} + " ".join(words), file=sys.__stdout__, flush=True)
def loads():
    said("loads")
def runs(what):
    said("runs", what)
try:
    exec(compile({program!r}, "trial", "exec"))
except BaseException as error:
    name = "missing " + error.name if isinstance(error, ModuleNotFoundError) and error.name else "failed"
    text = next((part for part in map(str.strip, str(error).splitlines()) if part), "")
    said(name, "|", text or type(error).__name__)
    sys.exit(1)
"""


class Trial(NamedTuple):
    """How a library did.

    Attributes:
        loads: it was imported. runs: what it did, where it was to do something and did.
        fault: what it ended with, where it did not get through. missing: the module that was not there.
    """

    loads: bool
    runs: str
    fault: str
    missing: str

    @property
    def words(self) -> str:
        """Such as `loads, runs (a clip decoded)` or `loads, does not run (REASON)`."""
        if self.fault:
            return f"{'loads, does not run' if self.loads else 'does not load'} ({self.fault})"
        return f"loads, runs ({self.runs})" if self.runs else "loads"


def tried(names: tuple[str, ...]) -> Mapping[str, Trial]:
    """Try some of PROGRAMS, a few at a time; each has TIMEOUT_S seconds."""
    place = tuple(part for part in sys.path if part)
    with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 1))) as pool:
        return dict(zip(names, pool.map(lambda name: _try(PROGRAMS[name], place), names), strict=True))


@cache
def _try(program: str, place: tuple[str, ...]) -> Trial:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(place), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-c", _FRAME.format(mark=_MARK, program=program)], env=environment, text=True,
        errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    late = False
    try:
        said, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        late = True
        _end(process)
        said, _ = process.communicate()
    except BaseException:
        _end(process)
        raise
    told = [one.removeprefix(_MARK) for one in said.splitlines() if one.startswith(_MARK)]
    runs = next((one.removeprefix("runs ") for one in told if one.startswith("runs ")), "")
    faults = [one.partition(" | ") for one in told if " | " in one]
    fault = line(RuntimeError(faults[0][2])) if faults else ""
    if late:
        fault = f"no answer in {TIMEOUT_S:g} s"
    elif process.returncode and not fault:
        code = process.returncode
        fault = f"it crashed: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    elif not fault and "loads" not in told:
        fault = "it ended the process"
    missing = faults[0][0].removeprefix("missing ") if faults and faults[0][0].startswith("missing ") else ""
    return Trial("loads" in told, runs, fault, missing)


def _end(process: subprocess.Popen[str]) -> None:
    """It, and what it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
