"""The full-size network with rule-made weights, built once for the session."""

from __future__ import annotations

import pytest
import torch

from tests.core.parity import Agrees
from triportrait.core.config import genhead_ffhq512, portrait4d_v2, tiny
from triportrait.core.genhead.generator import GenHead
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.portrait import Portrait4D
from triportrait.core.seeded_weights import rule_genhead, rule_motion_encoder, rule_portrait


@pytest.fixture
def agrees(record_row) -> Agrees:
    return Agrees(record_row)


@pytest.fixture(scope="session")
def full_portrait() -> Portrait4D:
    return rule_portrait(portrait4d_v2())


@pytest.fixture(scope="session")
def tiny_portrait() -> Portrait4D:
    return rule_portrait(tiny())


@pytest.fixture(scope="session")
def full_genhead() -> GenHead:
    return rule_genhead(genhead_ffhq512())


@pytest.fixture(scope="session")
def motion_encoder() -> PDFGC:
    return rule_motion_encoder()


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield
