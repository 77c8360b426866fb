"""`triportrait evaluate votes FILE.csv` gives each method its share of the votes of a user study."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from triportrait.core.checksum import sha256
from triportrait.core.safe_text import shown
from triportrait.train.data.folders import check_file, whole_file
from triportrait.train.evaluation.paper.votes import INTERVAL, RESAMPLES, SEED, CastVotes, Share, read_votes, shares

logger = logging.getLogger(__name__)

JSON = ".json"
_COLUMNS = tuple(field.name for field in dataclasses.fields(Share))


@dataclass(frozen=True)
class Votes:
    """Give each method its share of the votes of a user study, with an interval by resampling the participants.

    The first line of the file names the cases, each further line is one participant, each cell holds the number or the
    name of the method that was preferred, or nothing. Every vote weighs the same, whoever cast it.
    """

    file: tyro.conf.Positional[Path]
    """The votes, CSV in UTF-8."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = ()
    """What the numbers 1, 2, ... in the file stand for, in order; without it a method is called what its cells hold."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the shares to a file, too: .csv, or .json, which also says how they were computed."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the file of --out if it exists."""

    def run(self) -> None:
        """Read, count, write, print."""
        if self.out is not None:
            check_file(self.out, self.overwrite, JSON if self.out.suffix.lower() == JSON else ".csv")
        votes = read_votes(self.file, self.methods)
        found = shares(votes)
        if self.out is not None:
            with whole_file(self.out, self.overwrite) as path:
                if self.out.suffix.lower() == JSON:
                    self._write_json(path, votes, found)
                else:
                    _write_csv(path, found)
            logger.info("%s: the shares of %d methods", self.out, len(found))
        print(markdown(votes, found), end="")

    def _write_json(self, path: Path, votes: CastVotes, found: Sequence[Share]) -> None:
        numbers = {
            "file_sha256": sha256(self.file),
            "cases": len(votes.cases),
            "participants": len(votes.counts),
            "without_a_vote": votes.silent,
            "votes": int(votes.counts.sum()),
            "interval": {"share": INTERVAL, "resampled": "participants", "resamples": RESAMPLES, "seed": SEED},
            "methods": [dataclasses.asdict(share) for share in found],
        }
        path.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def markdown(votes: CastVotes, found: Sequence[Share]) -> str:
    """Write the shares as a Markdown table, and below it what they are shares of."""
    lines = [f"| method | votes | share | {INTERVAL:.0%} interval |".replace("%", " %"), "| --- | ---: | ---: | ---: |"]
    for share in found:
        name = shown(share.method).replace("|", "\\|")
        interval = (
            "–" if share.low is None or share.high is None else f"{_percent(share.low)} to {_percent(share.high)}"
        )
        lines.append(f"| {name} | {share.votes:,} | {_percent(share.share)} | {interval} |")
    each = votes.counts.sum(1)
    people = len(each)
    spread = f"{each.min():,} to {each.max():,}" if people > 1 and each.min() != each.max() else f"{each.max():,}"
    silent = f"; {votes.silent:,} more cast none and are left out" if votes.silent else ""
    lines += [
        "",
        f"{each.sum():,} votes of {people:,} participant{'s' * (people != 1)} on {len(votes.cases):,} cases, {spread} "
        f"of each{silent}. Every vote weighs the same.",
    ]
    if people > 1:
        lines.append(
            f"The interval comes from {RESAMPLES:,} resamples of the participants, each with all their votes (seed "
            f"{SEED})."
        )
    else:
        lines.append("One participant tells nothing of spread: there is no interval.")
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _write_csv(path: Path, found: Sequence[Share]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows([dataclasses.astuple(share) for share in found])
