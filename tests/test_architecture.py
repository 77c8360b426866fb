"""The rules that a listing cannot show, checked on the source itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {  # folder -> folders it may import
    "kernels": set(),
    "core": {"kernels"},
    "train": {"core", "kernels"},
    "serve": {"core", "kernels"},
    "profiling": {"serve", "train", "core", "kernels"},
}
THIRD_PARTY = {  # folder -> packages it may import at module level
    "kernels": {"torch", "triton"},
    "core": {"torch", "numpy", "safetensors"},
    "train": {"torch", "numpy", "safetensors", "tyro"},
    "serve": {"torch", "numpy", "PIL", "av", "tyro", "tqdm"},
    "profiling": {"torch", "numpy", "tyro"},
}
LONGEST = 500
FILES = [(folder, path) for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]
NAMES = [str(path.relative_to(ROOT)) for _, path in FILES]


def imports(tree: ast.AST, top_level: bool) -> Iterator[str]:
    """Modules that a file imports: at its top level, or anywhere."""
    nodes = tree.body if top_level and isinstance(tree, ast.Module) else ast.walk(tree)
    for node in nodes:
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
        assert head not in MAY_IMPORT, f"import triportrait.{head}, not the bare folder"
        if head == "triportrait" and rest and rest[0] in MAY_IMPORT:
            assert rest[0] == folder or rest[0] in MAY_IMPORT[folder], f"{folder} may not import {name}"
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
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {
        name: {n for n in imports(ast.parse(path.read_text()), top_level=True) if n in modules and n != name}
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


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_the_links_lead_to_the_folders(folder):
    link = ROOT / "triportrait" / folder
    assert link.is_symlink() and link.resolve() == ROOT / folder


def test_the_readme_s_tree_is_the_disk():
    """Each module stands in the tree under its folder, and nothing else does."""
    tree = re.search(r"<!-- tree -->\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert tree, "README.md has no tree between its markers"
    listed: set[str] = set()
    stack: list[tuple[int, str]] = []
    for line in tree[1].splitlines():
        indent = len(line) - len(line.lstrip())
        entry = re.split(r"\s{2,}", line.strip())[0]
        while stack and stack[-1][0] >= indent:
            stack.pop()
        prefix = "".join(name for _, name in stack)
        for name in entry.split():
            listed.add(prefix + name)
            if name.endswith("/"):
                stack.append((indent, name))
    missing_on_disk = {name for name in listed if not (ROOT / name).exists()}
    assert not missing_on_disk, f"in the tree, not on the disk: {missing_on_disk}"
    modules = {name for name in NAMES if not name.endswith("__init__.py")}
    folders = {f"{Path(name).parent}/" for name in NAMES}
    assert modules | folders <= listed, f"on the disk, not in the tree: {(modules | folders) - listed}"


def test_importing_needs_no_gpu_no_triton_and_no_deepspeed():
    """All of our modules, where the heavy optional packages cannot be imported."""
    code = (
        "import sys, importlib\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('triton', 'xformers', 'deepspeed', 'nvidia', 'lpips', 'torchvision'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"for name in {sorted('triportrait.' + n.removesuffix('.py').replace('/', '.') for n in NAMES)!r}:\n"
        "    importlib.import_module(name.removesuffix('.__init__'))\n"
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
