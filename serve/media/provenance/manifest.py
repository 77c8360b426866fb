"""C2PA manifests: a signed statement inside a file that says what made it, and breaks when the file is changed.

Nothing here uses the network: no time stamp is asked for, no list of trusted issuers and no remote manifest fetched.
"""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.core.files import opened
from triportrait.core.optional_packages import fault, install
from triportrait.core.safe_text import shown
from triportrait.serve.media.provenance.certificate import Identity, find_identity

NAME = "triportrait"
LABEL = "triportrait.generation"  # our own assertion
INSTALL = install("provenance")
_SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED, COMPOSITE = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
_LARGEST_JSON = 4 << 20  # characters of a manifest as text; one of ours has 5,000
_SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "core": {"allowed_network_hosts": []},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
# What the library says of a file that is not what was signed.
_ALTERED = ("mismatch", "claim.missing", "assertion.missing", "malformed")


@dataclass(frozen=True)
class Claim:
    """What a manifest says of a generated file.

    Attributes:
        source_sha256: of the portrait's file, in hexadecimal.
        weights: what they are called. weights_sha256: of each safetensors file by name, none for weights by a rule.
        message: the watermark's 28 bits; None where there is no watermark.
        composite: the generated picture was put into a recorded one.
        person_sha256: of the file by which the weights were refined for one person; None where none was.
    """

    source_sha256: str
    weights: str
    weights_sha256: dict[str, str]
    message: int | None
    composite: bool = False
    person_sha256: str | None = None


@dataclass(frozen=True)
class Manifest:
    """What a file's manifest is worth and says.

    Attributes:
        altered: the file, or the manifest, is not what was signed.
        problems: what else is wrong with it, in the library's words.
        signer: the name in the certificate, which nobody vouches for.
        generator: what made the manifest. kind: the IPTC word for how the picture came to be, if it says.
        generation: our own assertion, where there is one.
    """

    altered: bool
    problems: tuple[str, ...]
    signer: str
    generator: str
    kind: str
    generation: dict[str, Any] | None


def installed() -> bool:
    """Whether manifests can be written and read here."""
    return why_not() is None


def why_not() -> str | None:
    """Why no manifests can be written or read here, such as `c2pa-python is not installed`; None where they can."""
    for module, package in (("c2pa", "c2pa-python"), ("cryptography", "cryptography")):
        if (why := fault(module)) is not None:
            return f"{package} {why}"
    return None


def media_type(path: Path) -> str | None:
    """What a file is by its first bytes, if it is a kind that carries manifests: PNG, JPEG, WebP, MP4, MOV.

    Raises: `OSError` for what cannot be read.
    """
    with opened(path) as file:
        start = file.read(12)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if start.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "image/webp"
    if start[4:8] == b"ftyp":
        return "video/quicktime" if start[8:] == b"qt  " else "video/mp4"
    return None


def sign(path: Path, claim: Claim, identity: Identity | None = None) -> None:
    """Write a manifest into a finished file, in place: the signed file takes the place of the other at once.

    Args:
        identity: who signs; None takes `find_identity()`.

    Raises:
        InputError: the file is no PNG, JPEG, WebP, MP4 or MOV, the library refuses to sign, or the disk to take it;
            the file then is as it was.
    """
    identity = identity or find_identity()
    try:
        kind = media_type(path)
        if kind is None:
            raise InputError(f"{path}: expected a PNG, JPEG, WebP, MP4 or MOV file, C2PA knows no other; choose one")
        with replacing(path) as part:
            with path.open("rb") as plain, part.open("wb+") as signed:
                _write(plain, signed, kind, claim, identity)
            shutil.copymode(path, part)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{path}: no manifest could be written ({reason}); free some space") from error


def check_identity(identity: Identity) -> None:
    """Sign a picture of one pixel, so that a certificate that is of no use is refused before minutes of work.

    Raises:
        InputError: the library refuses it.
    """
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = (1).to_bytes(4, "big") * 2 + bytes((8, 0, 0, 0, 0))
    pixel = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    plain = io.BytesIO(b"\x89PNG\r\n\x1a\n" + pixel)
    _write(plain, io.BytesIO(), "image/png", Claim("0" * 64, "", {}, None), identity)


