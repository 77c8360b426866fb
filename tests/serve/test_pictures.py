"""Pictures of every kind come in as upright 8-bit sRGB; what is none is refused in one sentence."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.serve.bombs import chunk
from tests.serve.making import as_a_stranger
from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.file_type import kind_of
from triportrait.serve.media.pictures.picture_file import check_picture, read_picture, write_picture
from triportrait.serve.media.pictures.picture_folder import list_pictures

H, W = 70, 96


def _scene() -> np.ndarray:
    """Four flat quarters, all different, so that any turn or mirror shows; uint8 [H, W, 3]."""
    image = np.zeros((H, W, 3), np.uint8)
    image[: H // 2, : W // 2] = (200, 40, 30)
    image[: H // 2, W // 2 :] = (20, 180, 60)
    image[H // 2 :, : W // 2] = (40, 50, 210)
    image[H // 2 :, W // 2 :] = (230, 220, 120)
    return image


def _corners(image: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in image[y, x]) for y in (8, -9) for x in (8, -9)]


def _sentence(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_picture(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert ";" in message
    return message


def _png(path: Path, width: int, height: int, bits: int, colour: int, rows: bytes) -> None:
    """Write a PNG by hand: Pillow writes no 16-bit RGB."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp", "jpg", "gif", "ppm"])
