"""The rules that a listing cannot show, checked on the source itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from triportrait.cli import JOBS

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[1]
FOLDERS = ("kernels", "core", "train", "serve", "profiling")
MAY_IMPORT: dict[str, set[str]] = {  # a folder -> what it may import besides itself
    "kernels": set(),
    "core": {"kernels"},
    "serve/media": {"core", "kernels"},
    "serve": {"core", "kernels"},
    "train": {"core", "kernels", "serve/media", "serve/faces"},
    "train/jobs": {"train", "core", "kernels", "serve"},  # a job may hand the library to what measures it
    "profiling": {"serve", "train", "core", "kernels"},
    "triportrait": {"serve", "train", "profiling", "core", "kernels"},
}
THIRD_PARTY = {  # folder -> packages it may import at module level
    "kernels": {"torch", "triton"},
    "core": {"torch", "numpy", "safetensors"},
    "train": {"torch", "numpy", "safetensors", "tyro"},
    "serve": {"torch", "numpy", "PIL", "av", "tyro", "tqdm"},
    "profiling": {"torch", "numpy", "tyro"},
    "triportrait": set(),
}
LONGEST = 500
FILES = [(folder, path) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
FILES += [("triportrait", path) for path in sorted((ROOT / "triportrait").glob("*.py"))]
NAMES = [str(path.relative_to(ROOT)) for _, path in FILES]
MODULES = sorted(
    "triportrait." + name.removesuffix(".py").removesuffix("/__init__").removeprefix("triportrait/").replace("/", ".")
    for name in NAMES
    if name not in ("triportrait/__init__.py", "triportrait/__main__.py")
)


def wing_of(path: Path) -> str:
    """The part of the house that a file lies in: the longest one that MAY_IMPORT names."""
    place = path.relative_to(ROOT).as_posix()
    return max((part for part in MAY_IMPORT if place.startswith(f"{part}/")), key=len)


def imports(tree: ast.AST, top_level: bool, for_types: bool = False) -> Iterator[str]:
    """Modules that a file imports: at its top level, with those for types alone if wanted, or anywhere."""
    nodes = list(tree.body) if top_level and isinstance(tree, ast.Module) else list(ast.walk(tree))
    for node in nodes:
        if for_types and isinstance(node, ast.If | ast.Try):
            nodes.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write absolute imports"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder, path", FILES, ids=NAMES)
def test_a_file_imports_downwards_and_is_short(folder, path):
    source = path.read_text()
    assert source.count("\n") <= LONGEST, f"over {LONGEST} lines: split it"
    assert path.name != "utils.py", "name what it does"
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "say in the first line what it computes"
    for name in imports(tree, top_level=False):
        head, *rest = name.split(".")
        assert head not in FOLDERS, f"import triportrait.{head}, not the bare folder"
        if head == "triportrait" and rest and rest[0] in FOLDERS:
            wing = wing_of(path)
            imported = "/".join(rest)
            allowed = {wing, *MAY_IMPORT[wing]} | ({"serve/media"} if wing == "serve" else set())
            assert any(f"{imported}/".startswith(f"{each}/") for each in allowed), f"{wing} may not import {name}"
    for name in imports(tree, top_level=True):
        head = name.split(".")[0]
        if head not in sys.stdlib_module_names and head != "triportrait":
            assert head in THIRD_PARTY[folder], f"{folder} may not import {head} at module level"


def test_kernels_do_not_know_what_is_rendered():
    words = re.compile(r"\b(FLAME|portrait|head|neck|expression|driver)\b")
    for folder, path in FILES:
        if folder == "kernels":
            text = path.read_text()
            if path.name == "attention.py":
                text = re.sub(r"\bheads?\b", "", text)  # of an attention
            assert not words.search(text), path


def test_no_cycles():
    modules = {"triportrait." + ".".join(p.relative_to(ROOT).with_suffix("").parts): p for _, p in FILES}
    modules = {name.replace("triportrait.triportrait", "triportrait"): path for name, path in modules.items()}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {
        name: {
            n
            for n in imports(ast.parse(path.read_text()), top_level=True, for_types=True)
            if n in modules and n != name
        }
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for following in graph[name]:
                visit(following, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_links_lead_to_the_folders(folder):
    link = ROOT / "triportrait" / folder
    assert link.is_symlink()
    assert link.resolve() == ROOT / folder


def test_the_readme_s_tree_is_the_disk():
    """Each folder with modules stands in the tree, and whatever stands there exists."""
    tree = re.search(r"<!-- tree -->\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert tree, "README.md has no tree between its markers"
    listed: set[str] = set()
    stack: list[tuple[int, str]] = []
    for line in tree[1].splitlines():
        indent = len(line) - len(line.lstrip())
        name = re.split(r"\s{2,}", line.strip())[0]
        while stack and stack[-1][0] >= indent:
            stack.pop()
        listed.add("".join(parent for _, parent in stack) + name)
        if name.endswith("/"):
            stack.append((indent, name))
    missing_on_disk = {name for name in listed if not (ROOT / name).exists()}
    assert not missing_on_disk, f"in the tree, not on the disk: {missing_on_disk}"
    folders = {f"{Path(name).parent}/" for name in NAMES}
    assert folders <= listed, f"on the disk, not in the tree: {folders - listed}"


def test_importing_needs_no_gpu_no_triton_and_no_deepspeed():
    """All of our modules, where the heavy optional packages cannot be imported."""
    code = (
        "import sys, importlib\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('triton', 'xformers', 'deepspeed', 'nvidia', 'lpips', 'torchvision'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"for name in {MODULES!r}:\n"
        "    importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)


def test_nothing_large_is_committed():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.fail("this is no git checkout: run the tests in a clone")
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            assert path.stat().st_size <= 12 << 20, name


def test_tests_import_no_other_test_file():
    """What two of them need stands in a module that holds no test."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for name in imports(ast.parse(path.read_text()), top_level=False):
            assert not re.match(r"tests\.(\w+\.)*test_", name), f"{path.relative_to(ROOT)} imports {name}"


def test_the_quick_ring_runs_what_is_marked_quick():
    """`.ci/quick` names the places, so that it need not collect all tests."""
    places = re.findall(r"tests/\S+", (ROOT / ".ci" / "quick").read_text())
    marked = {path for path in (ROOT / "tests").rglob("test_*.py") if "mark.quick" in path.read_text()}
    assert len(marked) > 3
    for path in marked:
        assert any(path.is_relative_to(ROOT / place) for place in places), path


def test_every_job_of_the_command_lies_in_a_folder_of_jobs():
    for place, _ in JOBS.values():
        module, _, name = place.partition(":")
        assert re.fullmatch(r"triportrait\.\w+\.jobs\.\w+", module)
        tree = ast.parse((ROOT / f"{module.removeprefix('triportrait.').replace('.', '/')}.py").read_text())
        assert name in {target for node in tree.body for target in defined_by(node)}


def defined_by(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("folder, path", FILES, ids=NAMES)
def test_public_docstrings_begin_with_a_sentence(folder, path):
    """It begins with a capital letter, a number, code or a symbol, and ends with a stop, or a colon before a list."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name, text = getattr(node, "name", "the module"), ast.get_docstring(node)
            if text and not name.startswith("_"):
                first = " ".join(text.split("\n\n")[0].split())
                assert re.match(r"[A-Z0-9`Ψ]|(?!a\b)[a-z]\b", first), f"{name}: {first}"
                assert re.search(r"[.:!?]$", first), f"{name}: {first}"
                assert len(first.split()) > 1, f"{name}: {first}"
