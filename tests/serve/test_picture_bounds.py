"""Pictures that would cost minutes are refused in milliseconds by every door, and those that people have are read."""

from __future__ import annotations

import io
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.serve import bombs
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.serve.live import uploads
from triportrait.serve.live.inference import decode_jpeg
from triportrait.serve.media.pictures.decoding_cost import PASSES, check_work, jpeg_work
from triportrait.serve.media.pictures.picture_file import LARGEST_PICTURE_PX, decode_picture, read_picture

MANY = bombs.scans(2000)
ODD = {
    "2,000 scans": MANY,
    "1,500 scans": bombs.scans(1500),
    "3,500 scans": bombs.scans(3500),
    "of 4000 x 4000": bombs.scans(3000, (4000, 4000)),
    "small": bombs.scans(90_000, (64, 64)),
    "filled": bombs.scans(2000, before=b"\xff" * 9),
    "with zeros and restarts": bombs.scans(2000, before=b"\0\0\xff\0\xff\xd3"),
    "behind comments": bombs.scans(2000, before=bombs.segment(0xFE, b"\xff\xd9\xff\xd9")),
    "behind line numbers": bombs.scans(2000, before=bombs.segment(0xDC, b"\x08\x70")),
    "behind starts": bombs.scans(2000, before=b"\xff\xd8"),
    "behind markers that are none": bombs.scans(2000, before=b"\xff\x02"),
    "without an end": bombs.scans(2000, end=b""),
    "broken off": MANY[:-9],
    "in a TIFF": bombs.jpeg_in_tiff(MANY, (4000, 2160)),
    "in a TIFF of Motorola's order": bombs.jpeg_in_tiff(MANY, (4000, 2160), ">"),
    "in a TIFF of the old kind": bombs.jpeg_in_tiff(MANY, (4000, 2160), compression=6),
    "of many segments": bombs.jpeg()[:2] + bombs.segment(0xFE, b"") * 300_000 + bombs.jpeg()[2:],
    "of many tables": bombs.jpeg()[:2] + bombs.segment(0xDB, b"\0" + b"\1" * 64) * 30_000 + bombs.jpeg()[2:],
    "of many EXIF": bombs.jpeg()[:2] + bombs.segment(0xE1, b"Exif\0\0x") * 100 + bombs.jpeg()[2:],
    "of an end before its scans": bombs.jpeg()[:2] + b"\xff\xd9" + b"\xff\xe0\0\2" * 450_000 + bombs.jpeg()[2:],
    "behind a segment without length": bombs.jpeg()[:2]
    + bombs.segment(0xF0, b"\xff\xe0\0\2" * 16_000) * 28
    + bombs.jpeg()[2:],
    "behind an extension": bombs.jpeg()[:2]
    + bombs.segment(0xC8, b"\xff\xe1\0\x0aExif\0\0x\0" * 5_000) * 28
    + bombs.jpeg()[2:],
    "a TIFF of tiles far beyond its picture": bombs.tiles((384, 384), (16, 1_200_000)),
    "a PNG of 500 profiles": bombs.png(bombs.chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 20))) * 500),
    "a PNG of many chunks": bombs.png(bombs.chunk(b"abCd", b"") * 300_000),
    "a PNG of many texts": bombs.png(bombs.chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 19))) * 2000),
    "a PNG in crumbs": bombs.png(pixels=bombs.chunk(b"IDAT", b"") * 300_000),
    "a TIFF of the same strip again": bombs.strips(20_000, (2000, 2000)),
    "a TIFF whose tags share their values": bombs.tiff(
        {**{tag: [0] * 20_000 for tag in range(40_000, 40_100)}, 256: [64], 257: [64], 273: [8], 278: [64]}, bytes(4096)
    )[:100_000],
    "a GIF of many blocks": bombs.gif(b"!\xfe" + b"\1x" * 300_000 + b"\0"),
    "a GIF of many pictures": bombs.gif(b",\0\0\0\0\1\0\1\0\0\2\2L\1\0" * 30_000),
    "a TIFF of pages that go round": bombs.round_tiff(),
    "a PNG of many frames": bombs.png(bombs.chunk(b"fcTL", bytes(26)) * 30_000),
    "a GIF of many comments": bombs.gif(b"!\xfe\1x\0" * 300_000),
    "a BMP in runs": bombs.bmp((7000, 7000), b"\1\0\0\0" * 7000),
    "a PPM in words": b"P3 7000 7000 255\n" + b"0 " * 1000,
    "a PPM of an odd depth": b"P6 # with a comment\n7000 7000 254\n" + bytes(1000),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_what_would_take_long_is_refused_at_once_by_every_door(what, tmp_path):
    data = ODD[what]
    (tmp_path / "a.jpg").write_bytes(data)
    for door in (
        uploads.decode,
        decode_jpeg,
        lambda d: decode_picture(d, "a"),
        lambda d: read_picture(tmp_path / "a.jpg"),
    ):
        began = time.process_time()
        with pytest.raises(InputError, match=r"^\S.*(wanted|go over|cannot be read|can be read).*; \w+ [^\n]+$"):
            door(data)
        assert time.process_time() - began < 0.1


