"""FID and KID of whole sets, through `evaluate score`, are torch-fidelity's own; scoring that was killed goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.core.metrics.published_files import write_inception
from tests.train.evaluation_protocols.moving_clips import SIZE_PX, write_clip, write_results
from triportrait import cli
from triportrait.core.metrics.torchvision_ops import declare
from triportrait.train.engines.ranks import Ranks
from triportrait.train.evaluation.metrics.distributions import RESIZES
from triportrait.train.evaluation.protocols.features import FOUND, FeatureCache, key_of
from triportrait.train.evaluation.protocols.instruments import make_instruments
from triportrait.train.evaluation.protocols.records import Protocol, protocol_bytes, read_protocol
from triportrait.train.evaluation.protocols.results import open_results
from triportrait.train.evaluation.protocols.scoring import DRIVING, RESULT, stretches
from triportrait.train.evaluation.protocols.summary import score_results

declare()
fidelity = pytest.importorskip("torch_fidelity")
FRAMES = 3


@pytest.fixture(scope="module")
def two_clips(tmp_path_factory) -> Path:
    """Two clips of three frames that drive themselves: as few pictures as sets have."""
    folder = tmp_path_factory.mktemp("sets") / "clips"
    for person in range(2):
        write_clip(folder / f"person{person}", person, FRAMES)
    assert cli.main(["evaluate", "protocol", str(folder), "--size", str(SIZE_PX)]) == 0
    protocol = read_protocol(folder / "p4d-table1.jsonl")
    pairs = [pair for pair in protocol.pairs if pair.kind == "self"]
    (folder / "sets.jsonl").write_bytes(protocol_bytes(protocol.head, list(protocol.clips.values()), pairs))
    return folder / "sets.jsonl"


@pytest.fixture(scope="module")
def scored(two_clips, tmp_path_factory) -> tuple[Path, Path]:
    """Results and the folder of Inception's file, scored by the command as a user does."""
    folder = tmp_path_factory.mktemp("scored")
    write_inception(folder)
    write_results(folder / "copy", read_protocol(two_clips), "copy")
    words = ["evaluate", "score", str(folder / "copy"), "--protocol", str(two_clips), "--networks", str(folder)]
    assert cli.main([*words, "--faces", "none", "--cache", str(folder / "cache"), "--device", "cpu"]) == 0
    return folder / "copy", folder


def cells(results: Path) -> dict[str, dict]:
    return {c["metric"]: c for c in json.loads((results / "scores.json").read_text())["cells"]}


