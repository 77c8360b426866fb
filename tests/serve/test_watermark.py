"""The watermark: nobody sees it, a reader finds it after what happens to files, and not where there is none."""

from __future__ import annotations

import hashlib
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.serve.attacks import (
    beside,
    brighter,
    h264,
    half,
    heads,
    jpeg,
    network,
    noise,
    photograph,
    psnr,
    resized,
    talking,
    vp8,
)
from tests.serve.watermark_table import unmarked
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.media.provenance import watermark as own
from triportrait.serve.media.provenance.watermark import (
    BITS,
    FALSE_ALARM,
    Reader,
    Watermark,
    codeword,
    message_of,
    read,
)

MESSAGE = 0x2B7E151
COUNT = 12
DATA = Path(__file__).parents[1] / "data" / "provenance"


def right(frames) -> float:
    """The share of signs of single pictures that are right."""
    word = torch.tensor(codeword(MESSAGE)) * 2 - 1
    shares = []
    for frame in frames:
        one = Reader()
        one.add(frame)
        shares.append(max(float((z * word > 0).double().mean()) for z in one.sums.values()))
    return float(np.mean(shares))


@pytest.fixture(scope="module")
def marked():
    """Sequences, as they were and marked."""
    found = {
        "network": network(COUNT),
        "talking 128": talking(128, COUNT),
        "talking 256": talking(256, COUNT),
        "photograph 512": photograph(512, COUNT),
        "heads 256": heads(256, 4),
        "noise 128": noise(128, 4),
    }
    found["beside 128"] = beside(photograph(128, 1) * COUNT, talking(128, COUNT), found["network"])
    watermark = Watermark(MESSAGE)
    return {name: (frames, [watermark.mark(frame) for frame in frames]) for name, frames in found.items()}


def test_nobody_sees_it(marked):
    for name, (before, after) in marked.items():
        assert psnr(before, after) >= 42, name
        for one, other in zip(before, after, strict=True):
            change = other.astype(int) - one
            inside = (other > 0).all(-1) & (other < 255).all(-1)
            assert np.ptp(change[inside], axis=-1).max() == 0, "a colour changed"
            assert np.abs(change).max() <= 12, name
            assert abs(change.mean()) < 0.1, name


def test_faces_are_marked_less_than_hair():
    """The change is at most a level or two where skin is smooth."""
    before = photograph(512, 1)[0]
    change = Watermark(MESSAGE).mark(before).astype(float)[..., 0] - before[..., 0]
    cheek = change[290:340, 190:240]
    assert cheek.std() < 2
    assert np.abs(cheek).max() <= 6


@pytest.mark.parametrize("name", ["network", "talking 256", "photograph 512", "heads 256", "beside 128"])
def test_a_single_picture_is_read(marked, name):
    frames = marked[name][1][:4]
    for done in (frames, jpeg(frames, 95), jpeg(frames, 75), half(frames)):
        assert right(done) > 0.99
        assert all(read([frame]).message == MESSAGE for frame in done)


@pytest.mark.parametrize("name", ["network", "talking 128", "talking 256", "photograph 512", "beside 128"])
def test_a_video_is_read_after_h264_and_half_the_size(marked, name):
    film = h264(marked[name][1])
    for frames in (film, half(film)):
        found = read(frames)
        assert found.message == MESSAGE
        assert found.pictures == COUNT
    assert right(film) > 0.9
    assert right(half(film)) > (0.85 if "128" in name else 0.9)


@pytest.mark.parametrize("name", ["network", "talking 256", "photograph 512"])
def test_what_webrtc_carries_is_read(marked, name):
    pytest.importorskip("aiortc")
    film = vp8(marked[name][1], 1_500_000)
    assert len(film) == COUNT
    assert read(film).message == MESSAGE
    assert read(vp8(marked[name][0], 1_500_000)).message is None