def test_commands_share_the_bound(tmp_path, capsys):
    (tmp_path / "scan.jpg").write_bytes(bombs.scans(400))
    for words in (["verify", str(tmp_path / "scan.jpg")],
                  ["reenact", str(tmp_path / "scan.jpg"), str(tmp_path / "scan.jpg"), str(tmp_path / "out.mp4"),
                   "--weights", "demo"]):  # fmt: skip
        assert cli.main(words) == 2
        assert "at most 100 scans is wanted, more came" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("how", [{"progressive": True}, {}, {"restart_marker_rows": 1}, {"keep_rgb": True}])
def test_what_cameras_and_editors_write_is_counted_right_and_read(how):
    noise = (
        np.random.default_rng(3).integers(0, 256, (300, 400, 1), np.uint8).repeat(3, 2)
    )  # its coefficients hold stuffed zeros
    out = io.BytesIO()
    comment = b"\xff\xda\0\x08" * 4000  # looks like scans, and is none
    Image.fromarray(noise).save(out, "JPEG", quality=95, comment=comment, **how)
    progressive = "progressive" in how
    work = jpeg_work("a", out.getvalue())
    assert (work.scans, work.pixels, work.baseline) == (10 if progressive else 1, 120_000, not progressive)
    assert np.abs(decode_picture(out.getvalue(), "a").astype(int) - noise).mean() < 20


def test_a_hundred_megapixels_in_twenty_scans_are_taken():
    """By the numbers of its header: decoding it takes seconds."""
    data = bytearray(bombs.scans(10, (640, 640)))
    at = data.index(b"\xff\xc2") + 5
    data[at : at + 4] = (10_000).to_bytes(2, "big") * 2
    assert (jpeg_work("a", bytes(data)).scans, PASSES * LARGEST_PICTURE_PX) == (20, 20 * 100_000_000)
    check_work("a", bytes(data), LARGEST_PICTURE_PX)
    with pytest.raises(InputError, match="may go over 1000 megapixels in all, these go over 2000"):
        check_work("a", bytes(data), uploads.LARGEST_PX)


@pytest.mark.parametrize(
    "kind, how",
    [
        ("TIFF", {"compression": "jpeg"}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"big_tiff": True}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}), ("TIFF", {}), ("PNG", {}), ("GIF", {}), ("BMP", {}),
        ("WEBP", {"lossless": True}), ("WEBP", {}), ("PPM", {}),
    ],
)  # fmt: skip
def test_other_kinds_are_read_as_before(kind, how):
    out = io.BytesIO()
    picture = Image.fromarray(np.random.default_rng(5).integers(0, 256, (700, 900, 3), np.uint8))
    picture.save(out, kind, **how)
    assert decode_picture(out.getvalue(), "a").shape == (700, 900, 3)


def test_animations_and_pages_are_read():
    """The first of them is taken."""
    pictures = [Image.new("RGB", (80, 90), (i, 0, 0)) for i in range(60)]
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        out = io.BytesIO()
        pictures[0].save(out, kind, save_all=True, append_images=pictures[1:])
        assert decode_picture(out.getvalue(), "a").shape == (90, 80, 3)


def test_a_tiff_of_motorola_s_order_with_a_jpeg_in_it_is_read():
    inner = bombs.jpeg((320, 240))
    for order in "<>":
        assert decode_picture(bombs.jpeg_in_tiff(inner, (320, 240), order), "a").shape == (240, 320, 3)


@pytest.mark.parametrize("head", [b"VP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\0" * 2, b"VP8L\x0a\0\0\0\x2f\xff\xff\xff\xff"])
def test_a_canvas_that_is_too_large_is_refused_before_room_is_made(head):
    with pytest.raises(InputError, match="at most 50 megapixels are wanted"):
        uploads.decode(b"RIFF\xff\0\0\0WEBP" + head + bytes(40))
