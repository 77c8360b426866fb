"""Damaged archives: whatever is changed in one, there are arrays or one kind of error."""

from __future__ import annotations

import random

import numpy as np
import pytest

from triportrait.train.data.arrays import read_arrays

pytestmark = pytest.mark.filterwarnings("ignore")  # a damaged header may be written in a way that Python warns of


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_is_a_value_error(tmp_path, save):
    path = tmp_path / "x.npz"
    rng = np.random.default_rng(0)
    save(path, camera=rng.random((3, 5)), mask=rng.integers(0, 9, (3, 4)))
    whole = path.read_bytes()
    assert sorted(read_arrays(path)) == ["camera", "mask"]
    chance, refused = random.Random(1), 0
    for number in range(2000):
        changed = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.write_bytes(changed[: chance.randrange(len(changed))] if number % 7 == 0 else changed)
        try:
            read_arrays(path)
        except ValueError as error:
            assert str(error) == f"{path}: it cannot be read (damaged)"
            refused += 1
    assert refused > 1000


def test_a_missing_file_is_one_too(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_arrays(tmp_path / "none.npz")
