"""Writes the comparison as one page that needs nothing beside it: tables, published rows, pictures of the pairs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from triportrait.core.files import opened
from triportrait.core.metrics.full_precision import PRECISION
from triportrait.core.metrics.rule_weights import BY_RULE, NOTE, RULE
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.metrics.definition import Definition, Kind
from triportrait.train.evaluation.protocols.page_style import STYLE
from triportrait.train.evaluation.protocols.records import Protocol
from triportrait.train.evaluation.protocols.scoring import STRIP_PX
from triportrait.train.evaluation.protocols.summary import FOLDER, Cell
from triportrait.train.evaluation.protocols.tables import (
    NOTHING,
    TITLES,
    Scores,
    arrow,
    best_of,
    cell_of,
    cells_of,
    counted,
    interval,
    kinds_of,
    measured,
    notes_of,
    number,
    printed,
    published_of,
)

MOST_PAIRS = 12  # of a kind that are shown
MOST_STRIP = 1 << 20  # bytes
SHOWN_PX = 144
# what stands under a picture, the first that was measured
_CAPTIONS = {
    "self": ("lpips_alex", "psnr", "landmark_distance"),
    "cross": ("aed_mean_square", "mouth_correlation", "head_pose_distance"),
    "sound": ("syncnet_confidence", "mouth_correlation"),
    "consistency": ("id", "sharpness_to_source"),
}


def page(
    scores: Sequence[Scores], folders: Sequence[Path], protocol: Protocol | None = None, ablations: str = ""
) -> str:
    """Write the page.

    Args:
        scores: those of each method, by one protocol. folders: where each lies, with strips of pictures.
        protocol: whose choices are explained.
        ablations: the section of Table 3, which stands first.
    """
    kinds = kinds_of(scores)
    links = "<a href=#ablations>Table 3</a>" * bool(ablations)
    links += "".join(f"<a href=#{kind}>{TITLES[kind]}</a>" for kind in kinds)
    name, digest = escape(scores[0]["name"]), scores[0]["protocol"]
    methods = ", ".join(escape(one["method"]) for one in scores)
    parts = [
        f"<header><p class='eyebrow'>triportrait evaluation</p><h1>{methods}</h1>"
        f"<p class='lead'>Protocol <b>{name}</b> <code title='{digest}'>{digest[:12]}</code>. Every measured number on"
        f" this page follows this one file.</p>{_warning(scores)}"
        f"<nav>{links}"
        "<a href=#definitions>Definitions</a></nav></header>"
    ]
    parts += [ablations, *(_section(scores, folders, kind) for kind in kinds)]
    parts += [_definitions(scores, kinds), _choices(protocol), _empty(scores)]
    body = "\n".join(part for part in parts if part)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{methods} · {name}</title><style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def _warning(scores: Sequence[Scores]) -> str:
    """Say above all that some columns come from networks made by rule."""
    titles = dict.fromkeys(METRICS[cell.metric].title for one in scores for cell in cells_of(one) if cell.by_rule)
    if not titles:
        return ""
    return (
        f"<p class='warning'><b>{len(titles)} metrics on this page were measured by networks made by rule.</b> Their"
        " weights are random numbers, which check the pipeline and say nothing about pictures. The numbers carry the"
        f" mark <i class='rule'>{BY_RULE}</i> and are not ranked: {escape(', '.join(titles))}.</p>"
    )


def _section(scores: Sequence[Scores], folders: Sequence[Path], kind: Kind) -> str:
    counts = "".join(
        f"<li><b>{escape(one['method'])}</b> {escape(counted(one, kind))}{_made_by(one)}</li>" for one in scores
    )
    notes = "".join(
        f"<li><b>{escape(', '.join(titles))}</b> of {escape(', '.join(methods))}: {escape(note)}</li>"
        for titles, methods, note in notes_of(scores, kind)
        if note != NOTE  # it stands above all
    )
    return (
        f"<section id='{kind}'><h2>{TITLES[kind]}</h2><ul class='counts'>{counts}</ul>"
        f"{_measured(scores, kind)}{f'<ul class=notes>{notes}</ul>' if notes else ''}"
        f"{_published(scores, kind)}{_pictures(scores, folders, kind)}</section>"
    )


def _made_by(scores: Scores) -> str:
    """Say what the results' card says of the program and the weights that made them."""
    card = scores["card"]
    words = [str(card[key]) for key in ("program", "precision", "device") if key in card]
    if "weights" in card:
        words.insert(1, f"weights {card['weights']}{' (made by rule, noise)' * (card['weights'] == 'rule')}")
    return f" <small>{escape(', '.join(words))}</small>" if words else ""