def library_s(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """torch-fidelity's FID and KID, times 1000, of features [N, 2048].

    No turn of all features changes FID: they are turned into the few directions in which they lie, as the library's
    eigenvalues of 2048 x 2048 take half a minute.
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    one, other = one.double(), other.double()
    axes = torch.linalg.qr(torch.cat([one, other]).T).Q
    statistics = [fid_features_to_statistics(rows @ axes) for rows in (one, other)]
    fid = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    kid = kid_features_to_metric(one, other, kid_subsets=1, kid_subset_size=len(one), verbose=False)
    return fid, 1000 * kid["kernel_inception_distance_mean"]


def kept(folder: Path, protocol: Protocol, name: str, role: str) -> torch.Tensor:
    """The features that the scoring kept, in the protocol's order."""
    from triportrait.train.evaluation.protocols.network_features import network_extractors

    (inception,), *_ = network_extractors(str(folder), torch.device("cpu"))
    rows = []
    for pair in protocol.pairs:
        record = json.loads((folder / "copy" / "scores" / f"{pair.name}.json").read_text())
        at = stretches(protocol, pair, record["made_from"]["result"])[role]
        key = key_of(at.content, at.first, at.count, at.crop, inception)
        rows.append(np.array(FeatureCache(folder / "cache").find(key).rows[name]))
    return torch.from_numpy(np.concatenate(rows))


def test_every_column_is_torch_fidelity_s_on_the_same_features(scored, two_clips):
    results, folder = scored
    found, protocol = cells(results), read_protocol(two_clips)
    for rule in RESIZES:
        sides = [kept(folder, protocol, f"inception_{rule}", role) for role in (RESULT, DRIVING)]
        assert sides[0].shape == (2 * FRAMES, 2048)
        fid, kid = library_s(*sides)
        assert found[f"fid_{rule}"]["value"] == pytest.approx(fid, rel=1e-6)
        assert found[f"kid_{rule}"]["value"] == pytest.approx(kid, rel=1e-6)
    assert len({found[f"fid_{rule}"]["value"] for rule in RESIZES}) == 3


def test_the_tensorflow_column_is_torch_fidelity_s_on_the_same_pictures(scored, two_clips):
    """Its own reader, its own network, our file of weights."""
    from torch_fidelity.utils import create_feature_extractor, extract_featuresdict_from_input_id

    results, folder = scored
    options = {"feature_extractor_weights_path": str(folder / "weights-inception-2015-12-05-6726825d.pth")}
    network = create_feature_extractor("inception-v3-compat", ["2048"], cuda=False, verbose=False, **options)
    sides = []
    for number, place in enumerate((results, two_clips.parent), start=1):
        more = {
            f"input{number}": str(place),
            "samples_find_deep": True,
            "samples_find_ext": "png",
            "cuda": False,
            "verbose": False,
        }
        with torch.no_grad():
            sides.append(extract_featuresdict_from_input_id(number, network, batch_size=8, **more)["2048"])
    assert sides[0].shape == sides[1].shape == (2 * FRAMES, 2048)
    fid, kid = library_s(*sides)
    assert cells(results)["fid_legacy_tensorflow"]["value"] == pytest.approx(fid, rel=1e-5)
    assert cells(results)["kid_legacy_tensorflow"]["value"] == pytest.approx(kid, rel=1e-5)


def test_a_set_says_how_small_it_is_and_that_its_network_was_made_by_rule(scored):
    found = cells(scored[0])
    for rule in RESIZES:
        for name in ("fid", "kid"):
            cell = found[f"{name}_{rule}"]
            assert (cell["clips"], cell["frames"], cell["low"], cell["by_rule"]) == (2, 2 * FRAMES, None, True)
        assert "biased upwards under 5,000 frames, and 6 came" in found[f"fid_{rule}"]["note"]
    assert not found["psnr"]["by_rule"], "it needs no network"
    assert json.loads((scored[0] / "scores.json").read_text())["precision"] == "float32, TF32 off"


class MeanColours:
    """Stands for Inception where only the walk matters: three numbers of each picture."""

    need, identity = "weights:inception", "1 test"
    fields = tuple(f"inception_{rule}" for rule in RESIZES)

    def start(self):
        return self

    def add(self, frames, faces):
        means = frames.mean((1, 2)).astype(np.float32)
        return dict.fromkeys(self.fields, means) | {FOUND: np.ones(len(frames), bool)}


def test_a_scoring_that_was_killed_goes_on_to_the_same_bytes(clips, protocol, tmp_path):
    """It is killed after each pair, with what a pair had half kept lying about."""
    written = []
    for name in ("whole", "killed"):
        folder = write_results(tmp_path / name / "copy", protocol, "copy")
        instruments, _ = make_instruments(None, (MeanColours(),), (), None, FeatureCache(tmp_path / name / "c"))

        def killed(pairs: int) -> None:
            raise KeyboardInterrupt

        for _ in range(len(protocol.pairs) if name == "killed" else 0):
            (tmp_path / name / "c" / "00").mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "c" / "00" / ".half.0.part").mkdir(exist_ok=True)
            with pytest.raises(KeyboardInterrupt):
                score_results(open_results(folder, protocol), protocol, instruments, Ranks(), {}, killed)
        found = score_results(open_results(folder, protocol), protocol, instruments, Ranks(), {})
        assert {c["kind"] for c in found["cells"] if c["metric"] == "fid_clean"} == {"self", "cross"}
        written.append((folder / "scores.json").read_bytes())
        shutil.rmtree(folder)
    assert written[0] == written[1]
