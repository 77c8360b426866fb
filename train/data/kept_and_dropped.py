"""Writes one page that shows what of a set was kept and what was dropped, and why; it needs nothing beside it."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from triportrait.core.atomic import replacing
from triportrait.core.safe_text import shown

MOST_KEPT, MOST_DROPPED = 120, 40  # tiles of what was kept, and of each reason
KEPT = "kept"
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2127;--soft:#5d6872;--line:#dfe4e8;--paper:#fff;--wash:#f5f7f8;--mark:#0b6b57;
--amber:#8a5a00}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecef;--soft:#9aa6b0;--line:#323a41;--paper:#15191d;--wash:#1d2328;
--mark:#62d2b4;--amber:#e9bd6a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1500px;margin:0 auto;padding:2rem 1.5rem 4rem}
h1{margin:0 0 .3rem;font-size:1.7rem;overflow-wrap:anywhere}
h2{margin:2.2rem 0 .8rem;font-size:1.2rem;border-top:1px solid var(--line);padding-top:1.2rem}
h2 small{color:var(--soft);font-weight:400}
.lead{color:var(--soft);margin:.2rem 0 1rem;overflow-wrap:anywhere}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .9rem .3rem 0;text-align:right;border-top:1px solid var(--line)}
th{text-align:left;font-weight:500}
thead th{text-align:right;color:var(--soft);border-top:0}
thead th:first-child{text-align:left}
tr.kept td,tr.kept th{color:var(--mark);font-weight:600}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(var(--wide),1fr));gap:1rem}
figure{margin:0;min-width:0}
figure img,figure .none{display:block;max-width:100%;border-radius:6px;background:var(--wash)}
figure .none{height:72px;display:grid;place-items:center;color:var(--soft);font-size:.85rem}
figcaption{font-size:.82rem;line-height:1.35;margin-top:.3rem;overflow-wrap:anywhere}
figcaption span{display:block;color:var(--soft)}
nav{display:flex;flex-wrap:wrap;gap:.5rem;margin:1rem 0}
nav a{padding:.25rem .8rem;border:1px solid var(--line);border-radius:2rem;color:inherit;text-decoration:none;
font-size:.9rem}
"""


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of the page.

    Attributes:
        picture: uint8 [h, w, 3], or the bytes of a JPEG; None where there is nothing to show.
        name: of what it shows.
        reason: why that was dropped; None where it was kept.
        said: more about it.
    """

    picture: np.ndarray | bytes | None
    name: str
    reason: str | None
    said: str = ""


Numbers = Mapping[str, tuple[int, int, Mapping[str, int]]]  # what is counted -> found, kept, dropped by reason


def write_kept_and_dropped(
    path: Path, title: str, lead: str, numbers: Numbers, tiles: Iterable[Tile], wide_px: int = 300
) -> None:
    """Write the page.

    Args:
        lead: a sentence below the title.
        numbers: what was counted.
        tiles: pictures in any order; of what was kept the first 120 are shown, of each reason the first 40, so that
            the page stays of a size that a browser opens.
        wide_px: the least width of a column.

    Raises: `OSError` where the disk refuses.
    """
    figures: dict[str, list[str]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for tile in tiles:
        section = tile.reason or KEPT
        seen[section] += 1
        if len(figures[section]) < (MOST_DROPPED if tile.reason else MOST_KEPT):
            figures[section].append(_figure(tile))
    sections = sorted(figures, key=lambda section: (section != KEPT, -seen[section], section))
    links = "".join(f"<a href='#{_anchor(s)}'>{escape(s)} <b>{seen[s]:,}</b></a>" for s in sections)
    with replacing(path) as part, part.open("w") as file:
        file.write(
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(shown(title))}</title>"
            f"<meta name=viewport content='width=device-width,initial-scale=1'><style>{_STYLE}</style>"
            f"<main style='--wide:{wide_px}px'><h1>{escape(shown(title))}</h1><p class=lead>{escape(lead)}</p>"
            f"{_table(numbers)}<nav>{links}</nav>"
        )
        for section in sections:
            count, shown_count = seen[section], len(figures[section])
            more = "" if count == shown_count else f", the first {shown_count} are shown"
            file.write(f"<h2 id='{_anchor(section)}'>{escape(section)} <small>{count:,}{more}</small></h2>")
            file.write("<div class=tiles>" + "".join(figures[section]) + "</div>")
        file.write("</main></html>\n")


def _table(numbers: Numbers) -> str:
    names = list(numbers)
    reasons = sorted({reason for _, _, dropped in numbers.values() for reason in dropped})
    rows = [("found", [found for found, _, _ in numbers.values()]), (KEPT, [kept for _, kept, _ in numbers.values()])]
    rows += [(reason, [dropped.get(reason, 0) for _, _, dropped in numbers.values()]) for reason in reasons]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr{' class=kept' * (name == KEPT)}><th>{escape(name)}</th>"
        + "".join(f"<td>{count:,}</td>" for count in counts)
        + "</tr>"
        for name, counts in rows
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(tile: Tile) -> str:
    picture = "<div class=none>no picture</div>"
    if tile.picture is not None:
        data = tile.picture if isinstance(tile.picture, bytes) else _jpeg(tile.picture)
        picture = f"<img alt='' loading=lazy src='data:image/jpeg;base64,{base64.b64encode(data).decode()}'>"
    said = f"<span>{escape(tile.said)}</span>" if tile.said else ""
    return f"<figure>{picture}<figcaption>{escape(shown(tile.name))}{said}</figcaption></figure>"


def _anchor(section: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in section)


def _jpeg(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()
