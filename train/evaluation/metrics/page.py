"""Writes the page of all definitions, docs/evaluation/definitions.md, from the catalogue."""

from __future__ import annotations

from triportrait.train.evaluation.metrics import geometry, reprojection
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.metrics.definition import Definition, Whose
from triportrait.train.evaluation.metrics.measures import Measure

_HEAD = """# What each column of a table is

A name stands for one definition and never for another. Values are averaged over clips, with the percentile interval of
the bootstrap over clips (fixed seed); FID and KID are of all frames together, Cons. of all results of one source.
Frames in which a face is missing are left out, and their share is stated.
`python -m triportrait.train.evaluation.metrics.page` writes this page from the code.
"""
_SECTIONS: dict[Whose, tuple[str, str]] = {
    "default": (
        "Ours, without any weights brought",
        "They are measured on pictures, and on the landmarks that `triportrait fetch faces` makes possible. None of"
        " them is a column of Portrait4D-v2's tables.",
    ),
    "paper": (
        "Columns of Portrait4D-v2's tables, in a stated reading",
        "The paper publishes no script, so that each of these is a reading. Compare own measurements with each other;"
        " the published figures come from the paper's own protocol.",
    ),
    "field": (
        "Definitions that other papers and scripts use",
        "They carry similar names there and give other numbers.",
    ),
}
_GEOMETRY = """## Geometry

`triportrait evaluate` measures it on procedural heads, whose surface is known. The last of them compare views of one head
with each other and need no truth, but depth: no protocol has them, as results of other methods come as pictures alone.
"""


def page() -> str:
    """Return the page as Markdown."""
    parts = [_HEAD]
    for whose, (title, text) in _SECTIONS.items():
        rows = [_row(each) for each in METRICS.values() if each.whose == whose]
        head = ["| name | what is computed | unit | better | pairs | needs |", "| --- | --- | --- | --- | --- | --- |"]
        parts.append("\n".join([f"## {title}", "", text, "", *head, *rows, ""]))
    measures = (*geometry.MEASURES, *geometry.DEPTH_MEASURES, *reprojection.MEASURES)
    head = ["| name | what is computed | unit | better | needs |", "| --- | --- | --- | --- | --- |"]
    parts.append("\n".join([_GEOMETRY, *head, *(_geometry_row(each) for each in measures), ""]))
    return "\n".join(parts)


def _geometry_row(each: Measure) -> str:
    needs = "the true surface" if each.needs_truth else "depth"
    return f"| `{each.name}` | {each.sentence} | {each.unit or '1'} | {each.better or 'neither'} | {needs} |"


def _row(each: Definition) -> str:
    needs = ", ".join(need.removeprefix("weights:") for need in each.needs) or "nothing"
    cells = f"`{each.name}`", each.sentence, each.unit or "1", each.better or "neither", ", ".join(each.kinds), needs
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    print(page(), end="")
