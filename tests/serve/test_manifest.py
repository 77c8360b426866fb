"""Manifests: what is signed is read back, what is changed is found, and no file is lost on the way."""

from __future__ import annotations

import os
import re
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.attacks import photograph
from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.picture_file import read_picture, write_picture
from triportrait.serve.media.provenance.certificate import MADE_NAME, config_folder, find_identity
from triportrait.serve.media.provenance.manifest import (
    COMPOSITE,
    GENERATED,
    Claim,
    check_identity,
    media_type,
    read_manifest,
    sign,
)
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.media.provenance.watermark import read
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.writer import VideoWriter

pytest.importorskip("c2pa")
CLAIM = Claim("2b7e151f" + "0" * 56, "demo", {"portrait.safetensors": "ab" * 32}, 0x2B7E151)
KINDS = (".mp4", ".mov", ".png", ".jpg", ".webp")


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch) -> Path:
    """The user's settings, empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("TRIPORTRAIT_CERTIFICATE", raising=False)
    return tmp_path / "settings" / "triportrait"


def written(folder: Path, ending: str) -> Path:
    path = folder / f"out{ending}"
    frames = photograph(128, 3)
    if ending in (".mp4", ".mov", ".mkv"):
        with VideoWriter(path, size_px=(128, 128), fps=25) as video:
            for index, frame in enumerate(frames):
                video.write(frame, index / 25)
    else:
        write_picture(path, frames[0])
    return path


def seen(path: Path) -> np.ndarray:
    if path.suffix in (".mp4", ".mov", ".mkv"):
        return np.stack([frame.image for frame in open_clip(path).frames()])
    return read_picture(path)


@pytest.mark.parametrize("ending", KINDS)
def test_what_is_signed_is_read_back(tmp_path, ending):
    path = written(tmp_path, ending)
    before = seen(path)
    os.chmod(path, 0o640)
    sign(path, CLAIM)
    assert (seen(path) == before).all()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    found = read_manifest(path)
    assert found is not None
    assert not found.altered
    assert not found.problems
    assert found.signer == MADE_NAME
    assert found.generator == "triportrait 0.1.0"
    assert found.kind == GENERATED
    assert found.generation == {
        "synthetic": True, "source_sha256": CLAIM.source_sha256, "weights": "demo",
        "weights_sha256": CLAIM.weights_sha256, "watermark": True, "watermark_message": "2b7e151",
    }  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "settings"])


def test_what_was_left_out_and_what_was_recorded_is_said(tmp_path):
    path = written(tmp_path, ".png")
    sign(path, Claim("0" * 64, "rule", {}, None, composite=True))
    found = read_manifest(path)
    assert found is not None
    assert found.generation is not None
    assert found.kind == COMPOSITE
    assert found.generation["watermark"] is False
    assert found.generation["watermark_message"] is None


@pytest.mark.parametrize("ending", KINDS)
def test_a_changed_byte_is_found(tmp_path, ending):
    path = written(tmp_path, ending)
    plain = path.stat().st_size
    sign(path, CLAIM)
    data = bytearray(path.read_bytes())
    data[-plain // 3] ^= 1
    path.write_bytes(data)
    found = read_manifest(path)
    assert found is not None
    assert found.altered
    assert any("ismatch" in one for one in found.problems)


def test_a_changed_statement_is_found(tmp_path):
    path = written(tmp_path, ".jpg")
    sign(path, CLAIM)
    data = path.read_bytes()
    assert data.count(CLAIM.source_sha256.encode()) == 1
    path.write_bytes(data.replace(CLAIM.source_sha256.encode(), b"1" * 64))
    found = read_manifest(path)
    assert found is not None
    assert found.altered


def test_no_manifest_is_none(tmp_path):
    for ending in (*KINDS, ".mkv"):
        assert read_manifest(written(tmp_path, ending)) is None
    (tmp_path / "text.png").write_text("nothing")
    assert media_type(tmp_path / "text.png") is None
    assert read_manifest(tmp_path / "text.png") is None
    with pytest.raises(InputError, match=r"absent\.png: not readable"):
        read_manifest(tmp_path / "absent.png")


def test_the_kind_is_read_off_the_bytes(tmp_path):
    path = written(tmp_path, ".png").rename(tmp_path / "out.jpg")
    sign(path, CLAIM)
    found = read_manifest(path)
    assert found is not None
    assert not found.altered


def test_a_file_that_cannot_be_signed_stays(tmp_path, monkeypatch):
    path = written(tmp_path, ".mkv")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"out\.mkv: expected a PNG, JPEG, WebP, MP4 or MOV file"):
        sign(path, CLAIM)
    video = written(tmp_path, ".mp4")
    plain = video.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match=r"no manifest could be written \(no space left on device\)"):
        sign(video, CLAIM, find_identity())
    assert path.read_bytes() == before
    assert video.read_bytes() == plain
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mkv", "out.mp4", "settings"]


def test_a_stamp_says_what_a_file_goes_without(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    stamp = Stamp(CLAIM.source_sha256, "demo")
    for ending in (".mkv", ".webm"):
        stamp.sign(tmp_path / f"out{ending}")
        assert caplog.messages[-1] == f"no manifest is written: C2PA knows no {ending} files; .mp4 and .mov carry one"
    path = written(tmp_path, ".mp4")
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    stamp.sign(path)
    assert caplog.records[-1].levelname == "WARNING"
    assert caplog.messages[-1].startswith("no manifest is written: ")
    assert path.read_bytes() == before


def test_without_the_package_only_the_watermark_is_written(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setitem(sys.modules, "c2pa", None)
    stamp = Stamp(CLAIM.source_sha256, "demo")
    assert caplog.messages == ["no manifest is written: c2pa-python is not installed; pip install -e '.[provenance]'"]
    path = written(tmp_path, ".png")
    before = path.read_bytes()
    stamp.sign(path)
    assert path.read_bytes() == before
    assert (stamp.mark(photograph(128, 1)[0]) != photograph(128, 1)[0]).any()
    with pytest.raises(InputError, match=r"expected c2pa-python to sign with"):
        Stamp(CLAIM.source_sha256, "demo", certificate=tmp_path / "mine.pem")
    with pytest.raises(InputError, match="pip install -e '"):
        read_manifest(path)


def test_weights_are_named_by_their_checksums():
    claim = Stamp(CLAIM.source_sha256, "demo").claim
    assert {"motion.safetensors", "portrait.safetensors"} <= set(claim.weights_sha256)
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in claim.weights_sha256.values())
    bare = Stamp("0" * 64, "rule", watermark=False)
    assert claim.message == 0x2B7E151
    assert bare.claim.message is None
    assert not bare.claim.weights_sha256


def test_a_stamp_for_another_source():
    for watermark in (True, False):
        stamp = Stamp("0" * 64, "demo", watermark=watermark)
        other = stamp.for_source(CLAIM.source_sha256)
        assert other.claim.source_sha256 == CLAIM.source_sha256
        assert stamp.claim.source_sha256 == "0" * 64
        assert read([other.mark(photograph(256, 1)[0])]).message == (0x2B7E151 if watermark else None)
        assert other.claim.message == (0x2B7E151 if watermark else None)


class TestCertificates:
    def test_one_is_made_at_first_use_and_kept(self, settings):
        assert not settings.exists()
        first = find_identity()
        path = settings / "signing.pem"
        assert config_folder() == settings
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert find_identity() == first
        assert [p.name for p in settings.iterdir()] == ["signing.pem"]
        check_identity(first)

    def test_of_two_that_are_made_at_once_one_is_kept(self, settings, monkeypatch):
        link = os.link

        def late(part, path):  # another process was faster
            monkeypatch.setattr(os, "link", link)
            find_identity()
            link(part, path)

        monkeypatch.setattr(os, "link", late)
        assert find_identity() == find_identity()
        assert os.link is link
        assert [p.name for p in settings.iterdir()] == ["signing.pem"]

    def test_a_damaged_one_is_told(self, settings):
        find_identity()
        for damage in (b"", b"nothing", (settings / "signing.pem").read_bytes()[:300]):
            (settings / "signing.pem").write_bytes(damage)
            with pytest.raises(InputError, match=r"signing\.pem: .*; remove it, a new one is made"):
                find_identity()

    def test_settings_that_cannot_be_written_are_told(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
        with pytest.raises(
            InputError, match=r"could not be kept .*; make its folder writable, or name your own with --ce"
        ):
            find_identity()

    @pytest.mark.parametrize("kind", ["p256", "p384", "ed25519", "rsa"])
    def test_the_user_s_own_signs(self, tmp_path, kind):
        key, certificate = own(tmp_path, kind)
        identity = find_identity(certificate, key)
        path = written(tmp_path, ".png")
        sign(path, CLAIM, identity)
        found = read_manifest(path)
        assert found is not None
        assert found.signer == "Somebody"
        assert not found.problems

    def test_the_environment_names_it(self, tmp_path, monkeypatch):
        key, certificate = own(tmp_path, "p256")
        both = tmp_path / "both.pem"
        both.write_bytes(key.read_bytes() + certificate.read_bytes())
        monkeypatch.setenv("TRIPORTRAIT_CERTIFICATE", str(both))
        assert find_identity() == find_identity(both)
        assert find_identity().origin == str(both)

    def test_what_is_of_no_use_is_refused(self, tmp_path):
        key, certificate = own(tmp_path, "p256")
        for name in ("other", "locked", "k1"):
            (tmp_path / name).mkdir()
        other, _ = own(tmp_path / "other", "p256")
        locked, _ = own(tmp_path / "locked", "p256", password=b"secret")
        text = tmp_path / "text.pem"
        text.write_text("nothing")
        cases = [
            (None, key, "--key: expected --certificate beside it"),
            (tmp_path / "absent.pem", None, r"absent\.pem: expected a PEM file to sign with, not readable \(no such"),
            (text, key, r"text\.pem: expected certificates in PEM, got none; name another file"),
            (certificate, text, r"text\.pem: expected a private key in PEM, got none; name another file"),
            (certificate, None, r"certificate\.pem: expected a private key in PEM, got none"),
            (certificate, other, "expected the key of the first certificate in"),
            (certificate, locked, "expected a key without a passphrase"),
            (*reversed(own(tmp_path / "k1", "k1")), r"expected a key on P-256, P-384, P-521 or Ed25519, or RSA"),
        ]
        for certificate_path, key_path, said in cases:
            with pytest.raises(InputError, match=said) as caught:
                find_identity(certificate_path, key_path)
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("fault", ["expired", "purpose"])
    def test_what_c2pa_refuses_is_refused_before_the_work(self, tmp_path, fault):
        key, certificate = own(tmp_path, "p256", fault=fault)
        with pytest.raises(InputError, match=r"certificate\.pem: the manifest could not be signed with it \("):
            Stamp(CLAIM.source_sha256, "demo", certificate=certificate, key=key)


def own(folder: Path, kind: str, password: bytes | None = None, fault: str = "") -> tuple[Path, Path]:
    """A key and a certificate as a user may have."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    curves: dict[str, Any] = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "k1": ec.SECP256K1}
    key: Any
    if kind in curves:
        key = ec.generate_private_key(curves[kind]())
    else:
        key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else rsa.generate_private_key(65537, 2048)
    names = [x509.NameAttribute(o, "Somebody") for o in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)]
    now, purpose = datetime.now(UTC), ExtendedKeyUsageOID.EMAIL_PROTECTION
    certificate = (
        x509.CertificateBuilder(x509.Name(names), x509.Name(names), key.public_key(), 7)
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=-1 if fault == "expired" else 9))
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.KeyUsage(True, *[False] * 8), True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH if fault == "purpose" else purpose]), False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
        .sign(key, None if kind == "ed25519" else hashes.SHA256())
    )
    guard = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    paths = folder / "key.pem", folder / "certificate.pem"
    paths[0].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, guard))
    if password is None:
        paths[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return paths
