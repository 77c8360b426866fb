from __future__ import annotations

import pytest
import torch

from tests.core.genhead.heads import tiny_genhead, two_heads
from triportrait.core.genhead.generator import GeneratedView, GenHead


@pytest.fixture(scope="session")
def genhead() -> GenHead:
    return tiny_genhead()


@pytest.fixture(scope="session")
def view(genhead) -> GeneratedView:
    with torch.no_grad():
        return genhead(**two_heads())
