"""Compare what `prepare videos` said of the films with what is true of them: `python -m docs.tracking.films.compare`.

    python -m docs.tracking.films.compare TRUTH.json STORE

It prints a row for each film and ends with 1 where one is wrong: a film that is missing, a wrong number of clips, shots
that begin elsewhere than the film was cut, or a reason that is not the film's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

CUT_TOLERANCE = 1  # frames from where a film was cut to where a shot begins


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, print the table, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.tracking.films.compare", description=__doc__)
    parser.add_argument("truth", type=Path, help="truth.json of `make`")
    parser.add_argument("store", type=Path, help="what `prepare videos` wrote")
    asked = parser.parse_args(arguments)
    rows, wrong = compare(json.loads(asked.truth.read_text()), asked.store)
    print("| film | frames | true | clips | reason | right |\n| --- | ---: | --- | ---: | --- | --- |")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(f"\n{len(rows) - len(wrong)} of {len(rows)} as they should be")
    for line in wrong:
        print(f"wrong: {line}")
    return 1 if wrong else 0


def compare(truth: dict[str, Any], store: Path) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Compare a store with the truth; returns rows for the table, and a sentence for each error."""
    said = {line["film"]: line for line in map(json.loads, (store / "films.jsonl").read_text().splitlines())}
    report = json.loads((store / "report.json").read_text())
    others, rows, wrong = set(report["other_files"]["names"]), [], []
    for name, facts in truth.items():
        expected = facts["expected"]
        kept, reason, mistakes = 0, "", []
        if "no film" in expected.get("reasons", ()):
            reason = "no film" if name in others else "?"
            mistakes += [] if name in others and name not in said else [f"expected among other files: {name}"]
        elif name not in said:
            mistakes.append(f"{name}: nothing was said of it")
        else:
            clips = [shot for shot in said[name]["shots"] if shot["clip"] is not None]
            kept, reason = len(clips), said[name]["reason"] or ""
            if kept != expected["kept"]:
                mistakes.append(f"{name}: expected {expected['kept']} clips, got {kept} ({reason})")
            if reason and reason not in expected.get("reasons", (reason,)):
                mistakes.append(f"{name}: expected {' or '.join(expected['reasons'])}, got {reason}")
            if kept and facts["shots"] > 1:
                starts = [shot["first_frame"] for shot in clips]
                each = facts["frames"] // facts["shots"]
                if any(abs(start - k * each) > CUT_TOLERANCE for k, start in enumerate(starts)):
                    mistakes.append(f"{name}: expected shots every {each} frames, got them at {starts}")
        wants = expected["kept"] or " or ".join(expected["reasons"])
        rows.append((name, facts.get("frames", ""), wants, kept, reason, "no" if mistakes else "yes"))
        wrong += mistakes
    wrong += [f"{name}: there is no such film" for name in said if name not in truth]
    return rows, wrong + _sums(said, report)


def _sums(said: dict[str, Any], report: dict[str, Any]) -> list[str]:
    """Add up what was said of films and shots, and compare it with the report."""
    wrong = []
    films = Counter(line["reason"] for line in said.values())
    shots = Counter(shot["reason"] for line in said.values() for shot in line["shots"])
    for what, counts in (("films", films), ("shots", shots)):
        told = report[what]
        dropped = {reason: count for reason, count in counts.items() if reason is not None}
        if (told["found"], told["kept"], {k: v for k, v in told["dropped"].items() if v}) != (
            counts.total(), counts[None], dropped,
        ):  # fmt: skip
            wrong.append(f"{what}: the report says {told}, its lines add up to {dict(counts)}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
