"""Results that cannot be measured are refused in one sentence; one clip that fails is named and counted."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from tests.train.evaluation_protocols.moving_clips import write_results
from triportrait import cli

FACES = ("--faces", "none")


@pytest.fixture
def results(protocol, tmp_path):
    return write_results(tmp_path / "method", protocol, "copy")


def scored(results, clips, *more):
    words = ["evaluate", "score", str(results), "--protocol", str(clips / "p4d-table1.jsonl"), *FACES]
    return cli.main([*words, "--cache", str(results.parent / "cache"), *more])


def spoil(results, how):
    first = results / "self-0000" / "000000.png"
    if how == "a frame too few":
        first.unlink()
    elif how == "a frame too many":
        shutil.copy(first, first.with_name("000099.png"))
    elif how == "another size":
        Image.open(first).resize((80, 80)).save(first)
    elif how == "nothing of the protocol":
        for folder in list(results.iterdir()):
            folder.rename(folder.with_name(f"x{folder.name}"))
    elif how == "another protocol's card":
        card = {"kind": "triportrait results", "version": 1, "protocol": "0" * 64}
        (results / "results.json").write_text(json.dumps(card))
    elif how == "a card that is none":
        (results / "results.json").write_text("[")
    elif how == "no folder":
        shutil.rmtree(results)


@pytest.mark.parametrize(
    "how, sentence",
    [
        ("a frame too few", "expected 6 frames, got 5"),
        ("a frame too many", "expected 6 frames, got 7"),
        ("another size", "expected 64 x 64 px, got 80 x 80"),
        ("nothing of the protocol", "found none; name them so"),
        ("another protocol's card", "score them by their own protocol"),
        ("a card that is none", "it cannot be read"),
        ("no folder", "nothing is there"),
    ],
)
def test_refused(how, sentence, results, clips, caplog):
    spoil(results, how)
    assert scored(results, clips) == 2
    assert sentence in caplog.text
    assert not list(results.parent.rglob("scores*")), "nothing half-written"


def test_a_clip_that_fails_or_is_missing_is_named_and_counted(results, clips, capsys, caplog):
    frame = results / "self-0001" / "000003.png"
    frame.write_bytes(frame.read_bytes()[:-60])
    shutil.rmtree(results / "self-0002")
    assert scored(results, clips) == 0
    out = capsys.readouterr().out
    assert "1 of 3 pairs, 1 failed (self-0001), 1 missing (self-0002)" in out
    assert "self-0001" in caplog.text
    summed = json.loads((results / "scores.json").read_text())
    assert list(summed["failed"]) == ["self-0001"] and summed["missing"] == ["self-0002"]
    assert {c["clips"] for c in summed["cells"] if c["kind"] == "self" and c["value"] is not None} == {1}


def test_a_video_of_another_length_fails_by_name(results, clips, capsys):
    from triportrait.serve.media.video.writer import write_video

    frames = [Image.open(results / "self-0000" / f"{k:06d}.png") for k in range(6)]
    import numpy as np

    write_video(results / "self-0000.mp4", np.stack([np.asarray(f) for f in frames[:5]]), 25)
    shutil.rmtree(results / "self-0000")
    assert scored(results, clips) == 0
    assert "1 failed (self-0000)" in capsys.readouterr().out


def test_a_clip_that_was_changed_is_refused_by_score_and_run(results, clips, tmp_path, caplog):
    other = shutil.copytree(clips, tmp_path / "other")
    frame = other / "person1" / "000002.png"
    Image.open(frame).rotate(90).save(frame)
    assert scored(results, other) == 2
    assert "got other bytes" in caplog.text
    assert not (results / "scores").exists()
    words = ["evaluate", "run", str(other / "p4d-table1.jsonl"), "--weights", "demo", "--out", str(tmp_path / "ours")]
    assert cli.main(words) == 2
    assert caplog.text.count("got other bytes") == 2
    assert not (tmp_path / "ours").exists()


def test_protocols_are_never_mixed(results, clips, tmp_path, caplog):
    other = shutil.copytree(clips, tmp_path / "other", ignore=shutil.ignore_patterns("*.jsonl"))
    assert cli.main(["evaluate", "protocol", str(other), "--size", "64", "--seed", "5"]) == 0
    second = shutil.copytree(results, tmp_path / "second")
    assert scored(results, clips) == 0
    assert scored(second, other) == 0
    words = ["evaluate", "table", str(results), str(second), "--out", str(tmp_path / "t")]
    assert cli.main(words) == 2
    assert "tables never mix two protocols" in caplog.text
    assert not (tmp_path / "t").exists()


def test_two_methods_of_one_name_are_refused(results, clips, tmp_path, caplog):
    assert scored(results, clips) == 0
    second = shutil.copytree(results, tmp_path / "again" / "method")
    assert cli.main(["evaluate", "table", str(results), str(second), "--out", str(tmp_path / "t")]) == 2
    assert "--method NAME" in caplog.text


def test_results_without_scores_have_no_table(results, tmp_path, caplog):
    assert cli.main(["evaluate", "table", str(results), "--out", str(tmp_path / "t")]) == 2
    assert "make them by `triportrait evaluate score" in caplog.text


def test_names_of_methods_do_no_harm_on_the_page(results, clips, tmp_path):
    assert scored(results, clips, "--method", "<script>alert(1)</script>|=x") == 0
    assert cli.main(["evaluate", "table", str(results), "--out", str(tmp_path / "t")]) == 0
    assert "<script>" not in (tmp_path / "t" / "table.html").read_text()
    assert "\\|=x" in (tmp_path / "t" / "table.md").read_text()


def test_the_protocol_s_networks_are_the_only_ones(results, clips, protocol, tmp_path):
    from triportrait.core.errors import InputError
    from triportrait.train.evaluation.protocols.features import FeatureCache
    from triportrait.train.evaluation.protocols.instruments import check_networks
    from triportrait.train.evaluation.protocols.scoring import Instruments

    class Given:
        need, fields, identity = "weights:arcface", ("identity",), "1 " + "a" * 64

    instruments = Instruments((Given(),), FeatureCache(tmp_path))
    check_networks(instruments, {"arcface": "a" * 64, "recon3d": "b" * 64})
    with pytest.raises(InputError, match="that the protocol names"):
        check_networks(instruments, {"arcface": "b" * 64})