def _write(plain: Any, signed: Any, kind: str, claim: Claim, identity: Identity) -> None:
    import c2pa

    info = c2pa.C2paSignerInfo(identity.algorithm.encode(), identity.certificates, identity.key, None)
    try:
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Builder(_definition(claim), context=context) as builder,
        ):
            builder.sign(signer, kind, plain, signed)
    except c2pa.C2paError as error:
        said = _said(error)
        raise InputError(
            f"{identity.origin}: the manifest could not be signed with it ({said}); C2PA wants a certificate of an end "
            "entity for digital signatures"
        ) from error


def _said(error: Exception) -> str:
    """What the library says, on one line."""
    return shown(" ".join(str(error).split())) or type(error).__name__


def _definition(claim: Claim) -> dict[str, Any]:
    from triportrait import __version__

    agent = {"name": NAME, "version": __version__}
    kind = _SOURCES + (COMPOSITE if claim.composite else GENERATED)
    action = {"action": "c2pa.created", "digitalSourceType": kind, "softwareAgent": agent}
    generation = {
        "synthetic": True,
        "source_sha256": claim.source_sha256,
        "weights": claim.weights,
        "weights_sha256": claim.weights_sha256,
        **({} if claim.person_sha256 is None else {"person_sha256": claim.person_sha256}),
        "watermark": claim.message is not None,
        "watermark_message": None if claim.message is None else f"{claim.message:07x}",
    }
    return {
        "claim_generator_info": [agent],
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [action]}},
            {"label": LABEL, "data": generation},
        ],
    }


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of a file, checked against the file's bytes; None where there is none.

    Raises:
        InputError: c2pa-python is not installed, or the file cannot be read.
    """
    if not installed():
        raise InputError(f"manifest: expected c2pa-python to read it with, {why_not()}; {INSTALL}")
    import c2pa

    try:
        kind = media_type(path)
        if kind is None:
            return None
        with (
            opened(path) as file,
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Reader(kind, file, context=context) as reader,
        ):
            told = reader.json()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{path}: not readable ({reason}); check the path") from error
    except c2pa.C2paError.ManifestNotFound:
        return None
    except InputError:
        raise
    except (c2pa.C2paError, ValueError) as error:
        said = _said(error)
        return Manifest(True, (said,), "", "", "", None)
    if len(told) > _LARGEST_JSON:
        problem = f"it has {len(told):,} characters, {_LARGEST_JSON:,} at most are read"
        return Manifest(True, (problem,), "", "", "", None)
    try:
        return _summary(json.loads(told))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError):
        return Manifest(True, ("it is of another form than manifests have",), "", "", "", None)


def _summary(found: dict[str, Any]) -> Manifest:
    active = found.get("manifests", {}).get(found.get("active_manifest"), {})
    results = found.get("validation_results", {}).get("activeManifest", {})
    failures = [one.get("code", "") for one in results.get("failure", [])]
    problems = tuple(dict.fromkeys(code for code in failures if code != "signingCredential.untrusted"))
    signature = active.get("signature_info", {})
    agents = active.get("claim_generator_info") or [{}]
    assertions = active.get("assertions", [])
    actions = [
        action
        for one in assertions if one.get("label", "").startswith("c2pa.actions")
        for action in one.get("data", {}).get("actions", [])
    ]  # fmt: skip
    kinds = [action.get("digitalSourceType", "") for action in actions]
    generation = next((one.get("data") for one in assertions if one.get("label") == LABEL), None)
    return Manifest(
        altered=any(word in code for code in problems for word in _ALTERED) or not active,
        problems=problems,
        signer=signature.get("common_name") or signature.get("issuer") or "",
        generator=" ".join(str(agents[0].get(word, "")) for word in ("name", "version")).strip(),
        kind=next((kind.rsplit("/", 1)[-1] for kind in kinds if kind), ""),
        generation=generation if isinstance(generation, dict) else None,
    )
