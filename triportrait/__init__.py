"""Makes a talking 3D head of one portrait and a driving video, by Portrait4D-v2.

`Pipeline` animates a portrait from Python; see docs/python.md. The names below are loaded when they are first used, so
that importing the package needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triportrait.core.checkpoint import load_portrait as load_portrait
    from triportrait.core.errors import InputError as InputError
    from triportrait.core.portrait import Portrait4D as Portrait4D
    from triportrait.core.types import Camera as Camera
    from triportrait.serve.controls import Controls as Controls
    from triportrait.serve.pipeline import Pipeline as Pipeline

from triportrait.checkout import check_checkout

check_checkout()

__version__ = "0.1.0"
__all__ = ["Camera", "Controls", "InputError", "Pipeline", "Portrait4D", "__version__", "load_portrait"]

_HOMES = {
    "Camera": "core.types",
    "Controls": "serve.controls",
    "InputError": "core.errors",
    "Pipeline": "serve.pipeline",
    "Portrait4D": "core.portrait",
    "load_portrait": "core.checkpoint",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
