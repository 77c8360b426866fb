"""`triportrait doctor`: what is found, loads and runs; the card and its driver; weights as reenact would load them."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from triportrait import cli
from triportrait.core import gpus, optional_packages
from triportrait.core.weights import DEMO_FOLDER
from triportrait.serve import library_trials
from triportrait.serve.jobs import doctor
from triportrait.serve.library_trials import Trial, tried


@pytest.fixture
def untried(monkeypatch) -> None:
    """No library is tried: these tests ask for other rows, and each process takes seconds."""
    monkeypatch.setattr(doctor, "tried", lambda names: {name: Trial(True, "", "", "") for name in names})


def row(name: str, weights: str | Path | None = "rule") -> doctor.Finding:
    return {row.name: row for row in doctor.examine(None if weights is None else str(weights))}[name]


def test_a_row_for_everything(capsys, monkeypatch):
    """The one test that tries all that is installed here."""
    monkeypatch.delenv("TRIPORTRAIT_WEIGHTS", raising=False)
    assert cli.main(["doctor"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    for name in (
        "Python", "numpy", "torch", "CUDA", "Triton", "xFormers", "DALI", "DeepSpeed", "lpips", "live", "llvmlite",
        "provenance", "video", "weights",
    ):  # fmt: skip
        assert name in lines, name
        assert lines[name].split()[1] in ("ok", "missing", "none", "broken"), lines[name]
    assert lines["face"].split()[:3] in (["face", "models", verdict] for verdict in ("ok", "missing", "broken"))
    assert "loads, runs (on the CPU)" in lines["torch"]
    assert "H.264" in lines["video"]
    assert "; NVDEC " in lines["video"]
    assert "procedural heads alone" in lines["weights"]
    assert "reenact can run" in lines["reenact"]
    for name in ("Triton", "DeepSpeed", "lpips", "live", "llvmlite", "provenance"):
        assert lines[name].split()[1] == "missing" or ": loads" in lines[name], lines[name]


STUBS = {
    "crashes": ("import os; os.abort()", "broken", "does not load (it crashed: SIGABRT)"),
    "hangs": ("import time; time.sleep(60)", "broken", "no answer in 1.5 s"),
    "lacks a library": ("raise OSError('libx.so.1: cannot open')", "broken", "does not load (libx.so.1: cannot open)"),
    "lacks a module": ("import no_such_module", "missing", "without no_such_module; only for training"),
    "ends the process": ("import os; os._exit(0)", "broken", "does not load (it ended the process)"),
    "exits": ("raise SystemExit(3)", "broken", "does not load (3)"),
    "forged": ("print('triportrait trial: ' + 'x'); raise OSError('\\x1b[2Ja\\nb')", "broken", "(?[2Ja)"),
}


@pytest.mark.parametrize("case", STUBS)
def test_a_library_that_is_found_and_does_not_load(case, monkeypatch, tmp_path):
    source, verdict, said = STUBS[case]
    (tmp_path / "deepspeed").mkdir()
    (tmp_path / "deepspeed" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(library_trials, "TIMEOUT_S", 1.5 if case == "hangs" else 40.0)
    monkeypatch.setitem(library_trials.PROGRAMS, "DeepSpeed", "import deepspeed\nloads()")
    began = time.monotonic()
    trial = tried(("DeepSpeed",))["DeepSpeed"]
    assert time.monotonic() - began < 20
    assert not trial.loads
    library = next(one for one in doctor.LIBRARIES if one.name == "DeepSpeed")
    finding = doctor._with_trial(doctor.Finding(library.name, "ok", "0.19.8"), trial)
    assert finding.verdict == verdict, finding
    assert said in finding.detail, finding
    assert finding.detail.isprintable(), finding


def test_what_is_missing_has_its_command(untried, monkeypatch):
    def absent(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", absent)
    rows = {row.name: row for row in doctor.examine(None)}
    for name, extra in (
        ("torch", "cpu"), ("xFormers", "xformers"), ("DALI", "dali"), ("live", "serve"), ("llvmlite", "faces"),
        ("provenance", "provenance"), ("lpips", "train"),
    ):  # fmt: skip
        assert rows[name].verdict == "missing", rows[name]
        assert f"pip install -e '.[{extra}]'" in rows[name].detail, rows[name]
    assert rows["weights"].verdict == "none"
    assert not doctor.can_run(rows)


@pytest.mark.parametrize(
    ("version", "verdict"), [((3, 10), "other"), ((3, 11), "ok"), ((3, 14), "ok"), ((3, 15), "other")]
)
def test_the_pythons_that_were_tried(version, verdict, monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (*version, 0))
    monkeypatch.setattr(doctor.platform, "python_version", lambda: f"{version[0]}.{version[1]}.0")
    found = doctor._python()
    assert found.verdict == verdict
    assert found.detail.startswith(f"{version[0]}.{version[1]}.0")
    assert found.detail.endswith(", tried with 3.11 to 3.14") is (verdict == "other")


def test_numpy_that_does_not_load(untried, monkeypatch):
    original = doctor.importlib.import_module

    def broken(name):
        if name == "numpy":
            raise ImportError("libscipy_openblas64_.so: cannot open shared object file")
        return original(name)

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    found = row("numpy")
    assert found.verdict == "broken"
    assert "does not load (libscipy_openblas64_.so" in found.detail
    monkeypatch.undo()
    assert doctor._numpy() == ("numpy", "ok", np.__version__)


def test_a_version_outside_the_range_is_said(untried, monkeypatch):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "9.1.0")
    assert row("Triton").verdict == "other"
    assert "written for 3.6 up to below 3.10" in row("Triton").detail
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.15.0")
    assert row("torch").verdict == "ok"


@pytest.mark.parametrize("text", ["", "Name: xformers\n"])
def test_metadata_without_a_version_is_said(text, untried, monkeypatch, tmp_path):
    """As an installation leaves it that was stopped."""
    (tmp_path / "xformers-0.0.35.dist-info").mkdir()
    (tmp_path / "xformers-0.0.35.dist-info" / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    found = row("xFormers")
    assert found.verdict == "other"
    assert "names no version" in found.detail


def test_broken_video_is_said_first(untried, monkeypatch):
    original = doctor.importlib.import_module

    def broken(name):
        if name == "av":
            raise ImportError("libav.so: cannot open shared object file")
        return original(name)

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    rows = {row.name: row for row in doctor.examine("rule")}
    assert rows["video"].verdict == "missing"
    assert "libav.so" in rows["video"].detail
    assert doctor._summary(rows).startswith("reenact cannot run")


class TestWeights:
    """The row says what reenact says, and what cannot be loaded is exit code 1."""

    def test_what_is_found(self, untried, capsys, tiny_weights):
        assert cli.main(["doctor", "--weights", str(tiny_weights)]) == 0
        assert "motion, portrait" in capsys.readouterr().out
        assert row("weights", "rule").verdict == "ok"
        assert "to check the installation" in row("weights", "rule").detail

    def test_the_environment_counts(self, untried, tiny_weights, monkeypatch, tmp_path):
        monkeypatch.setenv("TRIPORTRAIT_WEIGHTS", str(tiny_weights))
        assert row("weights", None).detail.startswith(str(tiny_weights))
        monkeypatch.setenv("TRIPORTRAIT_WEIGHTS", str(tmp_path / "none"))
        assert cli.main(["doctor"]) == 1

    @pytest.mark.parametrize("damage", ["none", "empty", "truncated", "no card", "half a card", "not finite"])
    def test_what_reenact_refuses(self, damage, untried, tmp_path, capsys, portrait_file):
        from safetensors.torch import load_file, save_file

        folder = tmp_path / "w"
        file, card = folder / "motion.safetensors", folder / "motion.json"
        if damage == "empty":
            folder.mkdir()
        elif damage != "none":
            shutil.copytree(DEMO_FOLDER, folder)
        if damage == "truncated":
            file.write_bytes(file.read_bytes()[:-1])
        elif damage == "no card":
            card.unlink()
        elif damage == "half a card":
            card.write_text(card.read_text()[:30])
        elif damage == "not finite":
            tensors = load_file(file)
            name = sorted(tensors)[0]
            save_file(tensors | {name: torch.full_like(tensors[name], float("nan"))}, file)
        job = ["reenact", str(portrait_file), str(portrait_file), str(tmp_path / "out.png"), "--faces", "none"]
        assert cli.main([*job, "--weights", str(folder)]) == 2
        sentence = capsys.readouterr().err.strip().splitlines()[-1].removeprefix("triportrait: ")
        assert cli.main(["doctor", "--weights", str(folder)]) == 1
        said = capsys.readouterr().out
        assert f"weights      broken   {sentence}\n" in said
        assert "--weights demo takes the package's own" in said


class TestCard:
    """A card that torch does not use is said, with the reason and what to do."""

    @pytest.fixture
    def machine(self, tmp_path, monkeypatch):
        """A machine whose nvidia-smi lists a card, with a torch that was built for some CUDA."""

        def made(driver: str, cuda: str | None, prints: str | None = None) -> None:
            tool = tmp_path / "bin" / "nvidia-smi"
            tool.parent.mkdir(exist_ok=True)
            tool.write_text(f"#!/bin/sh\n{prints or f'echo NVIDIA A100-SXM4-80GB, {driver}'}\n")
            tool.chmod(0o755)
            monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            monkeypatch.setattr(torch.version, "cuda", cuda)
            monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

        return made

    @pytest.mark.parametrize(
        "driver, cuda, verdict, words",
        [
            ("535.129.03", "13.0", "broken", ("CUDA 13.0", "580", "whl/cu126")),
            ("570.86.15", "13.2", "broken", ("580 or newer", "whl/cu126")),
            ("470.57.02", "12.6", "broken", ("525 or newer: update it",)),
            ("580.65.06", "13.0", "broken", ("CUDA 13.0 does not start (",)),
            ("535.129.03", None, "missing", ("a build for CPUs", "pip install -e '.[gpu]'", "whl/cu126")),
        ],
    )
    def test_why(self, driver, cuda, verdict, words, machine, untried, caplog):
        machine(driver, cuda)
        found = row("CUDA")
        assert found.verdict == verdict
        assert f"NVIDIA A100-SXM4-80GB, {driver}" in found.detail
        assert all(word in found.detail for word in words), found.detail
        assert ("cu126" in found.detail) == any("cu126" in word for word in words)
        assert gpus.chosen_device("auto").type == "cpu"
        (message,) = caplog.messages
        assert message.startswith(f"NVIDIA A100-SXM4-80GB, {driver} is not used: ")

    def test_jobs_say_so(self, machine, capsys, tmp_path, portrait_file):
        machine("535.129.03", "13.0")
        job = ["reenact", str(portrait_file), str(portrait_file), str(tmp_path / "out.png"), "--faces", "none"]
        assert cli.main(job) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "NVIDIA" in line]
        assert len(said) == 1
        assert "580 or newer" in said[0]
        assert cli.main([*job, "--device", "cpu", "--overwrite"]) == 0
        assert "NVIDIA" not in capsys.readouterr().err
        assert cli.main([*job, "--device", "cuda", "--overwrite"]) == 2
        assert "--device cuda: NVIDIA A100" in capsys.readouterr().err

    def test_a_training_says_so(self, machine, caplog):
        from triportrait.train.engines.ranks import process_group

        machine("535.129.03", "13.0")
        with process_group():
            assert "NVIDIA A100" in caplog.text

    def test_a_hidden_card_and_a_tool_that_fails_are_no_warning(self, machine, monkeypatch, caplog):
        machine("", "13.0", "echo 'NVIDIA-SMI has failed'; exit 9")
        gpus.chosen_device("auto")
        machine("535.129.03", "13.0")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        gpus.chosen_device("auto")
        assert not caplog.messages


def test_a_wheel_names_the_packages_of_an_extra(tmp_path, monkeypatch):
    """No index has the wheel's own name; a stranger could take it."""
    monkeypatch.setattr(optional_packages, "_ROOT", tmp_path)
    told = ["numpy>=1", 'fastapi>=0.163; extra == "serve"', 'aiortc==1; extra == "serve"', 'x; extra == "mesh"']
    told.append('y==2; platform_system == "Plan 9" and extra == "serve"')
    monkeypatch.setattr(optional_packages.metadata, "requires", lambda name: told)
    assert optional_packages.install("serve") == "pip install 'fastapi>=0.163' 'aiortc==1'"
    (tmp_path / "pyproject.toml").touch()
    assert optional_packages.install("serve") == "pip install -e '.[serve]'"


def test_hints_name_no_package_of_the_index():
    root = Path(__file__).parents[2]
    for folder in ("core", "kernels", "serve", "train", "profiling"):
        for path in (root / folder).rglob("*.py"):
            assert "triportrait[" not in path.read_text(), path