def _measured(scores: Sequence[Scores], kind: Kind) -> str:
    head = "".join(f"<th>{escape(one['method'])}</th>" for one in scores)
    bodies = []
    for whose, title in (
        ("paper", "Metrics of the paper, in readings that it leaves open"),
        ("field", "Other definitions in use"),
        ("default", "Ours, from pictures and faces alone"),
    ):
        rows = [_row(scores, kind, d) for d in measured(scores, kind) if d.whose == whose]
        if rows:
            span = len(scores) + 1
            bodies.append(f"<tbody><tr class='group'><th colspan={span}>{title}</th></tr>{''.join(rows)}</tbody>")
    return f"<div class='scroll'><table><thead><tr><th>Measured</th>{head}</tr></thead>{''.join(bodies)}</table></div>"


def _row(scores: Sequence[Scores], kind: Kind, definition: Definition) -> str:
    best, cells = best_of(scores, kind, definition), []
    for one in scores:
        cell = cell_of(one, kind, definition.name)
        if cell is None or cell.value is None:
            why = escape(cell.note, quote=True) if cell else ""
            cells.append(f"<td class='none' title='{why}'>{NOTHING}</td>")
            continue
        mark = " class='best'" if one["method"] in best else ""
        cells.append(f"<td{mark}><span>{_value(cell)}</span><small>{interval(cell) or '&nbsp;'}</small></td>")
    unit = f" <small>{escape(definition.unit)}</small>" if definition.unit else ""
    title = f"{escape(definition.title)}{unit}<i>{arrow(definition)}</i>"
    return f"<tr><th><a href='#d-{definition.name}'>{title}</a></th>{''.join(cells)}</tr>"


def _value(cell: Cell | None) -> str:
    return value_html(number(cell.value if cell else None), cell is not None and cell.by_rule)


def value_html(text: str, by_rule: bool) -> str:
    """Write a number, with a mark where a network made by rule measured it."""
    return f"<i class='rule' title='{escape(NOTE, quote=True)}'>{BY_RULE}</i> " * by_rule + text


def _published(scores: Sequence[Scores], kind: Kind) -> str:
    """Lay the measured columns that have a published counterpart above the published rows, never ranked together."""
    tables = []
    for table, columns in published_of(kind):
        head = "".join(f"<th>{escape(c.title)}<i>{arrow(d)}</i></th>" for c, d in columns)
        ours = []
        for one in scores:
            cells = [cell_of(one, kind, d.name) for _, d in columns]
            row = "".join(f"<td>{_value(cell)}</td>" for cell in cells)
            ours.append(f"<tr><th>{escape(one['method'])}</th>{row}</tr>")
        rows = "".join(
            f"<tr><th>{escape(name)}</th>"
            + "".join(f"<td>{printed(table, c, row[c.name])}</td>" for c, _ in columns)
            + "</tr>"
            for name, row in table.rows.items()
        )
        span = len(columns) + 1
        if all(cell_of(one, kind, d.name) is None for one in scores for _, d in columns):
            why = "their networks were not given, see <a href=#empty>what is not measured</a>"
            ours = [f"<tr class=none><td colspan={span}>not measured: {why}</td></tr>"]
        tables.append(
            f"<div class='scroll'><table class='beside'><thead><tr><th>Table {table.name} of the paper</th>{head}</tr>"
            f"</thead><tbody><tr class='group'><th colspan={span}>measured by this protocol</th></tr>{''.join(ours)}"
            f"</tbody><tbody class='published'><tr class='group'><th colspan={span}>{escape(table.protocol)}: other"
            f" clips, scripts and choices; not to be ranked with the rows above</th></tr>{rows}</tbody></table></div>"
        )
    if not tables:
        return ""
    return f"<details open><summary>Beside the published rows</summary>{''.join(tables)}</details>"


