"""`triportrait evaluate table R1 R2 ...` lays scored results beside each other and beside the published rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.train.data.folders import check_target, whole_folder
from triportrait.train.evaluation.paper.ablation_page import ablation_html
from triportrait.train.evaluation.paper.ablation_table import ablation_csv, ablation_markdown
from triportrait.train.evaluation.protocols.page import page
from triportrait.train.evaluation.protocols.records import read_protocol
from triportrait.train.evaluation.protocols.summary import read_scores
from triportrait.train.evaluation.protocols.tables import check_comparable, csv_text, markdown

logger = logging.getLogger(__name__)

KIND = "triportrait comparison"
MOST_RESULTS = 20


@dataclass(frozen=True)
class Table:
    """Lay the scores of methods beside each other: Markdown, CSV, and one page with pictures of every pair."""

    results: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="R", help_behavior_hint="")] = ()
    """Folders of results that `score` measured, all by one protocol."""
    protocol: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The protocol file, whose choices the page then explains."""
    paper: Annotated[Literal["3"] | None, tyro.conf.arg(metavar="3", help_behavior_hint="")] = None
    """3: lay own ablation runs, whose methods are named by their rows (`run --method K`) and follow a protocol of the
    kind p4d-table3, below the rows of the paper's Table 3; ablations.md and ablations.csv are made, too."""
    out: Path = Path("comparison")
    """The folder to make: table.md, table.csv, table.html."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the folder if it holds such tables."""

    def run(self) -> None:
        """Check that the results may be compared, write, print."""
        if not self.results:
            raise InputError("R is missing: expected folders of scored results; name one or more")
        if len(self.results) > MOST_RESULTS:
            raise InputError(f"R: expected at most {MOST_RESULTS} folders, got {len(self.results)}; name fewer")
        scores = [read_scores(folder) for folder in self.results]
        check_comparable(scores, self.results)
        protocol = None if self.protocol is None else read_protocol(self.protocol)
        if protocol is not None and protocol.sha256 != scores[0]["protocol"]:
            raise InputError(
                f"{self.protocol}: expected the protocol {scores[0]['protocol'][:12]} that the results were scored by,"
                f" got {protocol.sha256[:12]}; name that one"
            )
        check_target(self.out, self.overwrite, KIND)
        text = markdown(scores)
        ablations = None if self.paper is None else ablation_markdown(scores, self.results)
        section = "" if self.paper is None else ablation_html(scores, self.results)
        settings = {"protocol": scores[0]["protocol"], "methods": [one["method"] for one in scores]}
        with whole_folder(self.out, self.overwrite, KIND, settings) as folder:
            (folder / "table.md").write_text(text, encoding="utf-8")
            (folder / "table.csv").write_text(csv_text(scores), encoding="utf-8", newline="")
            (folder / "table.html").write_text(page(scores, self.results, protocol, section), encoding="utf-8")
            if ablations is not None:
                (folder / "ablations.md").write_text(ablations, encoding="utf-8")
                (folder / "ablations.csv").write_text(ablation_csv(scores, self.results), encoding="utf-8", newline="")
        print(text if ablations is None else ablations)
        made = ["table.md", "table.csv", "table.html", *(["ablations.md", "ablations.csv"] if self.paper else [])]
        logger.info("%s: %s", self.out, ", ".join(made))
