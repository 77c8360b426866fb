"""Runs of our network: each pair appears whole, a run that was killed goes on, and results are not mixed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.train.engines.ranks import Ranks
from triportrait.train.evaluation.protocols.results import open_results
from triportrait.train.evaluation.protocols.running import check_run, run_protocol


class Renderer:
    """Gives the driving frame back, as a killed process after some frames."""

    def __init__(self, frames: int | None = None):
        self.left, self.made, self.prepared = frames, 0, 0

    def begin(self):
        pass

    def prepare(self, source):
        self.prepared += 1
        return source

    def render(self, prepared, driving, camera):
        if self.left == self.made:
            raise KeyboardInterrupt
        self.made += 1
        return driving


def test_a_killed_run_goes_on_where_it_was(protocol, tmp_path):
    card = check_run(tmp_path / "r", protocol, {"method": "m"}, False)
    with pytest.raises(KeyboardInterrupt):
        run_protocol(tmp_path / "r", protocol, Renderer(9), card, Ranks())
    names = {path.name for path in (tmp_path / "r").iterdir()}
    assert names == {"results.json", "self-0000", "self-0000.json"}, "one pair is whole, of the second nothing is left"
    first = (tmp_path / "r" / "self-0000" / "000003.png").stat().st_mtime_ns
    again, done = Renderer(), []
    assert check_run(tmp_path / "r", protocol, {"method": "m"}, False) == card
    assert run_protocol(tmp_path / "r", protocol, again, card, Ranks(), tell=done.append) == {}
    assert again.made == 5 * 6 and sum(done) == 36
    assert (tmp_path / "r" / "self-0000" / "000003.png").stat().st_mtime_ns == first
    results = open_results(tmp_path / "r", protocol)
    assert results.method == "m" and len(results.present) == 6


def test_two_ranks_share_the_pairs(protocol, tmp_path):
    card = check_run(tmp_path, protocol, {"method": "m"}, False)

    class Alone(Ranks):
        """One of two, which waits for nobody."""

        def barrier(self):
            pass

        def all_gather(self, value):
            return [value]

    made = []
    for rank in (0, 1):
        renderer = Renderer()
        run_protocol(tmp_path, protocol, renderer, card, Alone(rank, 2))
        made.append(renderer.made)
    assert made == [18, 18]


def test_a_pair_that_cannot_be_rendered_is_named(protocol, tmp_path):
    class Fails(Renderer):
        def render(self, prepared, driving, camera):
            if self.made == 7:
                raise InputError("driving: not finite")
            return super().render(prepared, driving, camera)

    card = check_run(tmp_path, protocol, {"method": "m"}, False)
    failed = run_protocol(tmp_path, protocol, Fails(), card, Ranks())
    assert failed == dict.fromkeys([pair.name for pair in protocol.pairs[1:]], "driving: not finite")


def test_another_run_or_other_files_are_not_mixed(protocol, tmp_path):
    card = check_run(tmp_path / "r", protocol, {"method": "m"}, False)
    run_protocol(tmp_path / "r", protocol, Renderer(), card, Ranks())
    with pytest.raises(InputError, match="another method"):
        check_run(tmp_path / "r", protocol, {"method": "n"}, False)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        check_run(tmp_path / "own", protocol, {"method": "m"}, True)
    anew = check_run(tmp_path / "r", protocol, {"method": "n"}, True)
    renderer = Renderer()
    run_protocol(tmp_path / "r", protocol, renderer, anew, Ranks(), overwrite=True)
    assert renderer.made == 36


def test_the_command_renders_scores_and_says_how_fast(clips, tmp_path, capsys):
    """Our own small network, from the protocol to the table."""
    path, out = str(clips / "p4d-table1.jsonl"), str(tmp_path / "ours")
    words = ["evaluate", "run", path, "--weights", "demo", "--faces", "none", "--device", "cpu", "--out", out]
    assert cli.main(words) == 0
    card = json.loads((tmp_path / "ours" / "results.json").read_text())
    assert (card["method"], card["made_px"], card["watermark"]) == ("ours", 128, False)
    assert len(card["sha256"]["portrait.safetensors"]) == 64
    words = ["evaluate", "score", out, "--protocol", path, "--faces", "none", "--cache", str(tmp_path / "c")]
    assert cli.main(words) == 0
    assert "frames per second" in capsys.readouterr().out
    scores = json.loads((tmp_path / "ours" / "scores.json").read_text())
    speed = [cell["value"] for cell in scores["cells"] if cell["metric"] == "frame_rate"]
    seconds = [json.loads((tmp_path / "ours" / f"self-000{k}.json").read_text()) for k in range(3)]
    assert speed[0] == pytest.approx(np.mean([s["frames"] / s["seconds"] for s in seconds]))
    assert (
        "triportrait convert" in scores["empty"]["weights:arcface"]
        or "--networks" in scores["empty"]["weights:arcface"]
    )


def test_the_call_without_a_kind_still_measures_weights(capsys, caplog):
    assert cli.main(["evaluate", "demo", "--heads", "0"]) == 2
    assert "--heads: expected a whole number" in caplog.text
    assert cli.main(["evaluate", "weights", "demo", "--heads", "0"]) == 2
    assert caplog.text.count("--heads: expected a whole number") == 2