def _pictures(scores: Sequence[Scores], folders: Sequence[Path], kind: Kind) -> str:
    """Show source, driving frame and each method's result in the middle of pairs, evenly chosen."""
    names = sorted({name for one in scores for name in one["scores"] if name.startswith(f"{kind}-")})
    shown = [names[i * len(names) // MOST_PAIRS] for i in range(MOST_PAIRS)] if len(names) > MOST_PAIRS else names
    rows = []
    for name in shown:
        strips = [_strip(folder / FOLDER / f"{name}.jpg") for folder in folders]
        first = next((strip for strip in strips if strip), None)
        if first is None:
            continue
        figures = [_figure(first, 0, "source", ""), _figure(first, 1, "driving", "")]
        for one, strip in zip(scores, strips, strict=True):
            caption = _caption(one, name, kind)
            figures.append(_figure(strip, 2, escape(one["method"]), caption))
        rows.append(f"<div class='pair'><p>{escape(name)}</p><div class='strip'>{''.join(figures)}</div></div>")
    if not rows:
        return ""
    count = f"{len(rows)} of {len(names)} pairs, evenly chosen" if len(rows) < len(names) else f"all {len(rows)} pairs"
    return f"<h3>Pictures <small>the middle frame of {count}</small></h3>{''.join(rows)}"


def _strip(path: Path) -> str | None:
    try:
        with opened(path) as file:
            data = file.read(MOST_STRIP + 1)
    except OSError:
        return None
    return base64.b64encode(data).decode() if data[:3] == b"\xff\xd8\xff" and len(data) <= MOST_STRIP else None


def _figure(strip: str | None, place: int, title: str, caption: str) -> str:
    """Show one of the three pictures of a strip."""
    if strip is None:
        picture = "<div class='window nothing'>no result</div>"
    else:
        width, left = 3 * SHOWN_PX, -place * SHOWN_PX
        style = f"width:{width}px;margin-left:{left}px"
        picture = (
            f"<div class='window'><img alt='{title}' src='data:image/jpeg;base64,{strip}' style='{style}'"
            f" width={3 * STRIP_PX} height={STRIP_PX}></div>"
        )
    return f"<figure>{picture}<figcaption><b>{title}</b>{caption}</figcaption></figure>"


def _caption(scores: Scores, pair: str, kind: Kind) -> str:
    for metric in _CAPTIONS[kind]:
        cell, value = cell_of(scores, kind, metric), scores["scores"].get(pair, {}).get(metric, {}).get("value")
        if value is not None and cell is not None and not cell.by_rule:
            definition = METRICS[metric]
            unit = f" {escape(definition.unit)}" if definition.unit else ""
            return f"<span>{escape(definition.title)} {number(value)}{unit}</span>"
    return ""


def _definitions(scores: Sequence[Scores], kinds: Sequence[Kind]) -> str:
    used = {d.name: d for kind in kinds for d in measured(scores, kind)}
    items = "".join(
        f"<div id='d-{d.name}'><dt>{escape(d.title)} <code>{d.name}</code></dt><dd>{escape(d.sentence)}</dd></div>"
        for d in used.values()
    )
    read_by = {need: identity for one in scores for need, identity in one["networks"].items()}
    networks = ", ".join(
        f"{escape(need.removeprefix('weights:'))} <code title='{escape(str(identity), quote=True)}'>"
        f"{escape(str(identity).split()[-1][:12])}</code>{f' ({BY_RULE})' * (RULE in str(identity).split())}"
        for need, identity in sorted(read_by.items())
    )
    return (
        "<section id='definitions'><h2>Definitions</h2><p>A value is the mean over clips of what is measured in each;"
        " small below it stand the ends of the 95 % interval of the bootstrap over clips. FID and KID compare whole"
        " sets and have no such interval, as a clip that is drawn twice would make the sets differ. The ± of KID is the"
        " standard deviation over its subsets. ↑ higher is better, ↓ lower is better.</p>"
        f"{f'<p>Measured with {networks}; networks compute in {PRECISION}.</p>' if networks else ''}"
        f"<dl>{items}</dl></section>"
    )


def _choices(protocol: Protocol | None) -> str:
    if protocol is None:
        return ""
    head = protocol.head
    items = "".join(
        f"<div><dt>{escape(name)} <code>{escape(choice.value)}</code></dt><dd>{escape(choice.sentence)}</dd></div>"
        for name, choice in sorted(head.choices.items())
    )
    return (
        f"<section id='choices'><h2>Choices of the protocol</h2><p>{len(protocol.clips)} clips, up to {head.frames}"
        f" frames of each, {head.size_px} × {head.size_px} px, seed {head.seed}.</p><dl>{items}</dl></section>"
    )


def _empty(scores: Sequence[Scores]) -> str:
    sentences = dict.fromkeys(str(text) for one in scores for text in one["empty"].values() if text)
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<section id='empty'><h2>Not measured</h2><ul class='notes'>{items}</ul></section>" if items else ""
