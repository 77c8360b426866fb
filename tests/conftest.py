"""What every test shares: kernels interpreted but for `-m gpu`, cores shared by workers, tables after the run."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import torch
from _pytest.mark.expression import Expression

from tests.signals import signals_kept

# Workers of `pytest -n` share the cores, and so do the processes that they start.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(workers)))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

LONGEST = (  # files of minutes, in the order in which workers begin them
    "test_overfit.py", "test_fake_gpu.py", "test_operators.py", "test_films_end_to_end.py", "test_ranks.py",
    "test_compile_table.py", "test_genhead_training.py", "test_ablations.py", "test_faults.py", "test_zero.py",
)  # fmt: skip
SHOWN_FILES, SHOWN_SECONDS = 40, 10  # of the table of the longest files
INTERPRETED = "kernels are interpreted in this run, say pytest -m gpu (and no other marks)"
_TABLES: dict[str, list[tuple[str, ...]]] = {}
_SECONDS: Counter[str] = Counter()  # of each file, on whichever worker
_ABSENT = re.compile(r"^E +ModuleNotFoundError: No module named '((?!triportrait|tests)[^']+)'", re.M)
_COMPILED = pytest.StashKey[bool]()
_FOLDERS = pytest.StashKey[dict[Path, pytest.Collector]]()


def wants_gpu(expression: str) -> bool:
    """Whether a mark expression (`-m`) takes tests of a GPU and no others; `first` are some of them."""
    if not expression:
        return False
    chosen = Expression.compile(expression)

    def takes(*marks: str) -> bool:
        return chosen.evaluate(lambda name, **_: name in marks)

    return any(takes("gpu", *more) for more in ((), ("full",), ("first",))) and not (takes() or takes("full"))


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Kernels are interpreted, on tensors of the CPU, but for a run with `-m gpu`, wherever that is said.

    Triton reads its variable when a kernel is defined, and a conftest further down may import triportrait before all
    options are parsed: this hook is called before those are loaded, when the marks are known, in workers of xdist too.
    """
    config = pluginmanager.getplugin("pytestconfig")
    try:
        compiled = wants_gpu(getattr(config.known_args_namespace, "markexpr", ""))
    except SyntaxError:  # pytest says so
        compiled = False
    config.stash[_COMPILED] = compiled
    if compiled:
        os.environ.pop("TRITON_INTERPRET", None)
    else:
        os.environ["TRITON_INTERPRET"] = "1"


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


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A command that was stopped ignores further signals, as its process is about to end: here the process goes on."""
    with signals_kept():
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Whole files, in the order of the list: what one file trains is trained once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collect_directory(
    path: Path, parent: pytest.Collector
) -> Generator[None, pytest.Collector, pytest.Collector]:
    """Keep one node of each folder, however its files are named.

    `A/x B/y A/z` makes two nodes of A, and pytest 9.1 ties the fixtures of its conftest to the first alone.
    """
    folder = yield
    return parent.session.stash.setdefault(_FOLDERS, {}).setdefault(path, folder)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Where GPUs are, little more than torch and Triton may be installed: what needs more is skipped in such a run."""
    report = yield
    absent = _ABSENT.search(report.longreprtext) if report.failed else None
    if absent and collector.config.stash[_COMPILED]:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: could not import {absent[1]!r}")
    return report


@pytest.hookimpl(trylast=True)  # when all that was not asked for is taken out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))  # none is begun when the other has nothing left
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    named = {argument.partition("[")[0] for argument in config.args if "::" in argument}
    expression = config.getoption("markexpr")
    for item in gpu:
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        elif not config.stash[_COMPILED]:
            own = str(item.path.relative_to(config.rootpath)) + "::" + item.nodeid.partition("::")[2].partition("[")[0]
            asked = len(gpu) == len(items) or any(own == n or own.startswith(f"{n}::") for n in named)
            if asked or re.search(r"\bgpu\b", expression.replace("not gpu", "")):
                item.stash[_COMPILED] = False  # no green run of what was asked for and did not run
            else:
                item.add_marker(pytest.mark.skip(reason=INTERPRETED))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if not item.stash.get(_COMPILED, True):
        pytest.fail(INTERPRETED, pytrace=False)


@pytest.fixture
def record_row(request: pytest.FixtureRequest) -> Callable[[str, tuple[str, ...]], None]:
    """`record_row(table, row)` adds a row to a table that is printed when all tests have run."""

    def record(table: str, row: tuple[str, ...]) -> None:
        request.node.user_properties.append(("row", [table, *map(str, row)]))

    return record


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _SECONDS[report.nodeid.partition("::")[0]] += report.duration
    if report.when == "teardown":  # reports travel from the workers to where the tables are printed
        for name, value in report.user_properties:
            if name == "row":
                table, *row = value
                _TABLES.setdefault(table, []).append(tuple(row))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    longest = [(name, seconds) for name, seconds in _SECONDS.most_common(SHOWN_FILES) if seconds >= SHOWN_SECONDS]
    if longest:
        title = f"seconds of the longest files, of {sum(_SECONDS.values()):,.0f} in all"
        _TABLES[title] = [(f"{seconds:6.0f}", name) for name, seconds in longest]
    for table, rows in _TABLES.items():
        terminalreporter.section(table)
        widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
        for row in sorted(rows):
            terminalreporter.line(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
            )


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Give torch two threads, whatever the workers share."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
