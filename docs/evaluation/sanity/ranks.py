"""Check that scored methods rank as they must: `python -m docs.evaluation.sanity.ranks R1 R2 ...`.

What must hold stands in the tables of README.md beside this file, with the reason. A cell holds orders of values, such
as `truth > warp > copy`, separated by semicolons; beside methods there may be numbers, and `≈` means equal within 0.05.
Methods that are not given are left out of their orders.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path

PAGE = Path(__file__).with_name("README.md")
_ROW = re.compile(r"\| (self|cross) \| `(\w+)` \| (.+?) \| .+ \|$")
_SIGNS = {
    ">": lambda a, b: a > b, "<": lambda a, b: a < b, "=": lambda a, b: abs(a - b) <= 1e-6,
    "≈": lambda a, b: abs(a - b) <= 0.05,
}  # fmt: skip
Values = Mapping[tuple[str, str], Mapping[str, float | None]]
"""(kind of pair, metric) -> method -> mean over clips."""


def orders(page: Path = PAGE) -> list[tuple[str, str, str]]:
    """Return kind, metric and order of everything that the page says must hold."""
    rows = [row for line in page.read_text(encoding="utf-8").splitlines() if (row := _ROW.match(line))]
    return [(row[1], row[2], order.strip()) for row in rows for order in row[3].split(";")]


def values_of(folders: Mapping[str, Path]) -> dict[tuple[str, str], dict[str, float | None]]:
    """Read the scores of methods by name."""
    found: dict[tuple[str, str], dict[str, float | None]] = {}
    for method, folder in folders.items():
        for cell in json.loads((folder / "scores.json").read_text(encoding="utf-8"))["cells"]:
            found.setdefault((cell["kind"], cell["metric"]), {})[method] = cell["value"]
    return found


def checked(values: Values, methods: set[str], without: Collection[str] = ()) -> tuple[list[str], list[str], list[str]]:
    """Return the orders that hold, that are broken, and whose metric was not measured, each with its numbers.

    Args:
        values: of the methods' scores. methods: the names that were given.
        without: orders that are not looked at.
    """
    held: list[str] = []
    broken: list[str] = []
    unmeasured: list[str] = []
    for kind, metric, order in orders():
        if order in without:
            continue
        here = values.get((kind, metric))
        if here is None or all(value is None for value in here.values()):
            unmeasured.append(f"{kind} {metric}: {order}")
            continue
        words = order.split()
        terms, signs = words[::2], words[1::2]
        assert len(set(signs)) == 1, f"{order}: one sign in an order, so that a method can be left out"
        known = [(term, sign) for term, sign in zip(terms, ["", *signs], strict=True)
                 if term in methods or _is_number(term)]  # fmt: skip
        numbers = [float(term) if _is_number(term) else here.get(term) for term, _ in known]
        text = f"{kind} {metric}: " + " ".join(
            f"{sign} {term}" + ("" if _is_number(term) else f" {'none' if value is None else f'{value:.4g}'}")
            for (term, sign), value in zip(known, numbers, strict=True)
        )
        if None in numbers:  # a method has no such pairs
            unmeasured.append(text)
        elif len(known) > 1:
            holds = all(_SIGNS[sign](a, b) for (a, b), (_, sign) in zip(pairwise(numbers), known[1:], strict=True))
            (held if holds else broken).append(text)
    return held, broken, unmeasured


def _is_number(term: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", term) is not None


def main() -> int:
    """Print every order with its numbers; the status is 1 where one is broken."""
    folders = {Path(word).name: Path(word) for word in sys.argv[1:]}
    held, broken, unmeasured = checked(values_of(folders), set(folders))
    for title, lines in (("holds", held), ("BROKEN", broken), ("not measured", unmeasured)):
        for line in lines:
            print(f"{title:12} {line}")
    print(f"{len(held)} orders hold, {len(broken)} are broken, {len(unmeasured)} were not measured")
    return 1 if broken or not held else 0


if __name__ == "__main__":
    sys.exit(main())
