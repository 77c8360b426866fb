"""What pip runs before it builds: a checkout without symbolic links is refused. All else stands in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import setup

try:
    runpy.run_path(str(Path(__file__).parent / "triportrait" / "checkout.py"))["check_checkout"]()
except ImportError as error:
    raise SystemExit(str(error)) from None
setup()