def test_frames_add_up():
    """Single frames that are lost are read together."""
    frames = [Watermark(MESSAGE).mark(frame) for frame in talking(128, COUNT)]
    film = half(h264(frames))
    assert sum(read([frame]).message == MESSAGE for frame in film) < COUNT // 2
    assert read(film).message == MESSAGE


def test_another_exposure_is_read(marked):
    for name in ("network", "photograph 512"):
        assert read(brighter(marked[name][1], 0.8, 20)[:1]).message == MESSAGE


def test_the_sides_may_be_stretched(marked):
    frame = marked["photograph 512"][1][0]
    assert read([resized(frame, 600, 500)]).message == MESSAGE


def test_what_stands_still_is_marked_alike(marked):
    """No flicker: from frame to frame the mark changes far less than the picture."""
    for name in ("network", "talking 256", "photograph 512"):
        before, after = (np.stack(frames).astype(float) for frames in marked[name])
        change = after - before
        moved = np.sqrt(np.mean((before[1:] - before[:-1]) ** 2))
        assert np.sqrt(np.mean((change[1:] - change[:-1]) ** 2)) < max(0.6, 0.2 * moved), name
    still = photograph(128, 1)[0]
    assert (Watermark(1).mark(still) == Watermark(1).mark(still)).all()


def test_unmarked_pictures_are_fair_coins():
    """2,000 crops: no false alarm, and signs that agree with a random word as coins would."""
    generator = torch.Generator().manual_seed(5)
    agreeing, tried, hits = [], 0, 0
    for number, crop in enumerate(unmarked(2000)):
        one = Reader()
        one.add(crop)
        assert one.result().message is None
        z = one.sums[(1, 1)]
        word = torch.randint(2, (BITS,), generator=generator) * 2 - 1
        agreeing.append(int((z * word > 0).sum()))
        for _, head, check in own._tried(z) if number % 4 == 0 else ():
            tried += 1
            hits += (zlib.crc32(head.to_bytes(4, "big")) ^ check) & 0xFFF == 0
    # 64 coins: mean 32, variance 16; standard errors over 2,000 crops are 0.09 and 0.5
    assert abs(np.mean(agreeing) - 32) < 0.4
    assert abs(np.var(agreeing) - 16) < 2.5
    # 12 of the 36 bits that have to fit: the same formula as FALSE_ALARM's, often enough to be counted
    assert tried == 500 * 697
    assert hits == pytest.approx(tried / 2**12, rel=0.35)
    assert pytest.approx(697 / 2**36) == FALSE_ALARM
    assert read([]).message is None


def test_three_signs_may_be_wrong_and_not_four():
    def spoken(wrong: int) -> own.Read:
        z = (torch.tensor(codeword(MESSAGE)) * 2.0 - 1) * 5
        z[torch.arange(wrong) * 7] *= -0.1
        reader = Reader()
        reader.sums[(1, 1)] = z
        return reader.result()

    assert [(spoken(k).message, spoken(k).turned) for k in range(4)] == [(MESSAGE, k) for k in range(4)]
    assert spoken(4).message is None


def test_another_version_is_not_read(monkeypatch):
    monkeypatch.setattr(own, "VERSION", 2)
    reader = Reader()
    reader.sums[(1, 1)] = torch.tensor(codeword(MESSAGE)) * 2.0 - 1
    assert reader.result().message == MESSAGE
    monkeypatch.undo()
    assert reader.result().message is None


def test_any_size_is_marked():
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (7, 300), (64, 64), (255, 257), (330, 1080), (96, 2000), (300, 200)]:
        image = np.full((height, width, 3), 128, np.uint8) + rng.integers(0, 20, (height, width, 1), dtype=np.uint8)
        marked = Watermark(MESSAGE).mark(image)
        assert marked.shape == image.shape
        assert marked.dtype == np.uint8
        assert np.abs(marked.astype(int) - image).max() <= 12
        if min(height, width) >= 128:
            assert read([marked]).message == MESSAGE, (height, width)


