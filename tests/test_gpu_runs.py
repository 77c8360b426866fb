"""`pytest -m gpu` runs compiled kernels or says that it does not, and is collected where little is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import wants_gpu

ROOT = Path(__file__).parents[1]
ONE = "tests/core/test_attention.py"
NODE = f"{ONE}::test_xformers_agrees_with_torch"
PLUGIN = """
import sys
import torch

torch.cuda.is_available = lambda: {device}
ABSENT = {absent}

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Finder())
"""
ABSENT = (
    "PIL", "av", "tyro", "tqdm", "hypothesis", "deepspeed", "lpips", "torchvision", "torchmetrics", "mediapipe", "c2pa",
    "cryptography", "fastapi", "starlette", "uvicorn", "websockets", "aiortc", "prometheus_client", "lmdb", "nvidia",
    "tensorboard", "xformers", "skimage", "scipy",
)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Run pytest in a process of its own, on a made-up GPU; gives its exit code and what it says."""

    def call(*words: str, device: bool = True, absent: tuple[str, ...] = ("xformers",), addopts: str = ""):
        (tmp_path / "made_up.py").write_text(PLUGIN.format(device=device, absent=absent))
        environment = {n: v for n, v in os.environ.items() if not n.startswith(("PYTEST", "TRITON", "TRIPORTRAIT"))}
        environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "PYTEST_ADDOPTS": addopts}
        if "hypothesis" in absent:  # nor are there its plugins
            environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        command = [sys.executable, "-m", "pytest", "-p", "made_up", "-p", "no:cacheprovider", "-q", "-rs", *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return call


def test_the_first_tests_are_compiled_in_workers_too(run):
    """There is no GPU here: they end at the first thing that they ask of one, and none says that it is interpreted."""
    code, said = run("-n", "1", "-m", "first", "tests/test_first_on_gpu.py")
    assert code == 1, said
    assert "interpreted" not in said, said
    assert "9 failed" in said, said


@pytest.mark.parametrize("words, addopts", [(("-n", "1", "-m", "gpu", ONE), ""), ((ONE,), "-m gpu")])
def test_gpu_tests_are_compiled_where_they_are_asked_for(words, addopts, run):
    code, said = run(*words, addopts=addopts)
    assert code == 0, said
    assert "interpreted" not in said, said
    assert "1 skipped" in said, said
    assert "needs xFormers" in said, said


@pytest.mark.parametrize("words", [(NODE, f"{ONE}::test_who_computes_it"), ("-k", "xformers_agrees", ONE)])
def test_what_was_asked_for_and_cannot_run_is_no_green(words, run):
    code, said = run(*words)
    assert code == 1, said
    assert "kernels are interpreted in this run, say pytest -m gpu" in said, said


def test_little_is_needed_to_collect_the_tests_of_a_gpu(run):
    """torch, Triton, numpy, safetensors and pytest; folders named by themselves are read before all options are."""
    code, said = run("-m", "gpu", device=False, absent=ABSENT)
    assert code == 0, said[-3000:]
    assert "error" not in said.lower(), said[-3000:]
    assert "needs a CUDA device" in said, said[-3000:]
    assert "could not import 'PIL'" in said
    code, said = run("-m", "gpu", "tests/serve", device=False, absent=ABSENT)
    assert code in (0, 5), said[-3000:]
    assert "error" not in said.lower(), said[-3000:]


def test_what_is_missing_in_any_other_run_is_an_error(run):
    code, said = run("-m", "not gpu", "tests/train/test_loop.py", absent=ABSENT)
    assert code == 2, said
    assert "No module named 'PIL'" in said, said


def test_which_expressions_ask_for_a_gpu():
    for expression in ("first", "gpu and first", "gpu", "gpu and not full", "gpu and full", "(gpu)", "not (not gpu)"):
        assert wants_gpu(expression), expression
    for expression in ("", "not gpu", "full", "gpu or full", "full and not gpu", "not full"):
        assert not wants_gpu(expression), expression
