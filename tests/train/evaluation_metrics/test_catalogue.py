"""What holds for every metric of the catalogue: its description, its inputs, its memory, the portions it comes in."""

from __future__ import annotations

import re
import resource
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.train.evaluation_metrics.drawn import draw
from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.catalogue import METRICS, measurable, metric
from triportrait.train.evaluation.metrics.definition import Definition, Score
from triportrait.train.evaluation.metrics.distributions import RESERVOIR
from triportrait.train.evaluation.metrics.page import page

EACH = pytest.mark.parametrize("definition", METRICS.values(), ids=METRICS)
FRAMES = 9
PAPERS_WORDS = re.compile(r"\b(AED|AED_f|APD|LPIPS|LPIPS_h|FID|KID|ID|Cons|SyncNet|paper|Portrait4D)\b")
HEARS_ALL = {"fid", "kid", "frame"}  # the first word of metrics to which every frame counts, with a face or without
AT_BEST = {  # of a result that equals what it is compared with
    "psnr": 100.0, "ssim": 1, "ms_ssim": 1, "sharpness": 1, "sharpness_to_source": 1, "id": 1, "id_to_truth": 1,
    "mouth_correlation": 1, "lids_correlation": 1, "brows_correlation": 1,
    "mouth_gain": 1, "lids_gain": 1, "brows_gain": 1,
}  # fmt: skip
COMPARES_NOTHING = ("flicker", "frame_rate", "lpips", "cons", "jitter", "syncnet", "kid")
OF = ("confidence", "distance", "offset")
REDUCTIONS = (  # one metric of each
    "psnr", "mouth_gain", "flicker", "fid_clean", "kid_clean", "cons_pairwise", "syncnet_confidence", "frame_rate",
)  # fmt: skip


def score(definition: Definition, inputs: dict[str, np.ndarray], portions: tuple[int, ...] = (FRAMES,)) -> Score:
    """The score of inputs that come in portions of the given sizes."""
    ends = np.cumsum(portions)
    parts = [{n: a[end - size : end] for n, a in inputs.items()} for end, size in zip(ends, portions, strict=True)]
    return definition.score(parts)


@EACH
def test_a_definition_says_what_it_is(definition):
    assert re.fullmatch(r"[a-z][a-z0-9_]*", definition.name)
    assert re.fullmatch(r"[A-Z].{40,}\.", definition.sentence), "one whole sentence"
    assert definition.kinds and definition.reads
    assert definition.better in ("higher", "lower", None)
    roles = {name.partition(".")[0] for name in definition.reads}
    assert ("truth" in definition.needs) == bool(roles & {"truth", "pair"})
    assert set(definition.kinds) <= {"self"} or "truth" not in definition.needs, "only there the truth is known"
    networks = [need for need in definition.needs if need.startswith("weights:")]
    assert bool(networks) != (definition.whose == "default")
    if {name.partition(".")[2] for name in definition.reads} & {"landmarks", "turn", "head_mask", "identity"}:
        assert "faces" in definition.needs


@EACH
def test_a_default_is_never_called_the_paper_s(definition):
    if definition.whose == "default":
        for text in (definition.title, definition.sentence, definition.name.upper()):
            assert not PAPERS_WORDS.search(text), text
    else:
        assert PAPERS_WORDS.search(definition.title)


def test_titles_and_sentences_are_told_apart():
    for texts in ([each.title for each in METRICS.values()], [each.sentence for each in METRICS.values()]):
        assert len(set(texts)) == len(texts)


def test_each_family_of_readings_is_complete():
    norms = {"mean_square", "mean_absolute", "sum_absolute", "root_mean_square"}
    resizes = {"legacy_pytorch", "legacy_tensorflow", "clean"}
    families = {
        "aed_f_": {"mean_absolute", "mean_square", "one_minus_cosine"}, "aed_": norms,
        "apd_": norms | {"translation_mean_absolute"}, "lpips_h_": {"alex_within_mask", "alex_black_beyond"},
        "lpips_": {"alex", "vgg"}, "fid_": resizes, "kid_": resizes, "cons_": {"pairwise", "to_mean"},
        "syncnet_": set(OF),
    }  # fmt: skip
    names = set(METRICS)
    for start, readings in families.items():
        family = {name for name in names if name.startswith(start)}
        assert family == {start + reading for reading in readings}
        names -= family


@EACH
def test_portions_change_no_bit(definition):
    inputs = draw(definition, FRAMES)
    whole = score(definition, inputs)
    assert whole.value is not None and np.isfinite(whole.value)
    for portions in ((1,) * FRAMES, (4, 5), (7, 1, 1)):
        assert score(definition, inputs, portions) == whole


@EACH
def test_frames_change_the_score(definition):
    if definition.name == "syncnet_offset":
        return  # of so few windows the zeros beyond the clip are nearest
    assert len({score(definition, draw(definition, FRAMES, seed)).value for seed in range(4)}) > 1


@EACH
def test_what_equals_its_reference_is_at_best(definition):
    if definition.name.startswith(COMPARES_NOTHING):
        return
    inputs = draw(definition, FRAMES)
    results = {n.partition(".")[2]: a for n, a in inputs.items() if n.startswith("result.")}
    value = score(definition, {name: results[name.partition(".")[2]] for name in inputs}).value
    assert value == pytest.approx(AT_BEST.get(definition.name, 0), abs=2e-6)


