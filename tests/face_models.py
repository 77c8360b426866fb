"""Whether the networks that find faces are in the cache; what needs them is skipped without."""

from __future__ import annotations

import pytest

from triportrait.core.faces.models import why_unusable

why_missing = why_unusable()  # before any test changes the environment
needs_face_models = pytest.mark.skipif(why_missing is not None, reason=str(why_missing))
