"""Tell whether an optional package loads, and which command installs it."""

from __future__ import annotations

import importlib
import platform
import re
from importlib import metadata
from pathlib import Path

NAME = "triportrait"
MISSING = "is not installed"
_ROOT = Path(__file__).resolve().parents[1]  # a checkout's root; in an installed package it is the package itself


def install(extra: str) -> str:
    """Return the command that installs what an extra names.

    From a checkout it is the extra itself. A wheel has no index to take the extra from, where a stranger's package may
    have the name: there the packages of the extra are named.

    Args:
        extra: as in pyproject.toml, several with commas: "cpu", "serve,provenance".
    """
    if not (_ROOT / "pyproject.toml").is_file():
        packages = [package for name in extra.split(",") for package in _packages(name)]
        if packages:
            return "pip install " + " ".join(f"'{package}'" for package in dict.fromkeys(packages))
    return f"pip install -e '.[{extra}]'"


def fault(module: str) -> str | None:
    """Tell why a module cannot be used here, None where it can; it is imported, as an installed one need not load.

    Returns:
        MISSING, or "is installed but does not load (REASON)", on one line.
    """
    try:
        importlib.import_module(module)
    except Exception as error:  # a library may end its import with whatever it likes
        return reason(error, module)
    return None


def reason(error: BaseException, module: str) -> str:
    """Say like `fault` why an import ended with an error."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return MISSING
    return f"is installed but does not load ({line(error)})"


def line(error: BaseException, longest: int = 200) -> str:
    """Return the first line of an error that is not empty, cut, without what would steer a terminal."""
    lines = [" ".join(part.split()) for part in str(error).splitlines()]
    first = next((part for part in lines if part), "") or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in first)[:longest]


def _packages(extra: str) -> list[str]:
    """List the packages that the installed metadata names for an extra on this kind of machine."""
    try:
        required = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        return []
    packages = []
    for text in required:
        package, _, condition = text.partition(";")
        name = re.search(r"extra\s*==\s*[\"']([^\"']+)[\"']", condition)
        system = re.search(r"platform_system\s*==\s*[\"']([^\"']+)[\"']", condition)
        if name and name[1] == extra and (system is None or system[1] == platform.system()):
            packages.append(package.strip())
    return packages
