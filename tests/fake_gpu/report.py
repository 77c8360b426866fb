"""Run everything on a fake GPU: python -m tests.fake_gpu.report OUT.json [--compile N] [RUN ...]"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from tests.fake_gpu.device import start_again_with_library


def main() -> None:
    """Run what is named, everything by default, and write counts, launches and what was compiled into a file."""
    from tests.fake_gpu.launches import Programs, compile_programs
    from tests.fake_gpu.runs import RUNS, running
    from triportrait.profiling.cases import CASES, DTYPES, LAUNCHED
    from triportrait.profiling.compile_table import launches as tabled

    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--compile", type=int, default=0, metavar="N", help="compile each N-th program; 0: none")
    parser.add_argument("runs", nargs="*", default=list(RUNS))
    options = parser.parse_args()
    programs: Programs = {}
    report = {}
    for name in options.runs:
        start = time.perf_counter()
        work, xformers = RUNS[name]
        with running(name, programs, xformers) as run:
            work(run)
        attention = [[*key, count] for key, count in run.attention.items()]
        report[name] = {"rows": run.rows, "attention": attention}
        print(f"{name}: {time.perf_counter() - start:.1f} s, {len(programs)} programs so far", flush=True)
    cases = {launch.binary(): f"{name}, {dtype}" for name, dtype, launch in tabled([*CASES, *LAUNCHED], DTYPES)}
    launches = [program.row() | {"case": cases.get(key)} for key, program in programs.items()]
    compiled = []
    if options.compile:
        start = time.perf_counter()
        compiled = compile_programs(list(programs.values())[:: options.compile])
        faults = [row for row in compiled if row["fault"]]
        print(*faults, sep="\n")
        print(
            f"{len(compiled)} compiled, {len(faults)} with a fault, in {time.perf_counter() - start:.1f} s", flush=True
        )
    options.out.write_text(json.dumps({"runs": report, "launches": launches, "compiled": compiled}, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