@EACH
def test_nothing_is_measured_on_what_is_not_finite(definition):
    for name, array in draw(definition, FRAMES).items():
        if array.dtype.kind == "f":
            for bad in (np.nan, np.inf):
                spoilt = draw(definition, FRAMES)
                spoilt[name] = array.copy()
                spoilt[name][3].flat[-1:] = bad
                if array.ndim == 1:
                    spoilt[name][3] = bad
                with pytest.raises(InputError, match=rf"{name}: expected finite numbers.*first in frame 3"):
                    score(definition, spoilt)


@EACH
def test_empty_and_misshapen_inputs_are_refused(definition):
    good = draw(definition, FRAMES)
    with pytest.raises(InputError, match="got no frame at all"):
        score(definition, {name: array[:0] for name, array in good.items()})
    for name, array in good.items():
        role = name.partition(".")[0]
        for bad in (
            array[..., None],
            array.astype("U8"),
            *([array[:-1]] if len(good) > 1 and role != "source" else []),
        ):
            with pytest.raises(InputError, match=r": expected"):
                score(definition, {**good, name: bad})


@EACH
def test_a_clip_without_frames_has_no_score_and_says_so(definition):
    empty = definition.score([])
    assert empty.value is None and empty.note and empty.frames == 0


@EACH
def test_frames_without_a_face_are_left_out_and_counted(definition):
    if definition.name.split("_")[0] in HEARS_ALL:
        return
    inputs = draw(definition, FRAMES)
    found = np.ones(FRAMES, bool)
    found[-2:] = False
    whole = score(definition, {name: array[:-2] for name, array in inputs.items()}, (FRAMES - 2,))
    for name, array in inputs.items():
        if array.dtype.kind == "f" and name != "driving.sound_embedding":
            array[-2:] = np.nan  # there was nothing to read off
    left = definition.score([{**inputs, "found": found}])
    if "driving.sound_embedding" not in inputs:  # the sound goes on
        assert left == replace(whole, missing=2)
        assert left.missing_share == pytest.approx(2 / (2 + left.frames))
    assert (left.frames, left.missing) == (whole.frames, 2)
    none = definition.score([{**inputs, "found": np.zeros(FRAMES, bool)}])
    assert none.value is None and none.note and none.missing == FRAMES


@EACH
def test_found_says_it_of_each_frame(definition):
    if definition.name.split("_")[0] not in HEARS_ALL:
        for found in (np.ones(FRAMES - 1, bool), np.ones(FRAMES)):
            with pytest.raises(InputError, match="found"):
                definition.score([{**draw(definition, FRAMES), "found": found}])


@pytest.mark.parametrize("name", REDUCTIONS)
def test_memory_is_flat_over_10_000_frames(name):
    """What a reduction keeps does not grow with the number of frames; they come in portions of 50."""
    definition = METRICS[name]
    portion = draw(definition, 50)
    reduction = definition.start()

    def walk(frames: int) -> None:
        for _ in range(0, frames, 50):
            reduction.add(*(portion[each] for each in definition.reads))

    tracemalloc.start()
    walk(RESERVOIR if name.startswith("kid") else 600)
    kept, _ = tracemalloc.get_traced_memory()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.reset_peak()
    walk(10_000)
    kept_at_last, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_at_last - kept < 100e3, f"{kept_at_last - kept:,} bytes more are kept"
    assert most - kept < 1e6, f"{most - kept:,} bytes at most"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 30e3, "KiB of the process"


def test_each_reduction_is_walked():
    kinds = {type(each.start()) for each in METRICS.values()}
    assert {type(METRICS[name].start()) for name in REDUCTIONS} == kinds


def test_a_name_that_is_none_is_refused():
    assert metric("aed_mean_square") is METRICS["aed_mean_square"]
    with pytest.raises(InputError, match=r"'aed_mean_squar'.*aed_mean_square"):
        metric("aed_mean_squar")
    with pytest.raises(InputError, match="AED alone, for example, has four definitions"):
        metric("aed")


def test_the_page_of_definitions_is_the_catalogue():
    """`python -m triportrait.train.evaluation.metrics.page > docs/evaluation/definitions.md` writes it."""
    assert (Path(__file__).parents[3] / "docs" / "evaluation" / "definitions.md").read_text() == page()


def test_without_anything_brought_the_defaults_are_measured():
    names = {each.name for each in measurable("self", ("truth", "faces", "seconds"))}
    assert names == {name for name, each in METRICS.items() if each.whose == "default"}
    cross = {each.name for each in measurable("cross", ("faces",))}
    assert "psnr" not in {each.name for each in measurable("cross", ("truth", "faces"))}, "it means nothing there"
    assert "psnr" not in cross and "mouth_gain" in cross and "frame_rate" not in cross
    assert "id" in {each.name for each in measurable("cross", ("faces", "weights:arcface"))}
    heard = measurable("sound", ("sound", "faces", "weights:syncnet"))
    assert [each.name for each in heard if each.whose != "default"] == [f"syncnet_{of}" for of in OF]
