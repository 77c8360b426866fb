"""`triportrait profile` where there is no GPU: it runs, says that times there are no performance, refuses faults."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest

from triportrait import cli
from triportrait.profiling import figures, frame, kernels
from triportrait.profiling.cases import CASES
from triportrait.profiling.measurement import measure
from triportrait.profiling.warm_up import compile_beforehand


def refused(arguments, capsys):
    assert cli.main(["profile", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.err.strip().splitlines()[-1].startswith("triportrait: ")
    return captured.err


def test_kernels_are_timed_and_the_times_are_said_to_be_none(capsys):
    assert cli.main(["profile", "kernels", "--op", "composite", "--dtype", "fp32"]) == 0
    printed = capsys.readouterr().out
    assert "no performance" in printed
    assert "torch: " in printed
    assert "command: triportrait profile" in printed
    rows = [line for line in printed.splitlines() if line.startswith("| composite")]
    assert len(rows) == 2
    assert all(re.search(r"\| \d+\.\d+ \| - \| - \| \d+\.\d+ \|", row) for row in rows)


def test_a_frame_is_timed(capsys):
    assert cli.main(["profile", "frame"]) == 0
    printed = capsys.readouterr().out
    assert "no performance" in printed
    assert re.search(r"\| eager fp32 \| \d+\.\d+ / ", printed)
    ours = next(line for line in printed.splitlines() if line.startswith("| ours |"))
    assert float(ours.split("|")[-2]) > frame.MIN_DB["ours"]


def test_a_preset_on_a_cpu_has_rows_for_what_is_cached(capsys):
    assert cli.main(["profile", "frame", "--preset", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "no performance" in printed
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in printed.splitlines() if line.startswith("| ")}
    assert {"eager fp32", "ours on a CPU"} <= rows.keys() and "ours" not in rows, "interpreted it would take minutes"
    assert [cell.strip() for cell in rows["way"][:3]] == [
        f"{name} p50 / p90 / p99 ms"
        for name in ("frame, source cached", "frame, nothing cached", "new view of cached planes")
    ]
    cached, whole, view = (float(cell.split("/")[0]) for cell in rows["ours on a CPU"][:3])
    assert view < whole
    assert cached > 0
    assert float(rows["ours on a CPU"][-2]) > frame.MIN_DB["ours on a CPU"]
    assert {name for name, when in frame.PARTS.items() if name != "motion encoder"} <= rows.keys(), "the parts"
    (busy,) = (line for line in printed.splitlines() if line.startswith("- ours on a CPU: "))
    shares = {name.strip(): float(share) for name, share in re.findall(r"([a-z][a-zA-Z -]+) (\d+) %", busy)}
    largest = max(shares, key=shares.__getitem__)
    assert busy.endswith(f"; the bottleneck is {largest}.")
    assert sum(shares.values()) > 90


def test_a_frame_is_divided_among_its_parts():
    shares = frame.utilisation({"global encoder": 9.0, "tri-plane decoder": 5.0, "render": 1.0}, 8.0)
    assert shares == {"tri-plane decoder": 0.625, frame.BETWEEN: 0.25, "render": 0.125}
    assert frame.utilisation({"render": 9.0}, 8.0)[frame.BETWEEN] == 0
    row = {"way": "ours", "psnr_dB": 99.0, "parts": {"render": {"p50": 1.0}}, "utilisation": shares}
    said = "- ours: tri-plane decoder 62 %, between parts 25 %, render 12 %; the bottleneck is tri-plane decoder."
    assert said in frame.table([row]).splitlines()


def test_a_slow_call_is_not_measured_a_hundred_times():
    times = measure([lambda: time.sleep(0.02)], "cpu", warm_up=0, most_s=0.1)
    assert 1 <= times.repetitions <= 5
    assert measure([lambda: None], "cpu", 0.0, 0).repetitions == 100


def test_a_kernel_that_does_not_agree_has_no_figure(monkeypatch, capsys):
    def wrong(*args, **kwargs):
        raise AssertionError("output 0: off by 1, allowed 0.1")

    monkeypatch.setattr(kernels, "assert_agrees", wrong)
    message = refused(["kernels", "--op", "composite", "--dtype", "fp32"], capsys)
    assert "output 0: off by 1" in message
    rows = kernels.bench(["composite"], ["fp32"], "cpu")
    assert all("red" in row and "ours" not in row and "eager" not in row for row in rows)
    assert "no figure" in kernels.table(rows)


def test_a_way_that_shows_another_picture_has_no_figure(monkeypatch):
    monkeypatch.setattr(frame, "MIN_DB", {"ours": 1000.0})
    rows = {row["way"]: row for row in frame.bench(frame.config_for("cpu"), "cpu")}
    assert "1000.0 are wanted" in rows["ours"]["red"]
    assert "parts" not in rows["ours"]


def test_all_figures_go_into_one_file(tmp_path, capsys, monkeypatch):
    small = {name: CASES[name] for name in ("composite", "importance")}
    monkeypatch.setattr(figures, "CASES", small)
    out = tmp_path / "figures.json"
    assert cli.main(["profile", "all", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["machine"]["note"]
    assert written["machine"]["command"] == "triportrait profile all figures.json"
    assert written["work"]["tri-plane decoder"]["GFLOP"] == pytest.approx(847.2, rel=0.01)
    assert {row["operator"] for row in written["kernels"]} == set(small)
    assert not any("red" in row for row in (*written["kernels"], *written["frame"]))
    assert [p.name for p in tmp_path.iterdir()] == ["figures.json"]
    message = refused(["report", out], capsys)
    assert "these are of a CPU and no performance" in message


def test_figures_are_measured_in_parts_and_gone_on_with(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figures, "CASES", {name: CASES[name] for name in ("composite", "importance")})
    measured: list[str] = []

    def row(name: str) -> dict[str, str]:
        measured.append(name)
        return {"operator": name, "way": name, "number": str(len(measured))}

    monkeypatch.setattr(figures.kernels, "bench", lambda names, dtypes, device: [row(name) for name in names])
    monkeypatch.setattr(figures.frame, "bench", lambda config, device: [row("frame")])
    out = tmp_path / "figures.json"
    assert cli.main(["profile", "all", str(out), "--part", "importance"]) == 0
    assert measured == ["importance"]
    assert cli.main(["profile", "all", str(out), "--resume"]) == 0
    assert measured == ["importance", "frame", "composite"]
    assert cli.main(["profile", "all", str(out), "--part", "composite"]) == 0
    written = json.loads(out.read_text())
    assert {row["operator"]: row["number"] for row in written["kernels"]} == {"importance": "1", "composite": "4"}
    assert written["frame"][0]["number"] == "2"
    assert written["work"]
    assert "part: expected some of frame, composite, importance, got 'speed'" in refused(
        ["all", out, "--part", "speed"], capsys
    )
    written["machine"]["commit"] = "another"
    out.write_text(json.dumps(written))
    assert "these are of another; name another file" in refused(["all", out, "--resume"], capsys)
    assert json.loads(out.read_text()) == written


def test_what_is_measured_is_compiled_beforehand_in_processes():
    """On a CPU the same processes interpret, and count their CPU seconds."""
    work = [("composite", "fp32", "kernel"), ("importance", "fp32", "kernel"), ("composite", "fp32", "compiled")]
    beforehand = compile_beforehand(work, "cpu")
    assert beforehand["pieces of work"] == 3
    assert beforehand["failed"] == 0
    assert 0 < beforehand["cpu_seconds"] < 100
    assert beforehand["seconds on 16 cores"] <= beforehand["cpu_seconds"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["kernels", "--op", "composit"], "op: expected some of "),
        (["kernels", "--dtype", "fp8"], "--dtype: expected one of all, fp16, bf16, fp32, got 'fp8'"),
        (["all", "figures.txt"], "out: expected a .json file"),
        (["all", "nowhere/figures.json"], "out: expected a file in a folder that exists"),
        (["compile"], "expected a process that compiles, got TRITON_INTERPRET=1; unset it"),
        (["report", "missing.json"], "expected what `triportrait profile all` writes"),
        (["speed"], "profile: expected one of compile, roofline, kernels, "),
    ],
)
def test_bad_options_are_one_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_the_interpreter_is_chosen_before_the_kernels_are_imported():
    code = (
        "import sys, triportrait.profiling.jobs.profile; print([m for m in sys.modules if 'triportrait.kernels' in m])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_bench_runs_where_the_command_s_packages_are_missing(tmp_path):
    """A GPU image has torch, Triton, numpy and safetensors."""
    code = (
        "import sys\n"
        "absent = 'tyro', 'av', 'PIL', 'tqdm', 'torchmetrics', 'xformers', 'pytest'\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "from triportrait.profiling import figures\n"
        "figures.CASES = {'composite': figures.CASES['composite']}\n"
        "figures.profile('x', figures.Path(sys.argv[1]))\n"
    )
    out = tmp_path / "figures.json"
    subprocess.run([sys.executable, "-c", code, str(out)], check=True, timeout=300, env=os.environ)
    assert json.loads(out.read_text())["kernels"]
