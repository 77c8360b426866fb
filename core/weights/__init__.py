"""Weights that travel inside the package: `demo/`, the tiny network trained on procedural heads."""

from __future__ import annotations

from pathlib import Path

DEMO = "demo"  # what it is called where weights are named
DEMO_FOLDER = Path(__file__).parent / DEMO
