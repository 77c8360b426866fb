"""Tables of several versions of Triton are set side by side."""

from __future__ import annotations

import pytest

from triportrait.core.errors import InputError
from triportrait.profiling.compile_table import COLUMNS
from triportrait.profiling.compile_versions import main, read
from triportrait.profiling.markdown import markdown_table

ROWS = {
    "march": ("march.mlp", "0", "12.0"),
    "field": ("field.decode", "0", "8.0"),
    "grid": ("grid.forward", "0", "0.0"),
}


def printed(version: str, **changes: tuple[str, str, str]) -> str:
    """What `profile compile` prints of three programs."""
    cells = [
        [name, launch, "fp32", "sm_80", "1", "4", "40", spills, shared, "3", *["-"] * (len(COLUMNS) - 10)]
        for name, (launch, spills, shared) in (ROWS | changes).items()
    ]
    return f"`triportrait profile compile`: Triton {version}, torch 2\n\n{markdown_table(COLUMNS, cells)}\nPrograms: of"


@pytest.fixture
def compared(tmp_path):
    """Compare what is printed, each in a file of its own."""

    def compare(*texts: str) -> str:
        paths = [tmp_path / f"{i}.md" for i in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return main([str(path) for path in paths])

    return compare


def test_what_spills_or_takes_other_memory_is_a_row(compared):
    said = compared(
        printed("3.6.0"), printed("3.9.0", march=("march.mlp", "7", "12.0"), grid=("grid.forward", "0", "2.0"))
    )
    assert "| 3.6.0 | 3 | 0 | 40 | 12.0 | 0 |" in said
    assert "| 3.9.0 | 3 | 1 | 40 | 12.0 | 0 |" in said
    assert "| march.mlp | fp32 | sm_80 | 0 / 7 | 12.0 / 12.0 | 3 / 3 | 40 / 40 |" in said
    assert "| grid.forward | fp32 | sm_80 | 0 / 0 | 0.0 / 2.0 |" in said
    assert "field.decode" not in said


def test_a_spill_in_every_version_is_a_row_too(compared):
    spilling = {"march": ("march.mlp", "7", "12.0")}
    assert "| march.mlp | fp32 | sm_80 | 7 / 7 |" in compared(
        printed("3.6.0", **spilling), printed("3.9.0", **spilling)
    )


def test_tables_that_are_none_are_refused(compared, tmp_path):
    with pytest.raises(InputError, match="expected what `triportrait profile compile` prints"):
        read("| a | b |\n")
    with pytest.raises(InputError, match="those of two versions or more, got 1"):
        compared(printed("3.6.0"), printed("3.6.0"))
    with pytest.raises(InputError, match=r"the same launches in all, Triton 3\.9\.0 has others"):
        compared(printed("3.6.0"), printed("3.9.0", march=("march.scan", "0", "1")))
    with pytest.raises(InputError, match=r"nowhere\.md is none that can be read"):
        main([str(tmp_path / "nowhere.md")])