def test_extremes_are_left_alone():
    for level in (0, 255):
        image = np.full((128, 128, 3), level, np.uint8)
        assert (Watermark(MESSAGE).mark(image) == image).all()
        assert read([image]).message is None
    grey = np.full((128, 128, 3), 140, np.uint8)
    assert read([Watermark(MESSAGE).mark(grey)]).message == MESSAGE
    assert read([grey]).message is None


def test_plain_and_dark_places_are_spared():
    """Where nothing covers the mark it is half as strong; in the dark it is fainter."""

    def change(image: np.ndarray) -> np.ndarray:
        picture = image.astype(np.uint8)[..., None].repeat(3, 2)
        return Watermark(MESSAGE).mark(picture)[..., 0].astype(float) - picture[..., 0]

    noise = 12 * np.random.default_rng(2).standard_normal((128, 128))
    covered = change(140 + noise * (np.arange(128) >= 64))
    assert covered[:, 80:].std() > 1.5 * covered[:, :48].std() > 0
    lit = change(np.where(np.arange(128) >= 64, 120, 20) + 0.3 * noise)
    assert lit[:, 72:].std() > 1.3 * lit[:, :56].std() > 0


def test_tensors_are_marked_in_batches():
    frames = talking(128, 3)
    watermark = Watermark(MESSAGE)
    batch = watermark.mark(torch.from_numpy(np.stack(frames)))
    assert batch.shape == (3, 128, 128, 3)
    for one, frame in zip(batch.numpy(), frames, strict=True):
        assert np.abs(one.astype(int) - watermark.mark(frame)).max() <= 1
    reader = Reader()
    reader.add(batch)
    assert reader.result().message == MESSAGE
    assert reader.result().pictures == 3


@pytest.mark.gpu
def test_a_gpu_marks_as_the_cpu_does():
    frames = torch.from_numpy(np.stack(photograph(512, 2)))
    there = Watermark(MESSAGE).mark(frames.cuda())
    assert there.is_cuda
    assert read(list(there.cpu())).message == MESSAGE
    assert psnr(there.cpu().numpy(), frames.numpy()) >= 42


def test_the_caller_s_picture_stays():
    image = photograph(128, 1)[0].copy()
    image.flags.writeable = False
    before = image.copy()
    Watermark(MESSAGE).mark(image)
    assert (image == before).all()
    mirrored = Watermark(MESSAGE).mark(before[:, ::-1])
    assert read([mirrored]).message == MESSAGE


def test_wrong_inputs_are_refused():
    for message in (-1, 1 << 28):
        with pytest.raises(ValueError, match="message: expected 0 to"):
            Watermark(message)
    for bad in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
            Watermark(1).mark(bad)
    assert message_of("2b7e151f" + "0" * 56) == MESSAGE


def test_marks_of_version_1_stay_readable():
    """A picture that was marked when version 1 was made, and the tables that it was marked with."""
    assert read([read_picture(DATA / "marked.jpg")]).message == MESSAGE
    tables = own._tables(torch.device("cpu"))
    numbers = np.stack([tables.cells.numpy(), tables.signs.numpy().astype(np.int64)])
    assert hashlib.sha256(numbers.tobytes()).hexdigest()[:16] == "19d720ad86d4e145"
    assert f"{int(''.join(map(str, codeword(MESSAGE))), 2):016x}" == "94b35fd4a5802fda"


def test_it_is_fast():
    """A gross slip shows; what it costs stands in docs/provenance."""
    for size, most in ((128, 0.008), (512, 0.03)):
        image, watermark = photograph(size, 1)[0], Watermark(MESSAGE)
        times = []
        for _ in range(8):
            start = time.process_time()
            watermark.mark(image)
            times.append(time.process_time() - start)
        assert min(times) < most * torch.get_num_threads(), size
