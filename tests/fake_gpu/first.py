"""Run what the first tests on a GPU do on a fake one: python -m tests.fake_gpu.first OUT.json [--compile]

It tells which kernels each of them launches, how many programs all of them compile, and with --compile how many CPU
seconds that takes for sm_90.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.fake_gpu.device import start_again_with_library

CHIP = 90


def main() -> None:
    """Run all of them, one after the other, as one process of pytest does."""
    from tests.fake_gpu.launches import Programs, compile_programs
    from tests.fake_gpu.runs import running
    from tests.first import WORK

    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--compile", action="store_true", help="compile every program, and count CPU seconds")
    options = parser.parse_args()
    programs: Programs = {}
    for name, work in WORK.items():
        with running(name, programs):
            work("cuda")
    launched = {name: sorted({p.launch.name for p in programs.values() if name in p.runs}) for name in WORK}
    new = dict.fromkeys(WORK, 0)
    for program in programs.values():
        new[next(name for name in WORK if name in program.runs)] += 1
    report: dict[str, object] = {"launched": launched, "programs": new}
    if options.compile:
        rows = compile_programs(list(programs.values()), [CHIP])
        report["faults"] = [row for row in rows if row["fault"]]
        report["cpu_seconds"] = round(sum(row["cpu_seconds"] for row in rows if not row["fault"]), 1)
        report["longest"] = max((row.get("cpu_seconds", 0.0), row["launch"]) for row in rows)
        print(f"{len(rows)} programs, {report['cpu_seconds']} CPU seconds, the longest {report['longest']}")
    options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
