from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.generated.little_heads import little_genhead, save_little, write_tables
from triportrait.core.genhead.generator import GenHead
from triportrait.train.data.generated.draws import HeadTables


@pytest.fixture(scope="session")
def generator() -> GenHead:
    return little_genhead()


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    return save_little(tmp_path_factory.mktemp("little") / "genhead")


@pytest.fixture(scope="session")
def tables(tmp_path_factory) -> Path:
    return write_tables(tmp_path_factory.mktemp("little") / "tables")


@pytest.fixture(scope="session")
def opened(tables) -> HeadTables:
    return HeadTables(tables)
