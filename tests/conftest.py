"""What every test shares: a pinned number of threads, and tables printed after the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

_TABLES: dict[str, list[tuple[str, ...]]] = {}


@pytest.fixture(autouse=True)
def quiet_torch() -> None:
    """No test depends on a random state or a gradient mode that another test left behind."""
    torch.manual_seed(0)
    torch.set_grad_enabled(True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def record_row() -> Callable[[str, tuple[str, ...]], None]:
    """`record_row(table, row)` adds a row to a table that is printed when all tests have run."""

    def record(table: str, row: tuple[str, ...]) -> None:
        _TABLES.setdefault(table, []).append(tuple(str(cell) for cell in row))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for table, rows in _TABLES.items():
        terminalreporter.section(table)
        widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
        for row in sorted(rows):
            terminalreporter.line(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
            )
