"""Indexes, cards and configs of training that were made to do harm, or by another tool: one short sentence."""

from __future__ import annotations

import json
import time

import pytest

from triportrait.core.errors import InputError
from triportrait.core.log_lines import TerminalFormatter
from triportrait.train.data.clip_store.store import KIND as CLIPS
from triportrait.train.data.clip_store.store import ClipStore
from triportrait.train.data.multiview import KIND as SET
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.nonfinite_replay import _config
from triportrait.train.presets import PRESETS
from triportrait.train.runs.checkpoints import ema_weights
from triportrait.train.runs.flatten import flattened
from triportrait.train.runs.run_config import check_config

CODES = "\x1b[2J\n\u202e"


def store(folder, clip=None, **changes):
    one = {"name": "a", "frames": 2, "size": 64, "files": {"a.mp4": {"bytes": 1, "sha256": ""}}} | (clip or {})
    return write(folder, {"kind": CLIPS, "source": "heads", "clips": [one]} | changes)


def write(folder, value, name="index.json"):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def heads(folder, **changes):
    numbers = dict.fromkeys(("count", "expressions", "views", "size", "depth_steps"), 1)
    return write(folder, {"kind": SET, **numbers, "files": {}} | changes)


WRONG = {
    "a path for a name": lambda f: ClipStore(store(f, {"name": "../../etc/x"})),
    "codes for a name": lambda f: ClipStore(store(f, {"name": CODES})),
    "a name of megabytes": lambda f: ClipStore(store(f, {"name": "x" * 3_000_000})),
    "a path for a file": lambda f: ClipStore(store(f, {"files": {"/etc/passwd": {"bytes": 1}}})),
    "files that are none": lambda f: ClipStore(store(f, {"files": {"a.mp4": 3}})),
    "a truth for frames": lambda f: ClipStore(store(f, {"frames": True})),
    "a text for frames": lambda f: ClipStore(store(f, {"frames": "2"})),
    "a real for a size": lambda f: ClipStore(store(f, {"size": 64.0})),
    "a negative size": lambda f: ClipStore(store(f, {"size": -64})),
    "a long number": lambda f: ClipStore(store(f, {"frames": 10**400})),
    "another kind": lambda f: ClipStore(store(f, kind=CODES)),
    "a set of another kind": lambda f: MultiviewSet(heads(f, kind=CODES * 100_000)),
    "a set of a trillion": lambda f: MultiviewSet(heads(f, count=10**12)),
    "a set of a long number": lambda f: MultiviewSet(heads(f, count=10**400)),
    "a set of a truth": lambda f: MultiviewSet(heads(f, views=True)),
    "a set of a text": lambda f: MultiviewSet(heads(f, size=CODES * 100_000)),
    "a path in a set": lambda f: MultiviewSet(heads(f, files={f"../{CODES}" * 10_000: {}})),
    "a name twice": lambda f: MultiviewSet(write(f, '{"kind": 1, "kind": 2, "files": {}}')),
    "another run": lambda f: check_config(write(f, {CODES * 9_999: CODES * 9_999}, "config.json"), {"seed": 1}, False),
    "a deep config": lambda f: check_config(write(f, "[" * 90_000, "config.json"), {"seed": 1}),
    "a checkpoint": lambda f: ema_weights(write(f, {"files": {CODES * 9_999: {}}}, "checkpoint.json"), "generator"),
}


@pytest.mark.parametrize("ask", WRONG.values(), ids=WRONG)
def test_it_is_refused_at_once_in_a_sentence_that_does_no_harm(ask, tmp_path):
    began = time.perf_counter()
    with pytest.raises(InputError) as caught:
        ask(tmp_path)
    assert time.perf_counter() - began < 2
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 1000


@pytest.mark.parametrize("value", [True, 1.5, "1", [1], None, {}])
def test_numbers_of_a_config_are_of_their_type(tmp_path, value):
    plain = json.loads(json.dumps(flattened(PRESETS["tiny"](), "config")[0]))
    assert _config(write(tmp_path, plain, "config.json")) == PRESETS["tiny"]()
    plain["seed"] = value
    with pytest.raises(InputError, match="it is no config of a run of one stage"):
        _config(write(tmp_path, plain, "config.json"))


def test_what_changed_in_a_run_is_said_in_lines_that_do_no_harm(tmp_path, caplog):
    write(tmp_path, {"seed": CODES * 100_000}, "config.json")
    caplog.set_level("INFO")
    check_config(tmp_path, {"seed": 1}, True)
    (record,) = caplog.records
    said = TerminalFormatter().format(record)
    assert len(said) < 1100
    assert said.isprintable()
    assert "now it is 1" in said