def test_every_format_gives_its_pixels(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    options = {"lossless": True} if ending == "webp" else {"quality": 98} if ending == "jpg" else {}
    Image.fromarray(_scene()).save(path, **options)
    image = read_picture(path)
    assert image.dtype == np.uint8
    assert image.shape == (H, W, 3)
    assert image.flags.c_contiguous
    assert np.abs(np.subtract(_corners(image), _corners(_scene()))).max() <= (3 if ending in ("jpg", "gif") else 0)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    grey = mode in ("L", "1", "LA")
    scene = np.where(_scene().mean(2, keepdims=True) > 100, 255, 0).astype(np.uint8).repeat(3, 2) if grey else _scene()
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    whole = Image.fromarray(scene)
    (whole.quantize(8) if mode == "P" else whole.convert(mode)).save(path)
    assert np.abs(np.subtract(_corners(read_picture(path)), _corners(scene))).max() <= 1


@pytest.mark.parametrize("kind", ["grey png", "rgb png", "grey tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, kind: str) -> None:
    ramp = np.linspace(0, 65535, W).round().astype(">u2")
    path = tmp_path / ("a.tif" if kind == "grey tif" else "a.png")
    if kind == "rgb png":
        rows = b"".join(b"\0" + ramp.repeat(3).tobytes() for _ in range(H))
        _png(path, W, H, 16, 2, rows)
    elif kind == "grey png":
        _png(path, W, H, 16, 0, b"".join(b"\0" + ramp.tobytes() for _ in range(H)))
    else:
        Image.fromarray(np.tile(ramp.astype("<u2"), (H, 1))).save(path)
    wanted = np.linspace(0, 255, W)[:, None]
    assert np.abs(read_picture(path)[3].astype(float) - wanted).max() <= 1


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = np.zeros((H, W, 4), np.uint8)
    image[..., 0] = 200
    image[: H // 2, :, 3] = 255
    image[H // 2 :, : W // 2, 3] = 128
    Image.fromarray(image).save(tmp_path / "a.png")
    seen = read_picture(tmp_path / "a.png")
    assert tuple(seen[0, 0]) == (200, 0, 0)
    assert tuple(seen[-1, -1]) == (255, 255, 255)
    assert np.abs(seen[-1, 0].astype(int) - (227, 127, 127)).max() <= 1

    palette = Image.new("P", (W, H), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.save(tmp_path / "p.png", transparency=1)
    assert tuple(read_picture(tmp_path / "p.png")[0, 0]) == (255, 255, 255)


def test_cmyk_jpeg_of_adobe_is_not_negative(tmp_path: Path) -> None:
    Image.fromarray(_scene()).convert("CMYK").save(tmp_path / "a.jpg", quality=98)
    # Pillow writes the Adobe marker and inverts, as Photoshop does.
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    assert np.abs(np.subtract(_corners(read_picture(tmp_path / "a.jpg")), _corners(_scene()))).max() <= 6


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, ending: str, orientation: int) -> None:
    # How the stored picture must be turned so that the reader's turn makes it upright again.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](_scene())
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=98)
    image = read_picture(path)
    assert image.shape == (H, W, 3)
    assert np.abs(np.subtract(_corners(image), _corners(_scene()))).max() <= 12


def test_colour_profile_is_followed_and_a_broken_one_ignored(tmp_path: Path) -> None:
    grey = Image.new("RGB", (W, H), (120, 120, 120))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("srgb", srgb), ("broken", b"not a profile"), ("unfitting", lab)):
        grey.save(tmp_path / f"{name}.png", icc_profile=profile)
        assert tuple(read_picture(tmp_path / f"{name}.png")[0, 0]) == (120, 120, 120), name
    grey.save(tmp_path / "linear.png", icc_profile=_linear_profile(srgb))
    # Linear light 120/255 is 0.708 in sRGB: 180.
    assert abs(int(read_picture(tmp_path / "linear.png")[0, 0, 0]) - 180) <= 2


def _linear_profile(srgb: bytes) -> bytes:
    """Make linear light out of sRGB: every tone curve becomes the identity `curv`, the name another."""
    data = bytearray(srgb)
    for i in range(struct.unpack(">I", data[128:132])[0]):
        tag, offset, size = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + size] = (b"curv" + bytes(8)).ljust(size, b"\0")
        elif tag == b"desc":
            data[offset : offset + size] = data[offset : offset + size].replace(b"\0s\0R\0G\0B", b"\0l\0i\0n\0r")
    return bytes(data)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert tuple(read_picture(tmp_path / "a.gif")[0, 0]) == (255, 0, 0)


def test_refusals(tmp_path: Path) -> None:
    assert "no such file" in _sentence(tmp_path / "missing.png")
    assert "folder" in _sentence(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "empty" in _sentence(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no picture at all")
    assert "not a picture" in _sentence(tmp_path / "text.png")
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    assert "HEIC" in _sentence(tmp_path / "a.heic")
    Image.new("RGB", (63, 400)).save(tmp_path / "small.png")
    assert "63 × 400" in _sentence(tmp_path / "small.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "enough.png")
    assert read_picture(tmp_path / "enough.png").shape == (64, 64, 3)
    Image.new("F", (W, H)).save(tmp_path / "float.tif")
    assert "floating" in _sentence(tmp_path / "float.tif")
    Image.fromarray(np.full((H, W), 1 << 20, np.int32)).save(tmp_path / "deep.tif")
    assert "32" in _sentence(tmp_path / "deep.tif")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("width", [10_100, 10_500, 20_000])
def test_huge_picture_is_refused_from_its_header(tmp_path: Path, width: int) -> None:
    # The rows are missing: had anything been decoded, the sentence would be about damage.
    _png(tmp_path / "huge.png", width, 10_000, 8, 2, b"")
    assert f"100 megapixels are wanted, {width} × 10000 px came" in _sentence(tmp_path / "huge.png")


@pytest.mark.filterwarnings("error")
def test_large_pictures_are_taken_without_a_word_of_pillow_s(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    _png(tmp_path / "large.png", 9_900, 10_000, 8, 2, b"")
    assert check_picture(tmp_path / "large.png") == (9_900, 10_000)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert limit is not None
    assert limit < 99_000_000


def test_still_pictures_in_a_video_container_are_told_by_their_brand(tmp_path: Path) -> None:
    for name, brands, kind in (
        ("a.heic", b"heic\0\0\0\0mif1heic", "HEIC"),
        ("a.avif", b"avif\0\0\0\0avifmif1", "AVIF"),
        ("b.avif", b"mif1\0\0\0\0mif1avif", "AVIF"),
        ("s.avif", b"avis\0\0\0\0avisavif", "AVIF"),
        ("a.png", b"mif1\0\0\0\0mif1heic", "HEIC"),
        ("a.mp4", b"isom\0\0\0\0isomavc1", None),
    ):
        (tmp_path / name).write_bytes((8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(99))
        assert kind_of(tmp_path / name) == kind
        if kind is not None:
            refused = "HEIC pictures cannot be read; save it as PNG or JPEG (an iPhone takes JPEG by itself"
            assert (refused if kind == "HEIC" else "not a picture that can be read") in _sentence(tmp_path / name)
    assert kind_of(tmp_path / "missing") is None


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_truncated_picture_is_damaged_not_half_grey(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (H, W, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format={"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending))
    (tmp_path / f"a.{ending}").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    message = _sentence(tmp_path / f"a.{ending}")
    assert "damaged" in message or "not a picture" in message


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_never_escapes_as_a_traceback(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(_scene()).save(buffer, format=kind)
        for _ in range(40):
            data = bytearray(buffer.getvalue())
            for at in rng.integers(0, min(len(data), 400), 6):
                data[at] = rng.integers(256)
            (tmp_path / "a").write_bytes(data)
            with suppress(InputError):
                assert read_picture(tmp_path / "a").shape[2] == 3


def test_unreadable() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "a.png"
        Image.fromarray(_scene()).save(path)
        with as_a_stranger():
            assert read_picture(path).shape == _scene().shape
        path.chmod(0)
        with as_a_stranger():
            assert "permission" in _sentence(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "webp", "PNG"])
def test_written_pictures_read_back(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    write_picture(path, _scene())
    assert np.abs(np.subtract(_corners(read_picture(path)), _corners(_scene()))).max() <= (0 if "n" in ending else 6)
    assert os.listdir(tmp_path) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_write_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.png \.jpg"):
        write_picture(tmp_path / "a.bmp", _scene())
    with pytest.raises(InputError, match="could not be written"):
        write_picture(tmp_path / "missing" / "a.png", _scene())
    with pytest.raises(ValueError, match="uint8"):
        write_picture(tmp_path / "a.png", _scene().astype(np.float32))


def test_failed_write_keeps_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_picture(path, _scene())
    before = path.read_bytes()

    def full(self: Image.Image, file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError, match=r"no space left on device\); free some space"):
        write_picture(path, _scene()[::-1], overwrite=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    write_picture(tmp_path / "link.png", _scene())
    assert (tmp_path / "link.png").is_symlink()
    assert read_picture(tmp_path / "real.png").shape == (H, W, 3)


def test_list_pictures_counts_like_people(tmp_path: Path) -> None:
    names = ["frame10.png", "frame2.PNG", "Frame1.jpg", "frame2b.png", "a.webp", "notes.txt", ".hidden.png", "12.png"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = [p.name for p in list_pictures(tmp_path)]
    assert found == ["12.png", "a.webp", "Frame1.jpg", "frame2.PNG", "frame2b.png", "frame10.png"]


def test_list_pictures_refuses(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    for folder, words in ((tmp_path, "no picture"), (tmp_path / "no", "no such"), (tmp_path / "a.txt", "not a dir")):
        with pytest.raises(InputError, match=words):
            list_pictures(folder)
    (tmp_path / "1.png").touch()
    (tmp_path / "2.png").symlink_to(tmp_path / "1.png")
    assert len(list_pictures(tmp_path)) == 2
    (tmp_path / "3.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"3.png: this link leads nowhere"):
        list_pictures(tmp_path)
