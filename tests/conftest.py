"""What every test shares: kernels that are interpreted, cores shared by workers, tables printed after the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest
import torch

# Workers of `pytest -n` share the cores, and so do the processes that they start.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(workers)))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# Kernels are interpreted, on tensors of the CPU, but for a run with `-m gpu`. Triton reads it when a kernel is defined,
# and a conftest further down may import triportrait before pytest has parsed its options.
_AT = next((i for i, argument in enumerate(sys.argv) if i and argument.startswith("-m")), None)
_MARK = "" if _AT is None else sys.argv[_AT][2:] or "".join(sys.argv[_AT + 1 : _AT + 2])
if "gpu" not in _MARK or "not gpu" in _MARK:
    os.environ["TRITON_INTERPRET"] = "1"

LONGEST = "test_overfit.py"
_TABLES: dict[str, list[tuple[str, ...]]] = {}


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keys that tests make do not go into the user's settings."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("settings"))
    os.environ.pop("TRIPORTRAIT_CERTIFICATE", None)


@pytest.fixture(autouse=True)
def quiet_torch() -> None:
    """No test depends on a random state or a gradient mode that another test left behind."""
    torch.manual_seed(0)
    torch.set_grad_enabled(True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Whole files, in the order of the list: what one file trains is trained once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != LONGEST)  # no worker begins it when the other has nothing left
    for item in items:
        if item.get_closest_marker("gpu"):
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
            elif os.environ.get("TRITON_INTERPRET") == "1":
                item.add_marker(pytest.mark.skip(reason="kernels are interpreted in this run; pytest -m gpu"))


@pytest.fixture
def record_row(request: pytest.FixtureRequest) -> Callable[[str, tuple[str, ...]], None]:
    """`record_row(table, row)` adds a row to a table that is printed when all tests have run."""

    def record(table: str, row: tuple[str, ...]) -> None:
        request.node.user_properties.append(("row", [table, *map(str, row)]))

    return record


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":  # reports travel from the workers to where the tables are printed
        for name, value in report.user_properties:
            if name == "row":
                table, *row = value
                _TABLES.setdefault(table, []).append(tuple(row))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for table, rows in _TABLES.items():
        terminalreporter.section(table)
        widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
        for row in sorted(rows):
            terminalreporter.line(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
            )
