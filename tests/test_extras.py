"""What the extras install is used: a package that no code imports is weight for nothing."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {  # package -> what code imports of it, where the names differ
    "pillow": "PIL", "nvidia-dali-cuda130": "nvidia.dali", "prometheus-client": "prometheus_client",
    "scikit-image": "skimage", "fast-simplification": "fast_simplification", "c2pa-python": "c2pa",
    "torch-fidelity": "torch_fidelity", "tensorboard": "torch.utils.tensorboard",
}  # fmt: skip
TOOLS = {  # of tests: package -> where it is used, and the word there
    "pytest-xdist": ("README.md", "pytest -n"), "pytest-benchmark": ("tests/benchmarks", "benchmark"),
    "mypy": (".ci/run", "bin/mypy"), "ruff": (".ci/run", "bin/ruff"), "build": (".ci/run", "-m build"),
}  # fmt: skip


def named(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found[0].lower()


@cache
def imported(folders: tuple[str, ...]) -> set[str]:
    """Every module that a file of these folders imports, by a statement or by its name in text."""

    def names(path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
                yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))

    found = {name for folder in folders for path in (ROOT / folder).rglob("*.py") for name in names(path)}
    return found | {".".join(parts[:n]) for parts in (name.split(".") for name in found) for n in range(1, len(parts))}


CODE = ("kernels", "core", "train", "serve", "profiling")
OURS = [(extra, one) for extra, wanted in PROJECT["optional-dependencies"].items() if extra != "test" for one in wanted]


@pytest.mark.parametrize("extra, requirement", [("", one) for one in PROJECT["dependencies"]] + OURS)
def test_a_package_that_is_installed_is_imported(extra, requirement):
    name = named(requirement)
    assert MODULES.get(name, name) in imported(CODE), f"no code imports {name} of the extra {extra!r}"


@pytest.mark.parametrize("requirement", PROJECT["optional-dependencies"]["test"])
def test_a_package_of_the_tests_is_used_by_them(requirement):
    name = named(requirement)
    if name not in TOOLS:
        assert name in imported(("tests",))
        return
    place, word = TOOLS[name]
    path = ROOT / place
    assert any(word in file.read_text() for file in ([path] if path.is_file() else path.rglob("*.py")))


def test_no_python_and_no_numpy_is_shut_out_from_above():
    assert PROJECT["requires-python"] == ">=3.11"
    wanted = [*PROJECT["dependencies"], *(one for ones in PROJECT["optional-dependencies"].values() for one in ones)]
    assert [one for one in wanted if named(one) == "mediapipe" or (named(one) == "numpy" and "<" in one)] == []


@pytest.mark.parametrize("place", ["README.md", "CONTRIBUTING.md", ".ci", "docs", *CODE])
def test_commands_name_extras_that_install_something(place):
    path = ROOT / place
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in ("", ".md", ".py")]
    for file in (file for file in files if file.is_file()):
        for extras in re.findall(r"pip.{0,40} '?\.\[([a-z,]+)\]", file.read_text()):
            for extra in extras.split(","):
                assert PROJECT["optional-dependencies"].get(extra), f"{file}: .[{extra}]"
