"""`triportrait evaluate score R --protocol PROTOCOL` measures any method's results."""

from __future__ import annotations

import logging
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from triportrait.core.gpus import chosen_device
from triportrait.serve.faces.providers import FaceKind, LazyProvider
from triportrait.train.engines.ranks import one_error_message, process_group
from triportrait.train.evaluation.protocols.frames import check_clips
from triportrait.train.evaluation.protocols.instruments import check_networks, feature_cache, make_instruments
from triportrait.train.evaluation.protocols.network_features import network_extractors
from triportrait.train.evaluation.protocols.records import read_protocol
from triportrait.train.evaluation.protocols.results import open_results
from triportrait.train.evaluation.protocols.summary import SCORES, score_results
from triportrait.train.evaluation.protocols.tables import markdown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """Measure the results of any method against a protocol; a scoring that was stopped goes on where it was."""

    results: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="R", help_behavior_hint="")]
    """The folder of results: for each pair a folder of PNGs or a video, named as the pair. scores.json is written
    there."""
    protocol: Path
    """The protocol file that the results follow."""
    networks: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """The metric networks that you brought (`triportrait convert` writes them; Inception's, AlexNet's and VGG's files
    lie there as they are), or `rule`: all of them with weights made by rule, whose numbers check an installation, are
    marked and say nothing about pictures. Without a network its columns are empty, and the scores say which file is
    missing."""
    method: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """The method's name in tables; by default that of R/results.json, or the folder's."""
    faces: FaceKind = "auto"
    """What finds faces: the networks that `triportrait fetch faces` brought (auto: where they are), or none: faces are
    not measured."""
    cache: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Where what the networks read off pictures is kept, by the pictures' hash; by default in the user's cache."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the metric networks run. Faces are found on the CPU."""

    def run(self) -> None:
        """Check everything, measure pair by pair, sum up, print."""
        from tqdm import tqdm

        with one_error_message(), process_group() as ranks, closing(LazyProvider(self.faces)) as finder:
            with ranks.raise_on_all_ranks():
                protocol = read_protocol(self.protocol)
                check_clips(protocol)
                results = open_results(self.results, protocol, self.method)
                device = chosen_device(self.device) if ranks.size == 1 or self.device == "cpu" else ranks.device
                extractors, comparisons, lip_sync, empty = network_extractors(self.networks, device)
                instruments, without_faces = make_instruments(
                    finder(), extractors, comparisons, lip_sync, feature_cache(self.cache)
                )
                check_networks(instruments, protocol.head.networks)
            hidden = None if ranks.first and logger.isEnabledFor(logging.INFO) else True
            total = len(protocol.pairs[ranks.rank :: ranks.size])
            with tqdm(total=total, unit="pair", desc="evaluate score", file=sys.stderr, disable=hidden) as bar:
                scores = score_results(results, protocol, instruments, ranks, empty | without_faces, bar.update)
            if ranks.first:
                print(markdown([scores], protocol.head.metrics))
                for need, sentence in scores["empty"].items():
                    logger.info("no %s: %s", need.removeprefix("weights:"), sentence)
                for pair, sentence in scores["failed"].items():
                    logger.warning("%s: %s", pair, sentence)
                logger.info("%s", self.results / SCORES)
